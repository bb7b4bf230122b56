//! Files and functions stay short.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// Most lines of a file, tests included.
const FILE: usize = 400;
/// Most lines of a function, from its signature to its last brace.
const FUNCTION: usize = 50;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found)?;
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn all() -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut found)?;
    assert!(found.len() > 100, "the workspace was not found");
    found.into_iter().map(|path| Ok((path.clone(), fs::read_to_string(path)?))).collect()
}

#[test]
fn no_file_is_long() -> Result<()> {
    let long: Vec<String> = all()?
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE)
        .map(|(path, lines)| format!("\n  {}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "files of more than {FILE} lines:{}", long.concat());
    Ok(())
}

#[test]
fn no_function_is_long() -> Result<()> {
    let mut long = Vec::new();
    for (path, text) in all()? {
        let mut functions = Functions { longest: Vec::new() };
        functions.visit_file(&syn::parse_file(&text)?);
        let named =
            functions.longest.into_iter().map(|(name, lines)| format!("\n  {}: {name}: {lines}", path.display()));
        long.extend(named);
    }
    assert!(long.is_empty(), "functions of more than {FUNCTION} lines:{}", long.concat());
    Ok(())
}

struct Functions {
    longest: Vec<(String, usize)>,
}

impl Functions {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > FUNCTION {
            self.longest.push((signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}
