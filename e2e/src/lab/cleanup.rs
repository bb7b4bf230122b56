//! Removes a lab, even a lab of another process or a half-created lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::namespace_of;
use super::{cgroups, kernel, machine, netns, owner};
use crate::process::run;
use crate::progress::say;
use crate::provider::{Provider, kind};

/// How long processes get to vanish after SIGKILL; the kernel needs milliseconds, unmounting a busy overlay more.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// Removes every lab whose owner has ended. The caller holds the lock.
pub(super) fn sweep() -> Result<()> {
    for dir in owner::lab_dirs()? {
        if owner::is_remnant(&dir)? {
            say(format!("removing what a dead run left in {}", dir.display()));
            remove(&dir)?;
        }
    }
    Ok(())
}

/// Removes the lab in `dir`: processes, mounts, namespace, control groups, settings, files, in this order because each
/// one holds the next. A failure does not keep the later ones from being tried. The caller holds the lock.
pub(super) fn remove(dir: &Path) -> Result<()> {
    let name = dir.file_name().and_then(|name| name.to_str()).context("a lab's directory has a name")?;
    let cluster = match owner::provider(dir) {
        Provider::Local => remove_local(&namespace_of(name), dir),
        Provider::Kind(cluster) => run(kind::delete(&cluster, &dir.join("kubeconfig"))),
        // The cluster existed before the lab, and it stays.
        Provider::Existing(_) => Ok(()),
    };
    all_of([
        cluster,
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display())),
        machine::restore(),
    ])
}

fn remove_local(namespace: &str, dir: &Path) -> Result<()> {
    all_of([end_processes(namespace), unmount_below(dir), netns::delete(namespace), cgroups::remove(namespace)])
}

/// Joins the errors of several steps.
fn all_of<const N: usize>(outcomes: [Result<()>; N]) -> Result<()> {
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if failures.is_empty() { Ok(()) } else { Err(anyhow!("{}", failures.join("; "))) }
}

/// Kills every process in the namespace and in the control group of the same name (pods have namespaces of their own).
/// Only the lab can have started them there.
fn end_processes(namespace: &str) -> Result<()> {
    let end = Instant::now() + KILL_DEADLINE;
    loop {
        let inside = netns::pids(namespace)?.into_iter().chain(cgroups::pids(namespace)?);
        let alive: Vec<_> = inside.filter(|&pid| !is_zombie(pid)).collect();
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("processes {alive:?} in {namespace} do not end");
        }
        for pid in alive {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .is_none_or(|stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Unmounts all that is mounted below `dir`, innermost first.
fn unmount_below(dir: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    for point in mount_points_below(&table, dir).into_iter().rev() {
        kernel::detach_mount(&point).with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// Mount points below `dir` in the order of the table, in which a mount follows the mount that contains it.
fn mount_points_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_lab_are_touched() {
        let table = "21 1 0:1 / /state/labs/a rw - ext4 x rw\n\
                     22 1 0:1 / /state/labs/a/k/pods/1 rw - tmpfs x rw\n\
                     23 1 0:1 / /state/labs/ab rw - tmpfs x rw\n\
                     24 1 0:1 / / rw - ext4 x rw\n";
        let found = mount_points_below(table, Path::new("/state/labs/a"));
        assert_eq!(found, [PathBuf::from("/state/labs/a"), PathBuf::from("/state/labs/a/k/pods/1")]);
    }
}
