//! Removes cluster-scoped children whose MeshSync is gone.
//!
//! A namespaced object cannot own a cluster-scoped one, and a finalizer would make deletion hang when the operator is
//! not there. So they carry their MeshSync's uid in a label and are swept: when a MeshSync goes, and at every start.

use std::collections::BTreeSet;

use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use meshsync_crds::MeshSync;
use meshsync_crds::names::LABEL_MESHSYNC_UID;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Sweeps; gives the names of what was removed.
///
/// # Errors
/// The first request that failed.
pub async fn sweep(client: &Client) -> Result<Vec<String>, Error> {
    // Children first: one that is made while we look belongs to a MeshSync that the second list shows.
    let bindings = labelled::<ClusterRoleBinding>(client).await?;
    let roles = labelled::<ClusterRole>(client).await?;
    let flows = labelled::<FlowSchema>(client).await?;
    if bindings.is_empty() && roles.is_empty() && flows.is_empty() {
        return Ok(Vec::new());
    }
    let meshsyncs: Api<MeshSync> = Api::all(client.clone());
    let list = meshsyncs.list(&ListParams::default()).await.map_err(Error::api("list MeshSyncs"))?;
    let living: BTreeSet<String> = list.items.iter().filter_map(ResourceExt::uid).collect();
    let mut removed = remove(client, bindings, &living).await?;
    removed.extend(remove(client, roles, &living).await?);
    removed.extend(remove(client, flows, &living).await?);
    Ok(removed)
}

async fn labelled<K>(client: &Client) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let list = api.list(&ListParams::default().labels(LABEL_MESHSYNC_UID)).await;
    Ok(list.map_err(Error::api(format!("list {}s", K::kind(&()))))?.items)
}

async fn remove<K>(client: &Client, children: Vec<K>, living: &BTreeSet<String>) -> Result<Vec<String>, Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut removed = Vec::new();
    for child in children {
        let owner = child.labels().get(LABEL_MESHSYNC_UID);
        if owner.is_none_or(|uid| living.contains(uid)) {
            continue;
        }
        let name = format!("{} {}", K::kind(&()), child.name_any());
        match api.delete(&child.name_any(), &DeleteParams::default()).await {
            Ok(_) => removed.push(name),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api(format!("delete {name}"))(error)),
        }
    }
    Ok(removed)
}
