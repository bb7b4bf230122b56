//! One real node: containerd, kubelet, kube-proxy and a cluster DNS.

mod config;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Cluster;
use crate::assets::{Tool, ensure as binary};
use crate::image::Image;
use crate::lab::{NODE_IP, NodeGuard};
use crate::process::Daemon;
use crate::wait::await_condition;

/// Name of the node.
const NODE_NAME: &str = "lab-node";

/// A user's PATH may lack the directories that hold iptables, mount and the like.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Image of the process that holds a pod's namespaces.
const PAUSE_IMAGE: &str = "lab.local/pause:1";

/// The daemons of one node, in the order of their start.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) daemons: Vec<Daemon>,
    /// Held while the node lives: two nodes would use the same device-plugin directory and the same processors.
    _guard: NodeGuard,
}

impl Node {
    /// Starts the node and waits until the cluster calls it ready.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let guard = NodeGuard::take(&cluster.dir).await?;
        let dir = cluster.dir.join("node");
        let control_group = guard.control_group();
        let files = config::write(&dir, &cluster.kubeconfig, &control_group)?;

        let socket = socket(&cluster.dir);
        let containerd = Daemon::new(&cluster.dir, "containerd", "containerd".into())
            .arg("--config")
            .arg(&files.containerd)
            .env("PATH", SYSTEM_PATH);
        containerd.start()?;
        await_containerd(&containerd, &socket).await?;

        let mut node = Self { daemons: vec![containerd], _guard: guard };
        let pause = Image::new(PAUSE_IMAGE, binary(Tool::Pause)?);
        load(&cluster.dir, &pause.write_to(&dir.join("pause.tar"))?).await?;
        for daemon in daemons(cluster, &dir, &files)? {
            daemon.start()?;
            node.daemons.push(daemon);
        }
        node.await_ready(cluster).await?;
        Ok(node)
    }

    async fn await_ready(&self, cluster: &Cluster) -> Result<()> {
        let name = format!("node/{NODE_NAME}");
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let ready = await_condition("the node is ready", Duration::from_secs(120), async || {
            if self.daemons.iter().any(|daemon| daemon.exit_status().is_some()) {
                return Ok(Some(()));
            }
            let status = cluster.kubectl(["get", &name, path]).await?;
            Ok((status == "True").then_some(()))
        })
        .await;
        self.daemons.iter().try_for_each(Daemon::ensure_running)?;
        ready
    }
}

/// Imports an image archive into the node of the lab in `dir`.
pub(super) async fn load(dir: &Path, archive: &Path) -> Result<()> {
    ctr(&socket(dir), &["images".as_ref(), "import".as_ref(), archive.as_os_str()]).await
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("node").join("containerd.sock")
}

fn daemons(cluster: &Cluster, dir: &Path, files: &config::Files) -> Result<[Daemon; 3]> {
    let coredns = Daemon::new(&cluster.dir, "coredns", binary(Tool::Coredns)?).arg("-conf").arg(&files.corefile);
    let kubelet = Daemon::new(&cluster.dir, "kubelet", binary(Tool::Kubelet)?)
        .arg(format!("--kubeconfig={}", cluster.kubeconfig.display()))
        .arg(format!("--config={}", files.kubelet.display()))
        .arg(format!("--root-dir={}", dir.join("kubelet").display()))
        .arg(format!("--hostname-override={NODE_NAME}"))
        .arg(format!("--node-ip={NODE_IP}"))
        .env("PATH", SYSTEM_PATH);
    let proxy = Daemon::new(&cluster.dir, "kube-proxy", binary(Tool::KubeProxy)?)
        .arg(format!("--config={}", files.proxy.display()))
        .env("PATH", SYSTEM_PATH);
    Ok([coredns, kubelet, proxy])
}

async fn await_containerd(daemon: &Daemon, socket: &Path) -> Result<()> {
    let answering = await_condition("containerd answers", Duration::from_secs(30), async || {
        if daemon.exit_status().is_some() {
            return Ok(Some(()));
        }
        ctr(socket, &["version".as_ref()]).await.map(Some)
    })
    .await;
    daemon.ensure_running()?;
    answering
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

/// Writes `content` to `dir/name` and returns that path.
fn write_file(dir: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
