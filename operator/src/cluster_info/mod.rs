//! What every MeshSync depends on besides itself: discovery, the ceiling, and the cluster-wide default.
//!
//! It is read once and shared. A change of any part reconciles every MeshSync.

mod ceiling;
pub(crate) mod default_config;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshsync_crds::informer_config::InformerConfig;
use meshsync_runtime::discovery::Discovered;

pub use watch::ClusterInfoWatcher;

/// What every MeshSync depends on besides itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterInfo {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// UID of the CustomResourceDefinition, which owns cluster-scoped children.
    pub crd_uid: String,
    /// What the API server serves.
    pub discovered: Arc<Discovered>,
    /// Served types that the operator may not let an agent read, each with the reason.
    pub ungrantable: Arc<BTreeMap<String, String>>,
    /// The cluster-wide default.
    pub default: ClusterDefault,
}

impl ClusterInfo {
    /// Whether `plural` of `group` is served and the operator may let an agent read it.
    #[must_use]
    pub fn is_grantable(&self, group: &str, plural: &str) -> bool {
        let served = self.discovered.types.iter().find(|served| served.group == group && served.plural == plural);
        served.is_some_and(|served| !self.ungrantable.contains_key(&served.name()))
    }
}

/// The cluster-wide default of `informer_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDefault {
    /// The configuration in force.
    pub config: InformerConfig,
    /// Whether the configuration in force is the built-in one.
    pub is_built_in: bool,
    /// Why a newer default is not in force.
    pub problem: Option<String>,
}

impl Default for ClusterDefault {
    fn default() -> Self {
        Self { config: InformerConfig::built_in(), is_built_in: true, problem: None }
    }
}
