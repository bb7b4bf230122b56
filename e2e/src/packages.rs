//! Debian packages that the lab's programs come from or call.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Level;
use crate::progress::step;

/// A file of each package, whose existence means that the package is installed, without a package manager: other
/// distributions have the same programs under other package names.
const NETWORK: &[(&str, &str)] = &[("iproute2", "ip")];

/// What a node calls or runs beyond that.
const NODE: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("ethtool", "ethtool"),
    // No node needs it, but tests of a jumping clock do.
    ("libfaketime", LIBFAKETIME),
];

/// Lets the wall clock of one process jump.
#[cfg(target_arch = "aarch64")]
pub const LIBFAKETIME: &str = "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1";
/// Lets the wall clock of one process jump.
#[cfg(not(target_arch = "aarch64"))]
pub const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The packages that a cluster of `level` needs and this machine lacks.
#[must_use]
pub fn missing(level: Level) -> Vec<&'static str> {
    needed(level).filter(|(_, file)| !is_installed(file)).map(|(package, _)| package).collect()
}

/// The command that installs `packages`, as a person would type it.
#[must_use]
pub fn command(packages: &str) -> String {
    format!("apt-get install --no-install-recommends {packages}")
}

/// Installs what a cluster of `level` lacks, if `agreed`; without that, fails with the command to type.
///
/// # Errors
/// When packages are missing and installing them was not agreed to, or apt-get fails.
pub fn ensure_installed(level: Level, agreed: bool) -> Result<()> {
    let packages = missing(level);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    ensure!(agreed, "Debian packages are missing; install them with --yes, or run: {}", command(&list));
    step(&format!("installing the Debian packages {list}"), || {
        apt_get(&["update", "--quiet"])?;
        apt_get(
            &["install", "--quiet", "--yes", "--no-install-recommends"].into_iter().chain(packages).collect::<Vec<_>>(),
        )
    })
}

/// Whether packages may be installed without asking: the flag, or a machine that CI set up for this.
#[must_use]
pub fn agreed(yes: bool) -> bool {
    yes || std::env::var("CI").is_ok_and(|value| value == "true")
}

fn needed(level: Level) -> impl Iterator<Item = (&'static str, &'static str)> {
    NETWORK.iter().chain(if level >= Level::Node { NODE } else { &[] }).copied()
}

fn is_installed(file: &str) -> bool {
    if file.starts_with('/') {
        return Path::new(file).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's PATH may lack the directories where Debian puts what only root runs.
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(file).exists())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get: install the packages with this system's own package manager")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`apt-get {}` failed: {}", arguments.join(" "), words.trim());
    Ok(())
}
