//! The link to an API server at the level of bytes, for any protocol.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::proxy::Proxy;
use crate::cluster::Cluster;

/// A [`Proxy`] before the API server of a cluster, and a kubeconfig that leads through it. TLS goes through as it is: the
/// server's certificate is for all ports of loopback.
#[derive(Debug)]
pub struct ServerLink {
    /// The link.
    pub proxy: Proxy,
    kubeconfig: PathBuf,
}

impl ServerLink {
    /// Starts before `cluster`; the kubeconfig is written into `dir`.
    ///
    /// # Errors
    /// When there is no port, or a kubeconfig cannot be read or written.
    pub async fn start(cluster: &Cluster, dir: &Path) -> Result<Self> {
        let own = std::fs::read_to_string(cluster.kubeconfig()).context("the cluster's kubeconfig")?;
        let server = own.split("https://").nth(1).and_then(|rest| rest.split('"').next()).context("no server in it")?;
        let proxy = Proxy::start(server).await?;
        let through = own.replace(server, proxy.address());
        ensure!(through != own, "the kubeconfig does not name its server");
        let kubeconfig = dir.join("link.kubeconfig");
        std::fs::write(&kubeconfig, through).with_context(|| format!("cannot write {}", kubeconfig.display()))?;
        Ok(Self { proxy, kubeconfig })
    }

    /// Kubeconfig for clients that connect through the proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}
