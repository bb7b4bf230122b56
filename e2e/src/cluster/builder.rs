//! Configuration of a cluster.

use std::path::PathBuf;

use super::level::Level;
use super::ports::Ports;
use crate::lab::Lab;
use crate::provider::Provider;

impl Lab {
    /// A cluster of `level`; the caller configures and starts it. A lab holds at most one cluster: create a second lab
    /// for a second cluster.
    #[must_use]
    pub fn cluster(&self, level: Level) -> ClusterBuilder {
        ClusterBuilder::new(self, level)
    }
}

/// Configuration of a cluster before its start.
#[derive(Debug)]
pub struct ClusterBuilder {
    pub(super) dir: PathBuf,
    pub(super) provider: Provider,
    pub(super) level: Level,
    pub(super) audit_policy: Option<String>,
    pub(super) apiserver_arguments: Vec<String>,
    pub(super) durable: bool,
    pub(super) ports: Ports,
}

impl ClusterBuilder {
    fn new(lab: &Lab, level: Level) -> Self {
        Self {
            dir: lab.dir().to_owned(),
            provider: lab.provider().clone(),
            level,
            audit_policy: None,
            apiserver_arguments: Vec::new(),
            durable: false,
            ports: Ports::USUAL,
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
}
