//! What is watched besides MeshSyncs, so that a change is acted upon at once.
//!
//! Not through the controller's own `owns` and `watches`: there, one watch that fails starves all others. Here each keeps
//! its errors to itself and only tells that something changed.

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

/// Tells of changes of the definition, whose annotation reaches every MeshSync, and of the ceiling and its binding.
pub async fn follow_surroundings(client: Client, look_again: &Notify) {
    tokio::join!(
        follow_one::<CustomResourceDefinition>(&client, CRD_NAME, look_again),
        follow_one::<ClusterRole>(&client, CEILING_CLUSTER_ROLE, look_again),
        follow_one::<ClusterRoleBinding>(&client, CEILING_CLUSTER_ROLE, look_again),
    );
}

/// Tells of changes of children: what somebody changed or deleted is put right.
pub async fn follow_children(client: Client, changed: &Notify) {
    tokio::join!(
        follow_kind::<Deployment>(&client, changed),
        follow_kind::<StatefulSet>(&client, changed),
        follow_kind::<ConfigMap>(&client, changed),
        follow_kind::<Secret>(&client, changed),
        follow_kind::<Service>(&client, changed),
        follow_kind::<ServiceAccount>(&client, changed),
        follow_kind::<NetworkPolicy>(&client, changed),
        follow_kind::<Role>(&client, changed),
        follow_kind::<RoleBinding>(&client, changed),
        follow_kind::<ClusterRole>(&client, changed),
        follow_kind::<ClusterRoleBinding>(&client, changed),
        follow_kind::<FlowSchema>(&client, changed),
    );
}

async fn follow_one<K>(client: &Client, name: &str, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    follow::<K>(client, watcher::Config::default().fields(&format!("metadata.name={name}")), notify).await;
}

async fn follow_kind<K>(client: &Client, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    follow::<K>(client, watcher::Config::default().labels(LABEL_MESHSYNC_UID), notify).await;
}

async fn follow<K>(client: &Client, config: watcher::Config, notify: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            // What a watch begins with tells nothing new.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => notify.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot watch {}", K::kind(&())),
        }
    }
}
