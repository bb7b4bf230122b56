//! Builds a tool into the cache.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::module::Module;
use super::recipe::Recipe;
use crate::progress::{say, step};

/// Builds the binary of `recipe` to `path`, unless another process has done so in the meantime.
pub(super) fn into_cache(module: &Module, recipe: &Recipe, path: &Path) -> Result<()> {
    let dir = path.parent().context("a cached binary lies in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create the cache directory {}", dir.display()))?;
    let _lock = lock_against_other_builders(dir)?;
    if path.is_file() {
        return Ok(());
    }
    // A killed build must not leave a half-written file under the name that the next run trusts.
    let unfinished = path.with_extension("unfinished");
    let version = recipe.pinned_by.map(|pin| module.required_version(pin)).transpose()?;
    let what = format!("building {} {} from its Go module (first time only)", recipe.binary, version.unwrap_or(""));
    step(&what, || run_go(module, recipe, version, &unfinished))?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot move the built {} into place", recipe.binary))
}

/// One builder at a time: two of them would compile the same packages side by side on the same two cores.
fn lock_against_other_builders(dir: &Path) -> Result<File> {
    let path = dir.join("build.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if lock.try_lock().is_err() {
        say(format!("another build into {} is running; waiting for it", dir.display()));
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(lock)
}

fn run_go(module: &Module, recipe: &Recipe, version: Option<&str>, output: &Path) -> Result<()> {
    let built = Command::new("go")
        .current_dir(&module.dir)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        // A workspace file above the checkout would override the pins.
        .env("GOWORK", "off")
        .args(["build", "-trimpath", "-ldflags", &ldflags(version), "-o"])
        .arg(output)
        .arg(recipe.package)
        .output()
        .context("cannot run `go`: install Go 1.21 or newer and put it on PATH")?;
    if !built.status.success() {
        let words = String::from_utf8_lossy(&built.stderr);
        let tail: Vec<_> = words.lines().rev().take(20).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        bail!("`go build {}` in {} failed:\n{}", recipe.package, module.dir.display(), tail.join("\n"));
    }
    Ok(())
}

/// Linker flags: no symbol tables, and the version, without which Kubernetes reports v0.0.0 and refuses its own features.
fn ldflags(version: Option<&str>) -> String {
    let mut flags = String::from("-s -w");
    if let Some(version) = version {
        let mut parts = version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        for (name, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                flags.push_str(&format!(" -X {package}.{name}={value}"));
            }
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linker_flags_carry_the_version_in_parts() {
        let flags = ldflags(Some("v1.37.2"));
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.37.2"), "{flags}");
        assert!(flags.contains("-X k8s.io/component-base/version.gitMinor=37"), "{flags}");
        assert_eq!(ldflags(None), "-s -w");
    }
}
