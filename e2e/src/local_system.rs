//! Operator and agent as processes beside a cluster without nodes, each with its own ServiceAccount's rights: all that a
//! pod would do, in seconds.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::nats::Nats;
use crate::process::Daemon;
use crate::system::{NAME, NAMESPACE, deploy};

/// Where an operator that [`Lab::operator_process`] made tells how it is.
pub const OPERATOR_PROBES: &str = "127.0.0.1:11002";

impl Lab {
    /// The operator with the rights of the manifest, which is applied. The API is not installed.
    ///
    /// # Errors
    /// When the manifest cannot be applied.
    pub async fn operator_process(&self, cluster: &Cluster) -> Result<Daemon> {
        cluster.apply(std::fs::read(deploy("manifests/operator.yaml"))?).await?;
        let kubeconfig = account_kubeconfig(self, cluster, "meshsync-operator").await?;
        let images = ["--agent-image=agent:1", "--nats-image=nats:2", "--probe-address", OPERATOR_PROBES];
        Ok(self.operator()?.args(["run", "--namespace", NAMESPACE]).args(images).arg("--kubeconfig").arg(kubeconfig))
    }

    /// The agent with the rights and the configuration that the operator gives to that of the MeshSync of the samples.
    ///
    /// # Errors
    /// When its ServiceAccount is not there.
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
/// When the account is not there.
pub async fn account_kubeconfig(lab: &Lab, cluster: &Cluster, account: &str) -> Result<PathBuf> {
    let token = cluster.kubectl(["create", "token", "-n", NAMESPACE, account, "--duration=2h"]).await?;
    let path = lab.dir().join(format!("{account}.kubeconfig"));
    std::fs::copy(cluster.kubeconfig(), &path).context("cannot copy the kubeconfig")?;
    let config = ["config", "--kubeconfig", path.to_str().context("a path in UTF-8")?];
    // A user of its own: that of the cluster's kubeconfig has a certificate, which would win over the token.
    let token = format!("--token={}", token.trim());
    cluster.kubectl(config.into_iter().chain(["set-credentials", account, &token])).await?;
    let user = format!("--user={account}");
    cluster.kubectl(config.into_iter().chain(["set-context", "--current", &user])).await?;
    Ok(path)
}
