//! A real Kubernetes inside a [`Lab`]: the binaries of any cluster, as processes.

mod controllers;
pub(crate) mod external;
mod level;
mod node;
mod pki;
mod server;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;

use crate::assets;
use crate::image::Image;
use crate::lab::{Lab, namespace_of, on_host};
use crate::process::Daemon;
use crate::provider::{Provider, kind};
use node::Node;
use pki::Pki;

pub use level::Level;

/// File in the lab's directory that tells the level of its cluster.
const LEVEL_FILE: &str = "level";

/// Configuration of a cluster that is about to start.
#[derive(Debug)]
pub struct ClusterBuilder {
    dir: PathBuf,
    provider: Provider,
    level: Level,
    audit_policy: Option<String>,
    apiserver_arguments: Vec<String>,
    durable: bool,
}

impl ClusterBuilder {
    pub(crate) fn new(lab: &Lab, level: Level) -> Self {
        Self {
            dir: lab.dir().to_owned(),
            provider: lab.provider().clone(),
            level,
            audit_policy: None,
            apiserver_arguments: Vec::new(),
            durable: false,
        }
    }

    /// Records requests as `policy` (YAML of `audit.k8s.io/v1`) says; read them with [`Cluster::audit_events`].
    #[must_use]
    pub fn audit(mut self, policy: impl Into<String>) -> Self {
        self.audit_policy = Some(policy.into());
        self
    }

    /// Adds an argument to kube-apiserver, such as `--feature-gates=WatchList=false`.
    #[must_use]
    pub fn apiserver_arg(mut self, argument: impl Into<String>) -> Self {
        self.apiserver_arguments.push(argument.into());
        self
    }

    /// Makes etcd sync to disk, for tests that kill it and expect nothing to be lost.
    #[must_use]
    pub const fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Starts the cluster and waits until it is ready. Builds binaries that are missing, which takes minutes once.
    ///
    /// # Errors
    /// When a binary cannot be had, or a component does not become ready; names the component and the end of its log.
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
        write_kubeconfig(&kubeconfig, &pki)?;
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
            cluster.node = Some(Node::start(&cluster).await?);
        }
        Ok(cluster)
    }
}

/// A running cluster. Its components end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    provider: Provider,
    level: Level,
    kubeconfig: PathBuf,
    components: Vec<Daemon>,
    node: Option<Node>,
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

    /// The cluster that `cargo lab up`, or an earlier part of this program, left running in `lab`. Its components are out of
    /// reach of [`component`](Self::component); they go on when this is dropped.
    ///
    /// # Errors
    /// When no cluster runs there.
    pub fn attach(lab: &Lab) -> Result<Self> {
        let (dir, provider) = (lab.dir().to_owned(), lab.provider().clone());
        let kubeconfig = dir.join("kubeconfig");
        Ok(Self { level: Self::level_in(lab)?, dir, provider, kubeconfig, components: Vec::new(), node: None })
    }

    /// What of Kubernetes runs.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// What the paths of the control groups of its pods have in common, where they are on this machine.
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

    /// Runs kubectl, built from the same Kubernetes release, as administrator. Returns its standard output.
    ///
    /// # Errors
    /// When it exits with a code other than 0: the message holds what it wrote to standard error.
    pub async fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        self.kubectl_with_input(arguments, "").await
    }

    /// As [`kubectl`](Self::kubectl), with `input` on its standard input: `["apply", "-f", "-"]`.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub async fn kubectl_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: impl AsRef<[u8]>,
    ) -> Result<String> {
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let mut child = tokio::process::Command::from(external::kubectl(&self.provider, &self.dir)?)
            .args(&arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes it early; its exit code tells whether that was wrong.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_ref()).await;
        }
        let output = child.wait_with_output().await.context("cannot wait for kubectl")?;
        if !output.status.success() {
            let line = arguments.join(OsStr::new(" "));
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("`kubectl {}` failed ({}): {}", line.to_string_lossy(), output.status, words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies YAML or JSON documents.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub async fn apply(&self, documents: impl AsRef<[u8]>) -> Result<String> {
        self.kubectl_with_input(["apply", "-f", "-"], documents).await
    }

    /// A component, to be stopped, killed, started again or asked for its log: `etcd`, `kube-apiserver`,
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
        server::await_ready(self).await
    }

    /// Makes `image` available to the cluster's pods, under its reference. They need `imagePullPolicy: IfNotPresent` (or
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
            Provider::Kind(name) => external::run(kind::load(name, &archive))?,
            Provider::Existing(context) => {
                bail!("the lab cannot load images into `{context}`: push {} to its registry", image.reference())
            }
        }
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }

    /// The command `kubectl` for the cluster of `lab`, to be run inside the lab.
    ///
    /// # Errors
    /// When kubectl cannot be had.
    pub fn kubectl_command(lab: &Lab) -> Result<std::process::Command> {
        external::kubectl(lab.provider(), lab.dir())
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

/// Writes a kubeconfig that names files by absolute path, so that any program may use it from anywhere in the lab.
fn write_kubeconfig(path: &Path, pki: &Pki) -> Result<()> {
    let content = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://127.0.0.1:{}", server::PORT),
            "certificate-authority": pki.path("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": pki.admin_token()?}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
        "current-context": "lab",
    });
    fs::write(path, serde_json::to_vec_pretty(&content)?).with_context(|| format!("cannot write {}", path.display()))
}
