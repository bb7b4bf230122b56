//! The modules of a crate and what each of them refers to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::module_path::ModulePath;
use crate::paths::{self, Reference};

/// One module of a crate.
#[derive(Debug)]
pub struct Module {
    /// The file that holds the module.
    pub file: PathBuf,
    /// Names that `use` brings into the module, with the absolute path that each stands for. A glob has the name `*`.
    pub(crate) names: Vec<(String, ModulePath)>,
    /// What the module's own code refers to. Re-exports (`pub use`) are no reference: they forward a name.
    pub(crate) references: Vec<Reference>,
}

/// All modules of a crate.
#[derive(Debug, Default)]
pub struct Modules(pub BTreeMap<ModulePath, Module>);

impl Modules {
    /// Parses a crate, beginning with its root file (`src/lib.rs`) and following `mod` declarations.
    ///
    /// # Errors
    ///
    /// A file cannot be read or parsed, or a declared module has no file.
    pub fn read(root_file: &Path) -> Result<Self> {
        let mut modules = Self::default();
        let folder = root_file.parent().context("the root file has no folder")?;
        modules.read_file(ModulePath::default(), root_file, folder)?;
        Ok(modules)
    }

    /// Reads `file` as the module `path`; files of its children lie in `folder`.
    fn read_file(&mut self, path: ModulePath, file: &Path, folder: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.add(path, &parsed.items, file, folder)
    }

    fn add(&mut self, path: ModulePath, items: &[syn::Item], file: &Path, folder: &Path) -> Result<()> {
        let children: Vec<&syn::ItemMod> = paths::product_code(items).filter_map(paths::as_module).collect();
        let child_names: Vec<String> = children.iter().map(|child| child.ident.to_string()).collect();
        let found = paths::collect(&path, items, &child_names);
        self.0.insert(path.clone(), Module { file: file.to_owned(), names: found.names, references: found.references });
        for child in children {
            let name = child.ident.to_string();
            let below = folder.join(&name);
            match &child.content {
                Some((_, items)) => self.add(path.child(&name), items, file, &below)?,
                None => self.read_file(path.child(&name), &file_of(folder, &name)?, &below)?,
            }
        }
        Ok(())
    }

    /// The longest prefix of `path` that is a module, and the name that follows it.
    pub(crate) fn locate<'a>(&self, path: &'a ModulePath) -> (ModulePath, Option<&'a String>) {
        let depth = (0..=path.0.len()).rev().find(|depth| self.0.contains_key(&path.ancestor(*depth))).unwrap_or(0);
        (path.ancestor(depth), path.0.get(depth))
    }
}

/// The file of the module `name` whose parent's children lie in `folder`.
fn file_of(folder: &Path, name: &str) -> Result<PathBuf> {
    let flat = folder.join(format!("{name}.rs"));
    let nested = folder.join(name).join("mod.rs");
    match (flat.is_file(), nested.is_file()) {
        (true, false) => Ok(flat),
        (false, true) => Ok(nested),
        _ => bail!("module {name} has no file, or two: {} and {}", flat.display(), nested.display()),
    }
}
