//! The two calls that exist only on Linux, so that the rest compiles where labs are kind clusters.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

/// Moves the calling thread into the network namespace `file`.
#[cfg(target_os = "linux")]
pub(super) fn enter_network(file: File) -> Result<()> {
    Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

/// Detaches the mount at `point` at once; the kernel unmounts it after its last use.
#[cfg(target_os = "linux")]
pub(super) fn detach_mount(point: &Path) -> Result<()> {
    Ok(nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn enter_network(_: File) -> Result<()> {
    anyhow::bail!("network namespaces exist on Linux only: use --provider kind")
}

#[cfg(not(target_os = "linux"))]
pub(super) fn detach_mount(_: &Path) -> Result<()> {
    anyhow::bail!("the lab mounts nothing here")
}
