//! Starts a node.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{NODE_NAME, Node, PAUSE_IMAGE, config, ctr, load, socket};
use crate::assets::{Tool, ensure as binary};
use crate::image::Image;
use crate::lab::{NODE_IP, NodeGuard};
use crate::process::Daemon;
use crate::wait::await_condition;

/// A user's PATH may lack the directories that hold iptables, mount and the like.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Node {
    /// Starts the node's daemons for the cluster of the lab in `lab_dir`.
    pub(in crate::cluster) async fn start(lab_dir: &Path, kubeconfig: &Path) -> Result<Self> {
        let guard = NodeGuard::take(lab_dir).await?;
        let dir = lab_dir.join("node");
        let control_group = guard.control_group();
        let files = config::write(&dir, kubeconfig, &control_group)?;

        let socket = socket(lab_dir);
        let containerd = Daemon::new(lab_dir, "containerd", "containerd".into())
            .arg("--config")
            .arg(&files.containerd)
            .env("PATH", SYSTEM_PATH);
        containerd.start()?;
        await_containerd(&containerd, &socket).await?;

        let mut node = Self { daemons: vec![containerd], _guard: guard };
        let pause = Image::new(PAUSE_IMAGE, binary(Tool::Pause)?);
        load(lab_dir, &pause.write_to(&dir.join("pause.tar"))?).await?;
        for daemon in daemons(lab_dir, kubeconfig, &files)? {
            daemon.start()?;
            node.daemons.push(daemon);
        }
        Ok(node)
    }
}

fn daemons(lab_dir: &Path, kubeconfig: &Path, files: &config::Files) -> Result<[Daemon; 3]> {
    let coredns = Daemon::new(lab_dir, "coredns", binary(Tool::Coredns)?).arg("-conf").arg(&files.corefile);
    let kubelet = Daemon::new(lab_dir, "kubelet", binary(Tool::Kubelet)?)
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--config={}", files.kubelet.display()))
        .arg(format!("--root-dir={}", lab_dir.join("node").join("kubelet").display()))
        .arg(format!("--hostname-override={NODE_NAME}"))
        .arg(format!("--node-ip={NODE_IP}"))
        .env("PATH", SYSTEM_PATH);
    let proxy = Daemon::new(lab_dir, "kube-proxy", binary(Tool::KubeProxy)?)
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
