//! Operator and agent as processes beside a cluster without nodes, each with the rights of its ServiceAccount: the
//! behaviour of pods, within seconds.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::nats::Nats;
use crate::process::Daemon;
use crate::system::{NAME, NAMESPACE, deploy};

/// Probe address of an operator of [`Lab::operator_process`].
pub const OPERATOR_PROBES: &str = "127.0.0.1:11002";

impl Lab {
    /// Applies the manifest and returns the operator with its rights. Does not install the API.
    ///
    /// # Errors
    /// When the manifest cannot be applied.
    pub async fn operator_process(&self, cluster: &Cluster) -> Result<Daemon> {
        cluster.apply(std::fs::read(deploy("manifests/operator.yaml"))?).await?;
        let kubeconfig = account_kubeconfig(self, cluster, "meshsync-operator").await?;
        let images = ["--agent-image=agent:1", "--nats-image=nats:2", "--probe-address", OPERATOR_PROBES];
        Ok(self.operator()?.args(["run", "--namespace", NAMESPACE]).args(images).arg("--kubeconfig").arg(kubeconfig))
    }

    /// The agent of the samples' MeshSync, with the rights and the configuration that the operator created for it.
    ///
    /// # Errors
    /// When its ServiceAccount does not exist.
    pub async fn agent_process(&self, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
        let name = format!("{NAME}-agent");
        let kubeconfig = account_kubeconfig(self, cluster, &name).await?;
        let config_map = format!("--config-map={NAMESPACE}/{name}");
        Ok(self.agent()?.args(["run", &config_map, "--kubeconfig"]).arg(kubeconfig).env("BROKER_URL", nats.url()))
    }
}

/// Writes a kubeconfig of a ServiceAccount in [`NAMESPACE`] into the lab.
///
/// # Errors
/// When the account does not exist.
pub async fn account_kubeconfig(lab: &Lab, cluster: &Cluster, account: &str) -> Result<PathBuf> {
    let token = cluster.kubectl(["create", "token", "-n", NAMESPACE, account, "--duration=2h"]).await?;
    let path = lab.dir().join(format!("{account}.kubeconfig"));
    std::fs::copy(cluster.kubeconfig(), &path).context("cannot copy the kubeconfig")?;
    let config = ["config", "--kubeconfig", path.to_str().context("a path in UTF-8")?];
    // A separate user: that of the cluster's kubeconfig has a certificate, which would take precedence over the token.
    let token = format!("--token={}", token.trim());
    cluster.kubectl(config.into_iter().chain(["set-credentials", account, &token])).await?;
    let user = format!("--user={account}");
    cluster.kubectl(config.into_iter().chain(["set-context", "--current", &user])).await?;
    Ok(path)
}
