//! Names, labels and owners of children.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use meshsync_crds::MeshSync;
use meshsync_crds::names::CRD_NAME;

use crate::meshsync::validate::Validated;

/// Metadata of a namespaced child, which the garbage collector deletes with its MeshSync.
pub(super) fn namespaced(input: &Validated, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(input.identity.namespace.clone()),
        labels: Some(input.identity.labels(component)),
        owner_references: Some(vec![OwnerReference {
            api_version: <MeshSync as Resource>::api_version(&()).into_owned(),
            kind: <MeshSync as Resource>::kind(&()).into_owned(),
            name: input.identity.name.clone(),
            uid: input.identity.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(false),
        }]),
        ..ObjectMeta::default()
    }
}

/// Metadata of a cluster-scoped child. A namespaced object cannot own it, so the CustomResourceDefinition does: uninstalling
/// MeshSync deletes the child at the latest. Normally the operator deletes it earlier, by its label.
pub(super) fn cluster_scoped(input: &Validated) -> ObjectMeta {
    ObjectMeta {
        name: Some(input.identity.cluster_scoped()),
        labels: Some(input.identity.labels("agent")),
        owner_references: Some(vec![OwnerReference {
            api_version: "apiextensions.k8s.io/v1".to_owned(),
            kind: "CustomResourceDefinition".to_owned(),
            name: CRD_NAME.to_owned(),
            uid: input.crd_uid.clone(),
            controller: None,
            block_owner_deletion: Some(false),
        }]),
        ..ObjectMeta::default()
    }
}
