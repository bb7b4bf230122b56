//! Deletes children that nothing else deletes.
//!
//! A namespaced MeshSync cannot own cluster-scoped children, and a finalizer would block its deletion while no operator
//! runs. So these children carry the uid of their MeshSync in a label, and the operator deletes those whose MeshSync no
//! longer exists: when a MeshSync is deleted, and at every start. A managed broker that a MeshSync no longer asks for is
//! deleted when that MeshSync is reconciled.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use meshsync_crds::MeshSync;
use meshsync_crds::names::LABEL_MESHSYNC_UID;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::requests::{delete, get};
use super::validate::{Broker, Validated};
use crate::cluster_info::ClusterInfo;
use crate::error::Error;

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Longer than any reconciliation takes.
const COLLECT_AGAIN: Duration = Duration::from_secs(30);

/// Collects at the start and whenever a MeshSync is deleted: at once, and again after [`COLLECT_AGAIN`], because a
/// reconciliation that was under way may have recreated what was just deleted.
pub async fn run(client: Client, mut cluster_info: watch::Receiver<Option<ClusterInfo>>) {
    if cluster_info.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut due = true;
    let mut again: Option<Instant> = None;
    let mut events =
        std::pin::pin!(watcher(Api::<MeshSync>::all(client.clone()), watcher::Config::default()).default_backoff());
    loop {
        if due {
            match collect(&client).await {
                Ok(removed) if removed.is_empty() => due = false,
                Ok(removed) => {
                    tracing::info!(?removed, "deleted what removed MeshSyncs left behind");
                    due = false;
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "cannot delete what removed MeshSyncs left behind");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        let later = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Delete(_) | watcher::Event::InitDone)) => {
                    due = true;
                    again = Some(Instant::now() + COLLECT_AGAIN);
                }
                Some(_) => {}
                None => return,
            },
            () = later => {
                due = true;
                again = None;
            }
        }
    }
}

/// Deletes cluster-scoped children whose MeshSync no longer exists, and returns their kinds and names.
///
/// # Errors
/// The first request that failed.
pub async fn collect(client: &Client) -> Result<Vec<String>, Error> {
    // Children before MeshSyncs: a child that is created in between belongs to a MeshSync that the second list contains.
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

/// A typed cluster-scoped object.
trait ClusterScoped:
    Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope> + Clone + DeserializeOwned + std::fmt::Debug
{
}

impl<K> ClusterScoped for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
{
}

async fn labelled<K: ClusterScoped>(client: &Client) -> Result<Vec<K>, Error> {
    let api: Api<K> = Api::all(client.clone());
    let list = api.list(&ListParams::default().labels(LABEL_MESHSYNC_UID)).await;
    Ok(list.map_err(Error::api(format!("list {}s", K::kind(&()))))?.items)
}

async fn remove<K: ClusterScoped>(
    client: &Client,
    children: Vec<K>,
    living: &BTreeSet<String>,
) -> Result<Vec<String>, Error> {
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

/// Deletes the managed broker of a MeshSync that has an external one, including its token and its data. Returns kinds and
/// names.
///
/// # Errors
/// The first request that failed.
pub(super) async fn remove_unwanted_broker(client: &Client, input: &Validated) -> Result<Vec<String>, Error> {
    if matches!(input.broker, Broker::Managed(_)) {
        return Ok(Vec::new());
    }
    let (namespace, name) = (&input.identity.namespace, input.identity.broker());
    let in_namespace =
        |prefix: &str, plural: &str, name: &str| format!("{prefix}/namespaces/{namespace}/{plural}/{name}");
    let orphans = [
        ("StatefulSet", in_namespace("/apis/apps/v1", "statefulsets", &name)),
        ("Service", in_namespace("/api/v1", "services", &name)),
        ("Service", in_namespace("/api/v1", "services", &format!("{name}-pods"))),
        ("NetworkPolicy", in_namespace("/apis/networking.k8s.io/v1", "networkpolicies", &name)),
        ("ConfigMap", in_namespace("/api/v1", "configmaps", &name)),
        ("Secret", in_namespace("/api/v1", "secrets", &name)),
    ];
    let mut removed = Vec::new();
    for (kind, path) in orphans {
        let Some(live) = get(client, &path, kind).await? else { continue };
        // An object with this name that somebody else created stays.
        let label = live.pointer("/metadata/labels").and_then(|labels| labels.get(LABEL_MESHSYNC_UID));
        if label.and_then(Value::as_str) != Some(&input.identity.uid) {
            continue;
        }
        delete(client, &path, kind).await?;
        removed.push(format!("{kind} {name}"));
    }
    Ok(removed)
}
