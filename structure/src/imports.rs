//! Which module imports from which.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::{ModulePath, Modules};

/// A module refers to something that another module defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The module whose code refers.
    pub from: ModulePath,
    /// The module that defines the target, after re-exports.
    pub to: ModulePath,
    /// The file of `from`.
    pub file: PathBuf,
    /// The line in that file, counted from 1.
    pub line: usize,
    /// The target as an absolute path.
    pub item: String,
}

/// All imports between the modules of a crate.
#[must_use]
pub fn imports(modules: &Modules) -> BTreeSet<Import> {
    let mut found = BTreeSet::new();
    for (from, module) in &modules.0 {
        for reference in &module.references {
            let to = definition(modules, &reference.path, &mut BTreeSet::new());
            if to != *from {
                let (file, line, item) = (module.file.clone(), reference.line, reference.path.to_string());
                found.insert(Import { from: from.clone(), to, file, line, item });
            }
        }
    }
    found
}

/// The module that defines the item at `path`, after re-exports.
fn definition(modules: &Modules, path: &ModulePath, seen: &mut BTreeSet<ModulePath>) -> ModulePath {
    let (at, name) = modules.locate(path);
    let (Some(name), Some(module)) = (name, modules.0.get(&at)) else { return at };
    if !seen.insert(path.clone()) {
        return at;
    }
    let rest = path.0.get(at.0.len() + 1..).unwrap_or_default();
    let forwarded = module.names.iter().find(|(known, _)| known == name);
    match forwarded {
        Some((_, target)) => definition(modules, &ModulePath([&target.0, rest].concat()), seen),
        None => at,
    }
}
