//! A MeshSync and a small cluster for the tests of the pure steps.

use std::sync::Arc;

use meshsync_crds::MeshSync;
use meshsync_crds::discovery::ServedType;
use meshsync_runtime::discovery::Discovered;
use serde_json::{Value, json};

use super::dereference::Dereferenced;
use super::validate::Defaults;
use crate::cluster_info::ClusterInfo;

pub(super) fn defaults() -> Defaults {
    Defaults { agent_image: "agent:1".into(), nats_image: "nats:2".into(), run_as_user: Some(4711) }
}

/// A type of version `v1` that can be listed and watched.
pub(crate) fn served(group: &str, plural: &str, kind: &str) -> ServedType {
    ServedType {
        singular: kind.to_lowercase(),
        verbs: ["list", "watch"].map(str::to_owned).to_vec(),
        ..ServedType::named(group, "v1", kind, plural)
    }
}

/// A MeshSync with `spec`, in a cluster that serves four types of which `ungrantable` are beyond the ceiling.
pub(super) fn dereferenced(spec: Value, ungrantable: &[&str]) -> Dereferenced {
    let meshsync: MeshSync = serde_json::from_value(json!({
        "apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
        "metadata": {"name": "ms", "namespace": "ns", "uid": "uid-of-ms", "generation": 7},
        "spec": spec,
    }))
    .unwrap();
    let types = vec![
        served("", "configmaps", "ConfigMap"),
        served("", "pods", "Pod"),
        served("", "secrets", "Secret"),
        served("apps", "deployments", "Deployment"),
    ];
    let ungrantable = ungrantable.iter().map(|name| ((*name).to_owned(), "beyond".to_owned())).collect();
    Dereferenced {
        meshsync,
        cluster_info: ClusterInfo {
            cluster_id: "uid-of-cluster".to_owned(),
            crd_uid: "uid-of-crd".to_owned(),
            discovered: Arc::new(Discovered { types, ..Discovered::default() }),
            ungrantable: Arc::new(ungrantable),
            ..ClusterInfo::default()
        },
        secret_versions: vec!["secret/1".to_owned()],
        ..Dereferenced::default()
    }
}
