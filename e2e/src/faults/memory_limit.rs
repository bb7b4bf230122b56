//! A limit on the memory of a process, as the kubelet sets it: a control group.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::process::Daemon;

/// See the module.
#[derive(Debug)]
pub struct MemoryLimit {
    group: PathBuf,
}

impl MemoryLimit {
    /// There is no limit yet.
    ///
    /// # Errors
    /// When memory cannot be limited on this machine.
    pub fn new(lab: &Lab) -> Result<Self> {
        Ok(Self { group: lab.memory_group()? })
    }

    /// Starts a process in the group.
    #[must_use]
    pub fn of(&self, daemon: Daemon) -> Daemon {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        daemon.through("/bin/sh", ["-c".as_ref(), enter.as_ref(), self.group.as_os_str()])
    }

    /// Limits the group to this many bytes.
    ///
    /// # Errors
    /// When the kernel refuses, because the group uses more.
    pub fn set(&self, bytes: u64) -> Result<()> {
        let file = self.either(["memory.limit_in_bytes", "memory.max"])?;
        fs::write(&file, bytes.to_string()).with_context(|| format!("cannot write {bytes} to {}", file.display()))
    }

    /// Whether a process is in the group.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn holds(&self, pid: Option<u32>) -> Result<bool> {
        let file = self.group.join("cgroup.procs");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().any(|line| line.parse().ok() == pid && pid.is_some()))
    }

    /// The file of that meaning in version 1 or 2 of the control groups.
    fn either(&self, names: [&str; 2]) -> Result<PathBuf> {
        let file = names.iter().map(|name| self.group.join(name)).find(|file| file.exists());
        file.with_context(|| format!("{} is no control group that limits memory", self.group.display()))
    }
}
