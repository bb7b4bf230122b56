//! The pinned Go modules under `e2e/tools`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// One Go module of the checkout that this lab was compiled from.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) dir: PathBuf,
    name: String,
    go_mod: String,
    digest: String,
}

impl Module {
    /// Reads the module `name` under `e2e/tools`.
    pub(super) fn read(name: &str) -> Result<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name);
        let go_mod = fs::read_to_string(dir.join("go.mod"))
            .with_context(|| format!("{} has no readable go.mod: the lab needs its checkout", dir.display()))?;
        let digest = digest(&dir)?;
        Ok(Self { dir, name: name.to_owned(), go_mod, digest })
    }

    /// Version that `go.mod` requires of `module`, such as `v1.37.2`.
    pub(super) fn required_version(&self, module: &str) -> Result<&str> {
        required_version(&self.go_mod, module)
            .with_context(|| format!("{}/go.mod does not require {module}", self.dir.display()))
    }

    /// Directory name for what is built from this module: readable version first, then a digest of all its files, so
    /// that any change of pins or sources leads to a new build.
    pub(super) fn cache_key(&self, pinned_by: Option<&str>) -> Result<String> {
        let version = pinned_by.map(|module| self.required_version(module)).transpose()?.unwrap_or("own");
        Ok(format!("{}-{version}-{}", self.name, self.digest))
    }
}

fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let line = line.trim_start();
        let mut words = line.strip_prefix("require ").unwrap_or(line).split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|version| version.starts_with('v'))
    })
}

fn digest(dir: &Path) -> Result<String> {
    let mut files = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot list {}", dir.display()))?;
    files.sort();
    let mut hasher = Sha256::new();
    for file in files.iter().filter(|path| path.is_file()) {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update(content.len().to_le_bytes());
        hasher.update(content);
    }
    Ok(hasher.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_comes_from_the_requirement_and_not_from_the_replacement() {
        let go_mod =
            "require (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\nreplace (\n\tk8s.io/api => k8s.io/api v0.1.0\n)\n";
        assert_eq!(required_version(go_mod, "k8s.io/kubernetes"), Some("v1.37.2"));
        assert_eq!(required_version(go_mod, "k8s.io/api"), None);
        assert_eq!(required_version("require example.org/one v0.3.0\n", "example.org/one"), Some("v0.3.0"));
    }

    #[test]
    fn every_tool_is_pinned_by_a_module_of_this_checkout() {
        use super::super::Tool;
        for tool in [Tool::Etcd, Tool::Kubectl, Tool::NatsServer, Tool::Coredns, Tool::Pause] {
            let recipe = tool.recipe();
            let key = Module::read(recipe.module).unwrap().cache_key(recipe.pinned_by).unwrap();
            assert!(key.starts_with(recipe.module), "{key}");
        }
    }
}
