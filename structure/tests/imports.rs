//! Modules of every crate import one way: no circles among files, none among the modules of a folder, none uphill.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use meshsync_structure::{Import, ModulePath, Modules, cycles, imports};

/// The crates that are checked.
const CRATES: [&str; 6] = ["agent", "crds", "e2e", "operator", "runtime", "structure"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(krate: &str) -> Result<(Modules, BTreeSet<Import>)> {
    let modules = Modules::read(&workspace().join(krate).join("src/lib.rs"))?;
    let imports = imports(&modules);
    assert!(modules.0.len() > 1 && !imports.is_empty(), "{krate} was not read");
    Ok((modules, imports))
}

fn listed<'a>(imports: impl Iterator<Item = &'a Import>) -> String {
    imports.map(|i| format!("\n  {} imports {}: {}:{}", i.from, i.item, i.file.display(), i.line)).collect()
}

#[test]
fn files_do_not_import_each_other() -> Result<()> {
    let mut circles = Vec::new();
    for krate in CRATES {
        let (_, imports) = read(krate)?;
        let edges = imports.iter().map(|import| (import.from.clone(), import.to.clone())).collect();
        for cycle in cycles(&edges) {
            let inside = imports.iter().filter(|import| cycle.contains(&import.from) && cycle.contains(&import.to));
            circles.push(format!("{krate}: files import each other:{}", listed(inside)));
        }
    }
    ensure!(circles.is_empty(), "{}", circles.join("\n"));
    Ok(())
}

#[test]
fn modules_of_a_folder_do_not_import_each_other() -> Result<()> {
    let mut circles = Vec::new();
    for krate in CRATES {
        let (modules, imports) = read(krate)?;
        let folders: BTreeSet<ModulePath> = modules.0.keys().filter_map(ModulePath::parent).collect();
        for folder in folders {
            let depth = folder.0.len() + 1;
            let between = |import: &&Import| {
                import.from.0.len() >= depth
                    && import.to.0.len() >= depth
                    && import.from.is_within(&folder)
                    && import.to.is_within(&folder)
                    && import.from.ancestor(depth) != import.to.ancestor(depth)
            };
            let ends = |import: &Import| (import.from.ancestor(depth), import.to.ancestor(depth));
            let edges = imports.iter().filter(between).map(ends).collect();
            for cycle in cycles(&edges) {
                let inside = imports.iter().filter(between).filter(|import| {
                    let (from, to) = ends(import);
                    cycle.contains(&from) && cycle.contains(&to)
                });
                circles.push(format!("{krate}: modules in {folder} import each other:{}", listed(inside)));
            }
        }
    }
    ensure!(circles.is_empty(), "{}", circles.join("\n"));
    Ok(())
}
