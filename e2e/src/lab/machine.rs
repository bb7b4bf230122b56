//! Records and reverts what a node changes on the machine outside the lab's directory and namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::netns::namespace_of;
use super::owner;
use crate::progress::say;
use crate::wait::await_condition;

/// Settings of the whole machine that a kubelet changes.
const SYSCTLS: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Directories at fixed places that a kubelet and containerd's shims create.
const DIRECTORIES: &[&str] =
    &["/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"];

/// File in the lab's directory whose existence means that a node runs, or ran, in it.
const MARK: &str = "node-on-this-machine";

/// How long to wait for another node to end, which may run a few tests with real pods.
const TURN_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// The permission to run a node. Only one node may run at a time, because two would share the directories above.
/// Dropping it releases the permission.
#[derive(Debug)]
pub struct NodeGuard {
    name: String,
    _turn: File,
}

impl NodeGuard {
    /// Waits for the permission, saves the machine's settings, and prepares the control group for the pods of the lab
    /// in `dir`.
    ///
    /// # Errors
    /// When another node runs for too long, or the control group cannot be created.
    pub async fn take(dir: &Path) -> Result<Self> {
        let name = dir.file_name().and_then(|name| name.to_str()).context("a lab's directory has a name")?;
        let path = owner::state_dir()?.join("node.lock");
        let turn = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if turn.try_lock().is_err() {
            say("another lab has a node; waiting for it to end");
            await_condition("the permission to run a node", TURN_DEADLINE, async || Ok(turn.try_lock().ok())).await?;
        }
        let guard = Self { name: namespace_of(name), _turn: turn };
        save(dir)?;
        super::cgroups::create(&guard.name)?;
        Ok(guard)
    }

    /// Control group of the node's pods, as an absolute path within each hierarchy.
    #[must_use]
    pub fn control_group(&self) -> String {
        format!("/{}", self.name)
    }
}

/// State of the machine before the first node started.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    sysctls: BTreeMap<String, String>,
    absent: Vec<PathBuf>,
}

/// Saves the machine's settings, unless those that an earlier node saved are not restored yet: the present settings are
/// then not the machine's own.
fn save(dir: &Path) -> Result<()> {
    let _guard = owner::lock()?;
    fs::write(dir.join(MARK), "").with_context(|| format!("cannot write to {}", dir.display()))?;
    let file = saved()?;
    if file.exists() {
        return Ok(());
    }
    let value = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(sysctl(name)).ok()?.trim().to_owned()));
    let absent = DIRECTORIES.iter().map(PathBuf::from).filter(|path| !path.exists()).collect();
    let found = Found { sysctls: SYSCTLS.iter().filter_map(value).collect(), absent };
    fs::write(&file, serde_json::to_vec(&found)?).with_context(|| format!("cannot write {}", file.display()))
}

/// Restores the machine's settings once no lab with a node is left. The caller holds the lock.
pub(super) fn restore() -> Result<()> {
    let file = saved()?;
    if !file.exists() || owner::lab_dirs()?.iter().any(|dir| dir.join(MARK).exists()) {
        return Ok(());
    }
    let found: Found = serde_json::from_slice(&fs::read(&file)?).context("the machine's saved settings are damaged")?;
    for (name, value) in found.sysctls {
        let path = sysctl(&name);
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
            fs::write(&path, &value).with_context(|| format!("cannot set {} back to {value}", path.display()))?;
        }
    }
    for path in found.absent.iter().filter(|path| path.exists()) {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn saved() -> Result<PathBuf> {
    Ok(owner::state_dir()?.join("machine.json"))
}
