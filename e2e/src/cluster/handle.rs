//! A running cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;

use super::level::Level;
use super::node::{self, Node};
use super::server;
use crate::image::Image;
use crate::lab::{Lab, namespace_of};
use crate::process::{Daemon, run};
use crate::provider::{Provider, kind};

/// File in the lab's directory that names the level of its cluster.
pub(super) const LEVEL_FILE: &str = "level";

/// A running cluster. Its components end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) provider: Provider,
    pub(super) level: Level,
    pub(super) kubeconfig: PathBuf,
    pub(super) components: Vec<Daemon>,
    pub(super) node: Option<Node>,
}

impl Cluster {
    /// The level of the cluster that runs in `lab`.
    ///
    /// # Errors
    /// When none does.
    pub fn level_in(lab: &Lab) -> Result<Level> {
        let level = fs::read_to_string(lab.dir().join(LEVEL_FILE)).context("no cluster runs in this lab")?;
        Level::from_str(&level, false).map_err(|reason| anyhow!("{LEVEL_FILE}: {reason}"))
    }

    /// The cluster that `cargo lab up`, or an earlier part of this program, left running in `lab`.
    /// [`component`](Self::component) cannot reach its components; they continue when this is dropped.
    ///
    /// # Errors
    /// When no cluster runs there.
    pub fn attach(lab: &Lab) -> Result<Self> {
        let (dir, provider) = (lab.dir().to_owned(), lab.provider().clone());
        let kubeconfig = dir.join("kubeconfig");
        Ok(Self { level: Self::level_in(lab)?, dir, provider, kubeconfig, components: Vec::new(), node: None })
    }

    /// The level of the cluster.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Common prefix of the control groups of its pods, if they run on this machine.
    #[must_use]
    pub fn pods_control_group(&self) -> String {
        let name = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match self.provider {
            Provider::Local => format!("/{}/kubepods", namespace_of(name)),
            Provider::Kind(_) | Provider::Existing(_) => "/kubepods".to_owned(),
        }
    }

    /// Path of the administrator's kubeconfig. Its server is `https://127.0.0.1:6443`, inside the lab.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with the administrator's rights that retries nothing by itself.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<kube::Client> {
        let file = kube::config::Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        config.default_retry = false;
        Ok(kube::Client::try_from(config)?)
    }

    /// A component, which the caller may stop, kill, start again or read the log of: `etcd`, `kube-apiserver`,
    /// `kube-controller-manager`, `kube-scheduler`, `containerd`, `coredns`, `kubelet`, `kube-proxy`.
    ///
    /// # Errors
    /// When the cluster's level has no such component.
    pub fn component(&self, name: &str) -> Result<&Daemon> {
        let of_node = self.node.iter().flat_map(|node| &node.daemons);
        self.components
            .iter()
            .chain(of_node)
            .find(|component| component.name() == name)
            .with_context(|| format!("a cluster of level {:?} has no component `{name}`", self.level))
    }

    /// Stops a component as a rolling update would (SIGTERM), starts it again, and waits until the API server is ready.
    ///
    /// # Errors
    /// When it does not end or does not come back.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let component = self.component(name)?;
        component.stop(Duration::from_secs(60)).await?;
        component.start()?;
        self.await_apiserver().await
    }

    /// Waits until the API server reports ready.
    ///
    /// # Errors
    /// When it has ended, or is not ready within a minute.
    pub async fn await_apiserver(&self) -> Result<()> {
        server::await_ready(&self.client().await?, &self.components).await
    }

    /// Makes `image` available to the cluster's pods under its reference. They need `imagePullPolicy: IfNotPresent` (or
    /// `Never`), which is the default for references with a tag other than `latest`.
    ///
    /// # Errors
    /// When the cluster has no node, or the image cannot be built or imported.
    pub async fn load(&self, image: &Image) -> Result<()> {
        let file = image.reference().replace(['/', ':'], "_");
        let archive = image.write_to(&self.dir.join(format!("{file}.tar")))?;
        match &self.provider {
            Provider::Local if self.level < Level::Node => bail!("a cluster of level {} runs no pods", self.level),
            Provider::Local => node::load(&self.dir, &archive).await?,
            Provider::Kind(name) => run(kind::load(name, &archive))?,
            Provider::Existing(context) => {
                bail!("the lab cannot load images into `{context}`: push {} to its registry", image.reference())
            }
        }
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }

    /// All audit events so far, oldest first; empty without [`ClusterBuilder::audit`].
    ///
    /// # Errors
    /// When a whole line of the log is no JSON.
    pub fn audit_events(&self) -> Result<Vec<serde_json::Value>> {
        let log = fs::read_to_string(self.dir.join(server::AUDIT_LOG)).unwrap_or_default();
        // The last line may be half-written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Lets the components outlive this value, for a lab that stays up.
    pub fn leave_running(self) {
        let of_node = self.node.into_iter().flat_map(|node| node.daemons);
        self.components.into_iter().chain(of_node).for_each(Daemon::leave_running);
    }
}
