//! Starts clusters.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::builder::ClusterBuilder;
use super::handle::{Cluster, LEVEL_FILE};
use super::level::Level;
use super::node::{NODE_NAME, Node};
use super::pki::Pki;
use super::ports::Ports;
use super::{controllers, external, server};
use crate::assets;
use crate::lab::on_host;
use crate::process::Daemon;
use crate::provider::Provider;
use crate::wait::await_condition;

impl ClusterBuilder {
    /// Starts the cluster and waits until it is ready. Builds binaries that are missing, which takes minutes once.
    ///
    /// # Errors
    /// When a binary cannot be built, or a component does not become ready; names the component and the end of its log.
    pub async fn start(self) -> Result<Cluster> {
        match self.provider {
            Provider::Local => self.start_local().await,
            Provider::Kind(_) | Provider::Existing(_) => external::start(&self).await,
        }
    }

    async fn start_local(self) -> Result<Cluster> {
        on_host(|| self.level.tools().iter().try_for_each(|&tool| assets::ensure(tool).map(drop)))?;
        let pki = Pki::create(&self.dir.join("pki"))?;
        let kubeconfig = self.dir.join("kubeconfig");
        write_kubeconfig(&kubeconfig, &pki, self.ports)?;
        let (etcd, apiserver) = (server::etcd(&self)?, server::apiserver(&self, &pki)?);
        fs::write(self.dir.join(LEVEL_FILE), self.level.to_string()).context("cannot record the cluster's level")?;
        let mut cluster = Cluster {
            dir: self.dir.clone(),
            provider: self.provider.clone(),
            level: self.level,
            kubeconfig,
            components: vec![etcd, apiserver],
            node: None,
        };
        for component in &cluster.components {
            component.start()?;
        }
        cluster.await_apiserver().await?;
        if self.level >= Level::ControlPlane {
            let daemons = controllers::daemons(&self.dir, &cluster.kubeconfig, &pki)?;
            for daemon in &daemons {
                daemon.start()?;
            }
            cluster.components.extend(daemons);
            controllers::await_working(&cluster).await?;
        }
        if self.level >= Level::Node {
            cluster.node = Some(Node::start(&cluster.dir, &cluster.kubeconfig).await?);
            await_node(&cluster).await?;
        }
        Ok(cluster)
    }
}

/// Writes a kubeconfig that names files by absolute path, so that any program may use it from anywhere in the lab.
pub(super) fn write_kubeconfig(path: &Path, pki: &Pki, ports: Ports) -> Result<()> {
    let content = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://127.0.0.1:{}", ports.api),
            "certificate-authority": pki.path("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": pki.admin_token()?}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
        "current-context": "lab",
    });
    fs::write(path, serde_json::to_vec_pretty(&content)?).with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until the cluster calls its node ready.
async fn await_node(cluster: &Cluster) -> Result<()> {
    let daemons = || cluster.node.iter().flat_map(|node| &node.daemons);
    let name = format!("node/{NODE_NAME}");
    let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    let ready = await_condition("the node is ready", Duration::from_secs(120), async || {
        if daemons().any(|daemon| daemon.exit_status().is_some()) {
            return Ok(Some(()));
        }
        let status = cluster.kubectl(["get", &name, path]).await?;
        Ok((status == "True").then_some(()))
    })
    .await;
    daemons().try_for_each(Daemon::ensure_running)?;
    ready
}
