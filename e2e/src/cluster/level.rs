//! How much of Kubernetes a cluster runs.

use std::fmt;

use clap::ValueEnum;

use crate::assets::Tool;

/// How much of Kubernetes runs. A test pays only for what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// etcd and kube-apiserver: CRD admission, CEL, server-side apply, RBAC, watches. Up in about 3 s.
    Api,
    /// Also kube-controller-manager and kube-scheduler: garbage collection, namespace deletion, Deployments to (pending)
    /// Pods, service-account tokens. Up in about 5 s.
    ControlPlane,
    /// Also containerd, kubelet, kube-proxy and a cluster DNS: real pods of real images, service addresses, probes, logs and
    /// exec. Up in about 15 s. One at a time on a machine; a second one waits.
    Node,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Api => "api",
            Self::ControlPlane => "control-plane",
            Self::Node => "node",
        })
    }
}

impl Level {
    /// Programs that a cluster of this level runs, kubectl included.
    #[must_use]
    pub fn tools(self) -> &'static [Tool] {
        let all = &[
            Tool::KubeApiserver,
            Tool::Etcd,
            Tool::Kubectl,
            Tool::KubeControllerManager,
            Tool::KubeScheduler,
            Tool::Kubelet,
            Tool::KubeProxy,
            Tool::Coredns,
            Tool::Pause,
        ];
        let count = match self {
            Self::Api => 3,
            Self::ControlPlane => 5,
            Self::Node => all.len(),
        };
        all.get(..count).unwrap_or(all)
    }
}
