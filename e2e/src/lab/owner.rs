//! Owners of labs, so that a later run can distinguish a running lab from a remnant.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::provider::Provider;

const OWNER_FILE: &str = "owner.json";
const PROVIDER_FILE: &str = "provider";

/// How long a lab is meant to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the process that creates it; after that it is a remnant.
    ThisProcess,
    /// Until a command removes it.
    UntilTakenDown,
}

/// Content of the owner file. The boot id ends every lab of an earlier boot; the start time distinguishes a process
/// from a later process with the same id.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Owner {
    boot: String,
    /// Process id and start time (clock ticks since boot); none for a lab that outlives its maker.
    process: Option<(u32, u64)>,
}

/// Takes the lock for creating and removing labs, until the returned file is dropped.
pub(super) fn lock() -> Result<File> {
    let dir = state_dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create the state directory {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Directory that holds one directory for each lab.
pub(super) fn labs_dir() -> Result<PathBuf> {
    Ok(state_dir()?.join("labs"))
}

/// The directories of all labs, sorted.
pub(super) fn lab_dirs() -> Result<Vec<PathBuf>> {
    let dir = labs_dir()?;
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut dirs = fs::read_dir(&dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot list {}", dir.display()))?;
    dirs.sort();
    Ok(dirs)
}

/// Creates a lab's directory with its owner file and the record of its provider.
pub(super) fn claim(dir: &Path, lifetime: Lifetime, provider: &Provider) -> Result<()> {
    let process = match lifetime {
        Lifetime::ThisProcess => {
            let pid = std::process::id();
            Some((pid, start_time(pid).context("cannot read this process's start time")?))
        }
        Lifetime::UntilTakenDown => None,
    };
    let owner = serde_json::to_vec(&Owner { boot: boot_id()?, process })?;
    fs::create_dir_all(dir.join("logs")).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::write(dir.join(PROVIDER_FILE), provider.record())?;
    fs::write(dir.join(OWNER_FILE), owner).with_context(|| format!("cannot write the owner of {}", dir.display()))
}

/// The provider of the lab in `dir`.
pub(super) fn provider(dir: &Path) -> Provider {
    Provider::from_record(&fs::read_to_string(dir.join(PROVIDER_FILE)).unwrap_or_default())
}

/// Whether the lab in `dir` is a remnant: its owner has ended, or never got as far as writing its name.
pub(super) fn is_remnant(dir: &Path) -> Result<bool> {
    let owner = fs::read(dir.join(OWNER_FILE)).ok().and_then(|bytes| serde_json::from_slice::<Owner>(&bytes).ok());
    let Some(Owner { boot, process }) = owner else { return Ok(true) };
    Ok(boot != boot_id()? || process.is_some_and(|(pid, started)| start_time(pid) != Some(started)))
}

/// Copies a lab's log files to where they outlive it, and returns that directory.
pub(super) fn keep_logs(dir: &Path, name: &str) -> Result<PathBuf> {
    let kept = state_dir()?.join("failed").join(name);
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(dir.join("logs"))? {
        let log = entry?;
        fs::copy(log.path(), kept.join(log.file_name()))?;
    }
    Ok(kept)
}

/// Directory of all that the lab keeps between runs.
pub(super) fn state_dir() -> Result<PathBuf> {
    crate::assets::user_dir("MESHSYNC_LAB_STATE", "XDG_STATE_HOME", ".local/state")
}

fn boot_id() -> Result<String> {
    if !cfg!(target_os = "linux") {
        // There a lab is a kind cluster, which outlives a boot.
        return Ok(String::new());
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(id.trim().to_owned())
}

/// Start time of a living process in clock ticks since boot; `None` if there is none with that id, or only a zombie whose
/// parent has not taken note.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces; the start time is the 22nd.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") { None } else { fields.get(19)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_is_a_remnant_after_its_owner_has_ended() {
        let dir = std::env::temp_dir().join(format!("meshsync-owner-{}", std::process::id()));
        claim(&dir, Lifetime::ThisProcess, &Provider::Local).unwrap();
        assert!(!is_remnant(&dir).unwrap());

        let other_start = Owner { boot: boot_id().unwrap(), process: Some((std::process::id(), 1)) };
        fs::write(dir.join(OWNER_FILE), serde_json::to_vec(&other_start).unwrap()).unwrap();
        assert!(is_remnant(&dir).unwrap(), "a process id that was given out again is another process");

        let other_boot = Owner { boot: "earlier".to_owned(), process: None };
        fs::write(dir.join(OWNER_FILE), serde_json::to_vec(&other_boot).unwrap()).unwrap();
        assert!(is_remnant(&dir).unwrap());

        claim(&dir, Lifetime::UntilTakenDown, &Provider::Local).unwrap();
        assert!(!is_remnant(&dir).unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }
}
