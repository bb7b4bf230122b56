//! State that all reconciliations share.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use kube::Client;
use tokio::sync::watch;

use super::events::Events;
use super::validate::Defaults;
use crate::cluster_info::ClusterInfo;
use crate::metrics::Metrics;

/// State that all reconciliations share.
pub struct Context {
    /// Client for all requests.
    pub client: Client,
    /// What every MeshSync depends on; `None` until all of it has been read once.
    pub cluster_info: watch::Receiver<Option<ClusterInfo>>,
    /// Values for fields that a MeshSync leaves out.
    pub defaults: Defaults,
    /// Metrics of reconciliations.
    pub metrics: Metrics,
    /// For each uid of a MeshSync, the revision that its agent has not acknowledged yet, and since when.
    pub waiting: Mutex<HashMap<String, (String, Instant)>>,
    /// Writes events.
    pub events: Events,
}
