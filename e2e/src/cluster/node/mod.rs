//! One real node: containerd, kubelet, kube-proxy and a cluster DNS.

mod config;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::lab::NodeGuard;
use crate::process::Daemon;

/// Name of the node.
pub(super) const NODE_NAME: &str = "lab-node";

/// Image of the process that holds a pod's namespaces.
const PAUSE_IMAGE: &str = "lab.local/pause:1";

/// The daemons of one node, in the order of their start.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) daemons: Vec<Daemon>,
    /// Held while the node lives: two nodes would use the same device-plugin directory and the same processors.
    _guard: NodeGuard,
}

/// Imports an image archive into the node of the lab in `dir`.
pub(super) async fn load(dir: &Path, archive: &Path) -> Result<()> {
    ctr(&socket(dir), &["images".as_ref(), "import".as_ref(), archive.as_os_str()]).await
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("node").join("containerd.sock")
}

async fn ctr(socket: &Path, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let output = tokio::process::Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io"])
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run `ctr` of the Debian package containerd")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ctr` failed: {}", words.trim());
    Ok(())
}
