//! Watches on other objects than MeshSyncs, so that the operator reacts to a change at once.
//!
//! The controller's own `owns` and `watches` are not used, because there one failing watch starves all others. Here a failing
//! watch disturbs no other one, and each only notifies that something changed.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use meshsync_crds::names::{CEILING_CLUSTER_ROLE, CRD_NAME, LABEL_MESHSYNC_UID};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// Notifies of changes to the CustomResourceDefinition, whose annotation concerns every MeshSync, and of the ceiling
/// and its binding.
pub async fn watch_cluster_info(client: Client, refresh: Arc<Notify>) {
    tokio::join!(
        watch_named::<CustomResourceDefinition>(&client, CRD_NAME, &refresh),
        watch_named::<ClusterRole>(&client, CEILING_CLUSTER_ROLE, &refresh),
        watch_named::<ClusterRoleBinding>(&client, CEILING_CLUSTER_ROLE, &refresh),
    );
}

/// Notifies of changes to children, so that the operator repairs what somebody changed or deleted.
pub async fn watch_children(client: Client, changed: Arc<Notify>) {
    tokio::join!(
        watch_kind::<Deployment>(&client, &changed),
        watch_kind::<StatefulSet>(&client, &changed),
        watch_kind::<ConfigMap>(&client, &changed),
        watch_kind::<Secret>(&client, &changed),
        watch_kind::<Service>(&client, &changed),
        watch_kind::<ServiceAccount>(&client, &changed),
        watch_kind::<NetworkPolicy>(&client, &changed),
        watch_kind::<Role>(&client, &changed),
        watch_kind::<RoleBinding>(&client, &changed),
        watch_kind::<ClusterRole>(&client, &changed),
        watch_kind::<ClusterRoleBinding>(&client, &changed),
        watch_kind::<FlowSchema>(&client, &changed),
    );
}

async fn watch_named<K>(client: &Client, name: &str, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    watch::<K>(client, watcher::Config::default().fields(&format!("metadata.name={name}")), notify).await;
}

async fn watch_kind<K>(client: &Client, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    watch::<K>(client, watcher::Config::default().labels(LABEL_MESHSYNC_UID), notify).await;
}

async fn watch<K>(client: &Client, config: watcher::Config, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            // The objects that exist when a watch starts are not changes.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => notify.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot watch {}", K::kind(&())),
        }
    }
}
