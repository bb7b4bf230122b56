//! The binaries that the lab runs, each from a pinned Go module.
//!
//! The lab takes a binary from `KUBEBUILDER_ASSETS` (kube-apiserver and etcd only), then from its cache, and otherwise
//! builds it into the cache. It never searches `PATH`, where another version may be installed.

mod build;
mod module;
mod recipe;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::progress::say;
use module::Module;
use recipe::Recipe;

/// A program that the lab runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the programs' own")]
pub enum Tool {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubelet,
    KubeProxy,
    Kubectl,
    NatsServer,
    Coredns,
    Pause,
}

const KUBERNETES: Option<&str> = Some("k8s.io/kubernetes");

impl Tool {
    const fn recipe(self) -> Recipe {
        let (binary, module, package, pinned_by) = match self {
            Self::Etcd => ("etcd", "servers", "go.etcd.io/etcd/server/v3", Some("go.etcd.io/etcd/server/v3")),
            Self::NatsServer => (
                "nats-server",
                "servers",
                "github.com/nats-io/nats-server/v2",
                Some("github.com/nats-io/nats-server/v2"),
            ),
            Self::KubeApiserver => ("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES),
            Self::KubeControllerManager => {
                ("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES)
            }
            Self::KubeScheduler => ("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", KUBERNETES),
            Self::Kubelet => ("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet", KUBERNETES),
            Self::KubeProxy => ("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", KUBERNETES),
            Self::Kubectl => ("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES),
            Self::Coredns => ("coredns", "coredns", ".", Some("github.com/coredns/coredns")),
            Self::Pause => ("pause", "pause", ".", None),
        };
        Recipe { binary, module, package, pinned_by }
    }

    /// The program's file name, which is also its name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.recipe().binary
    }

    /// Whether `KUBEBUILDER_ASSETS` may hold it, and may therefore replace the pinned build.
    const fn is_kubebuilder_asset(self) -> bool {
        matches!(self, Self::Etcd | Self::KubeApiserver)
    }
}

/// Returns the path of `tool`'s binary, building it first where needed.
///
/// Blocks, for minutes at the first build of kube-apiserver. Must run where the Go module proxy can be reached: inside
/// a lab's namespace, wrap the call in [`crate::lab::on_host`].
///
/// # Errors
/// When Go is missing or the build fails; the compiler's last words are part of the message.
pub fn ensure(tool: Tool) -> Result<PathBuf> {
    if let Some(found) = from_kubebuilder_assets(tool) {
        return Ok(found);
    }
    let recipe = tool.recipe();
    let module = Module::read(recipe.module)?;
    let path = cached_path(&module, &recipe)?;
    if path.is_file() {
        return Ok(path);
    }
    build::into_cache(&module, &recipe, &path)?;
    Ok(path)
}

/// Makes sure that all `tools` exist and says where each one comes from.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_all(tools: &[Tool]) -> Result<()> {
    for &tool in tools {
        let path = ensure(tool)?;
        say(format!("{}: {}", tool.name(), path.display()));
    }
    Ok(())
}

/// The `tools` that are not built yet.
///
/// # Errors
/// When a module file of the checkout cannot be read.
pub fn missing(tools: &[Tool]) -> Result<Vec<Tool>> {
    let mut absent = Vec::new();
    for &tool in tools {
        let recipe = tool.recipe();
        let cached = cached_path(&Module::read(recipe.module)?, &recipe)?;
        if from_kubebuilder_assets(tool).is_none() && !cached.is_file() {
            absent.push(tool);
        }
    }
    Ok(absent)
}

fn from_kubebuilder_assets(tool: Tool) -> Option<PathBuf> {
    let dir = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| tool.is_kubebuilder_asset() && !dir.is_empty())?;
    Some(Path::new(&dir).join(tool.name())).filter(|path| path.is_file())
}

fn cached_path(module: &Module, recipe: &Recipe) -> Result<PathBuf> {
    let key = module.cache_key(recipe.pinned_by)?;
    Ok(cache_dir()?.join("bin").join(key).join(recipe.binary))
}

/// The lab's cache: `MESHSYNC_LAB_CACHE`, else `meshsync-lab` in the user's cache directory.
///
/// # Errors
/// When neither that variable, `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    user_dir("MESHSYNC_LAB_CACHE", "XDG_CACHE_HOME", ".cache")
}

/// Resolves a per-user directory of the lab: `own` as it is, or `meshsync-lab` below `xdg` or below `$HOME/fallback`.
pub(crate) fn user_dir(own: &str, xdg: &str, fallback: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set(own) {
        return std::path::absolute(&dir).with_context(|| format!("{own} is not a usable path: {}", dir.display()));
    }
    set(xdg)
        .or_else(|| set("HOME").map(|home| home.join(fallback)))
        .map(|base| base.join("meshsync-lab"))
        .with_context(|| format!("no directory for the lab: set {own}, {xdg} or HOME"))
}
