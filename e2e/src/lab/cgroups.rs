//! The control group that holds a node's pods, in version 1 and version 2 hierarchies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// How long an emptied group may stay busy while the kernel reaps its last processes.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

/// Creates the group `name` in every hierarchy: the kubelet wants its root group to exist.
pub(super) fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).with_context(|| format!("cannot create the control group {}", group.display()))?;
    }
    Ok(())
}

/// Creates the group `name` in the hierarchy that limits memory, and returns its directory.
pub(super) fn create_for_memory(name: &str) -> Result<PathBuf> {
    let limits_memory = |root: &PathBuf| {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        root.join("memory.limit_in_bytes").exists() || controllers.split_whitespace().any(|name| name == "memory")
    };
    let root =
        hierarchies()?.into_iter().find(limits_memory).context("no control groups limit memory on this machine")?;
    let group = root.join(name);
    fs::create_dir_all(&group).with_context(|| format!("cannot create the control group {}", group.display()))?;
    Ok(group)
}

/// Ids of all processes in the group `name` and below it.
pub(super) fn pids(name: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for group in groups(name)? {
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the group `name` and all below it. Its processes must have ended.
pub(super) fn remove(name: &str) -> Result<()> {
    let end = Instant::now() + REMOVE_DEADLINE;
    // Inner groups first: a group with children cannot be removed.
    for group in groups(name)?.iter().rev() {
        loop {
            match fs::remove_dir(group) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => {
                    outcome.with_context(|| format!("cannot remove the control group {}", group.display()))?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The group `name` of every hierarchy and all groups below it, each after its parent.
fn groups(name: &str) -> Result<Vec<PathBuf>> {
    let mut all: Vec<_> =
        hierarchies()?.into_iter().map(|root| root.join(name)).filter(|group| group.exists()).collect();
    let mut next = 0;
    while let Some(group) = all.get(next).cloned() {
        let entries = fs::read_dir(&group).into_iter().flatten().filter_map(Result::ok);
        all.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        next += 1;
    }
    Ok(all)
}

/// Mount points of the hierarchies: one for each controller in version 1, one for all in version 2.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    Ok(hierarchies_in(&table))
}

fn hierarchies_in(table: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let kind = back.split(' ').next()?;
        let point = Path::new(front.split(' ').nth(4)?);
        (matches!(kind, "cgroup" | "cgroup2") && point.starts_with(ROOT)).then(|| point.to_owned())
    };
    table.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mixed = "30 2 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     31 30 0:2 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                     32 30 0:3 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(hierarchies_in(mixed), expected);
        let unified = "30 2 0:1 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchies_in(unified), [PathBuf::from("/sys/fs/cgroup")]);
    }
}
