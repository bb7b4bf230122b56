//! What is watched, and under which configuration: the planner decides it, everybody else reads it.

mod served;
mod watch_spec;

use std::collections::BTreeSet;
use std::sync::Arc;

use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::discovery::ServedType;
use meshsync_runtime::discovery::FailedGroup;

pub use served::Served;
pub use watch_spec::WatchSpec;

/// The plan in force.
#[derive(Clone, Debug, Default)]
pub struct ActivePlan {
    /// The configuration; `None` until the first one could be applied.
    pub config: Option<Arc<AgentConfig>>,
    /// A later one that was refused: its revision, where it could be read that far, and why.
    pub rejected: Option<(String, String)>,
    /// What is noteworthy about the configuration in force.
    pub problems: Vec<String>,
    /// Everything that the API server serves, and what it served not long ago.
    pub served: Arc<Vec<ServedType>>,
    /// The last answer of discovery.
    pub discovery: Served,
    /// Names of the types that are watched.
    pub watched: BTreeSet<String>,
    /// How each of them is watched.
    pub plan: Arc<Vec<WatchSpec>>,
    /// Groups whose discovery failed.
    pub failed: Vec<FailedGroup>,
}
