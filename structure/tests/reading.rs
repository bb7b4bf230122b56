//! Tests of the reader of the source, on small crates.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use meshsync_structure::{Modules, cycles, imports};

/// Writes a crate of these files and returns its imports as `from -> to`.
fn read(files: &[(&str, &str)]) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, text)?;
    }
    let modules = Modules::read(&folder.path().join("lib.rs"))?;
    let edges: BTreeSet<String> = imports(&modules).iter().map(|i| format!("{} -> {}", i.from, i.to)).collect();
    Ok(edges.into_iter().collect())
}

#[test]
fn uses_and_paths_in_code_are_imports() {
    let found = read(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; fn f() -> super::c::C { super::c::C }"),
        ("b.rs", "pub struct B;"),
        ("c.rs", "pub struct C; impl C { fn f(&self) { crate::b::g::<i32>() } }"),
    ])
    .unwrap();
    assert_eq!(found, ["a -> b", "a -> c", "c -> b"]);
}

#[test]
fn reexport_resolves_to_the_module_that_defines_the_item() {
    let found = read(&[
        ("lib.rs", "mod inner; mod user;"),
        ("inner/mod.rs", "mod one; mod two; pub use one::One; pub use two::Two as Second; pub struct Own;"),
        ("inner/one.rs", "pub struct One;"),
        ("inner/two.rs", "use super::One; pub struct Two;"),
        ("user.rs", "use crate::inner::{One, Own, Second};"),
    ])
    .unwrap();
    assert_eq!(found, ["inner::two -> inner::one", "user -> inner", "user -> inner::one", "user -> inner::two"]);
}

#[test]
fn parent_that_calls_its_child_imports_it() {
    let found = read(&[
        ("lib.rs", "mod parent;"),
        ("parent.rs", "mod child; pub struct P; fn f() { child::g() }"),
        ("parent/child.rs", "use super::P; pub fn g() {}"),
    ])
    .unwrap();
    assert_eq!(found, ["parent -> parent::child", "parent::child -> parent"]);
}

#[test]
fn paths_in_macro_calls_count() {
    let found = read(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "fn f() { println!(\"{} {}\", 1, [crate::b::g()].len()) }"),
        ("b.rs", "pub fn g() {}"),
    ])
    .unwrap();
    assert_eq!(found, ["a -> b"]);
}

#[test]
fn imports_of_tests_do_not_count() {
    let found = read(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "#[cfg(test)] use crate::b::B; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("b.rs", "pub struct B; #[cfg(test)] mod tests;"),
        ("b/tests.rs", "use crate::a;"),
    ])
    .unwrap();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn module_without_a_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lib.rs"), "mod missing;").unwrap();
    let error = Modules::read(&folder.path().join("lib.rs")).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn direct_and_indirect_cycles_are_found() {
    let edges = BTreeSet::from([(1, 2), (2, 3), (3, 1), (3, 4), (4, 5), (6, 7), (7, 6), (8, 8)]);
    assert_eq!(cycles(&edges), [BTreeSet::from([1, 2, 3]), BTreeSet::from([6, 7])]);
}
