//! kube-controller-manager and kube-scheduler.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::handle::Cluster;
use super::pki::Pki;
use crate::assets::{Tool, ensure as binary};
use crate::process::Daemon;
use crate::wait::await_condition;

/// Both daemons, not started.
pub(super) fn daemons(dir: &Path, kubeconfig: &Path, pki: &Pki) -> Result<Vec<Daemon>> {
    let common = [
        format!("--kubeconfig={}", kubeconfig.display()),
        // Only one instance of each runs: an election would only delay its start and its recovery from a kill.
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let manager = Daemon::new(dir, "kube-controller-manager", binary(Tool::KubeControllerManager)?)
        .args(&common)
        .arg(format!("--service-account-private-key-file={}", pki.path("accounts.key").display()))
        .arg(format!("--root-ca-file={}", pki.path("ca.crt").display()))
        .arg("--use-service-account-credentials=true");
    let scheduler = Daemon::new(dir, "kube-scheduler", binary(Tool::KubeScheduler)?).args(&common);
    Ok(vec![manager, scheduler])
}

/// Waits until the controllers work: they create the default account of every namespace, without which no pod is
/// admitted.
pub(super) async fn await_working(cluster: &Cluster) -> Result<()> {
    let account = ["get", "serviceaccount", "default", "--namespace=default", "--output=name"];
    await_condition("the controller manager has made the default account", Duration::from_secs(60), async || {
        cluster.components.iter().try_for_each(Daemon::ensure_running)?;
        cluster.kubectl(account).await.map(Some)
    })
    .await
    .map(drop)
}
