//! A cluster whose etcd is a copy of another one's: the same ids, names, credentials and objects. From there on each has a history
//! of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::builder::ClusterBuilder;
use super::handle::{Cluster, LEVEL_FILE};
use super::level::Level;
use super::pki::Pki;
use super::ports::Ports;
use super::server::{self, DATA_DIR};
use super::start::write_kubeconfig;

impl Cluster {
    /// Starts a clone beside this cluster, of level [`Level::Api`] whatever this one has. The API server of this one is without its
    /// storage for a moment.
    ///
    /// # Errors
    /// When etcd does not stop, or a component of either does not start.
    pub async fn cloned(&self) -> Result<Self> {
        let dir = self.dir.join("clone");
        // Another test of the same cluster may have made one.
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir.join("logs")).with_context(|| format!("cannot create {}", dir.display()))?;
        let etcd = self.component("etcd")?;
        etcd.stop(Duration::from_secs(60)).await?;
        let (from, to) = (self.dir.join(DATA_DIR), dir.join(DATA_DIR));
        let copied =
            std::process::Command::new("cp").arg("-a").args([&from, &to]).status().context("cannot run `cp`")?;
        anyhow::ensure!(copied.success(), "cannot copy {}", from.display());
        etcd.start()?;
        self.await_apiserver().await?;

        let kubeconfig = dir.join("kubeconfig");
        let pki = Pki::at(&self.dir.join("pki"));
        let builder = ClusterBuilder {
            dir: dir.clone(),
            provider: self.provider.clone(),
            level: Level::Api,
            audit_policy: None,
            apiserver_arguments: Vec::new(),
            durable: false,
            ports: Ports::OF_A_CLONE,
        };
        write_kubeconfig(&kubeconfig, &pki, builder.ports)?;
        fs::write(dir.join(LEVEL_FILE), Level::Api.to_string()).context("cannot record the cluster's level")?;
        let components = vec![server::etcd(&builder)?, server::apiserver(&builder, &pki)?];
        let clone = Self { provider: builder.provider, level: Level::Api, kubeconfig, components, node: None, dir };
        clone.components.iter().try_for_each(crate::process::Daemon::start)?;
        clone.await_apiserver().await?;
        Ok(clone)
    }
}
