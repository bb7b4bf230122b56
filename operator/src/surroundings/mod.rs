//! What every MeshSync depends on besides itself: discovery, the ceiling, the cluster-wide default.
//!
//! Gathered once and shared; a change of any of them reconciles every MeshSync.

mod ceiling;
pub(crate) mod cluster_default;
mod gather;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshsync_crds::informer_config::InformerConfig;
use meshsync_runtime::discovery::Discovered;

pub use gather::Gatherer;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// UID of the CustomResourceDefinition, which owns cluster-scoped children.
    pub crd_uid: String,
    /// What the API server serves.
    pub discovered: Arc<Discovered>,
    /// Types that an agent may not be granted, with the reason: all others that are served may be.
    pub ungrantable: Arc<BTreeMap<String, String>>,
    /// The cluster-wide default.
    pub default: ClusterDefault,
}

impl Surroundings {
    /// Whether an agent may be granted to read `plural` of `group`, which is served.
    #[must_use]
    pub fn is_grantable(&self, group: &str, plural: &str) -> bool {
        let served = self.discovered.types.iter().find(|served| served.group == group && served.plural == plural);
        served.is_some_and(|served| !self.ungrantable.contains_key(&served.name()))
    }
}

/// The cluster-wide default of `informer_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDefault {
    /// What is in force.
    pub config: InformerConfig,
    /// Whether that is the built-in one.
    pub is_built_in: bool,
    /// What is wrong with a newer one that is not in force.
    pub problem: Option<String>,
}

impl Default for ClusterDefault {
    fn default() -> Self {
        Self { config: InformerConfig::built_in(), is_built_in: true, problem: None }
    }
}
