//! Step one: reads everything that a MeshSync refers to.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, SecretKeySelector};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{Api, Client, ResourceExt};
use meshsync_crds::MeshSync;
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::names::{AGENT_CONFIG_KEY, ANNOTATION_RESTARTED_FOR, LABEL_MESHSYNC_UID, OPERATOR_FIELD_MANAGER};

use super::names::Identity;
use crate::cluster_info::ClusterInfo;
use crate::error::Error;

/// A MeshSync and what it refers to, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Dereferenced {
    /// The MeshSync.
    pub meshsync: MeshSync,
    /// What it depends on besides itself.
    pub cluster_info: ClusterInfo,
    /// The configuration that its agent was last given; none if it cannot be read.
    pub last_config: Option<AgentConfig>,
    /// Whether somebody else than the operator gave it.
    pub config_edited: bool,
    /// Rules that its agent has now.
    pub granted: Vec<k8s_openapi::api::rbac::v1::PolicyRule>,
    /// Whether the managed broker's Secret exists.
    pub broker_secret_exists: bool,
    /// Secrets and keys that it names and that do not exist.
    pub missing_secrets: Vec<String>,
    /// Versions of the Secrets that its pods get credentials from: a change rolls the pods.
    pub secret_versions: Vec<String>,
    /// Whether it names Secrets of others, of whose changes nobody tells.
    pub names_secrets: bool,
    /// Whether the agent's Deployment exists.
    pub agent_exists: bool,
    /// Whether it is available.
    pub agent_available: bool,
    /// Whether the managed broker is ready.
    pub broker_ready: bool,
    /// Value of the annotation that rolled the agent last.
    pub restarted_for: Option<String>,
}

/// Reads what `meshsync` refers to.
///
/// # Errors
/// A request that failed for another reason than that the object does not exist.
pub async fn dereference(
    client: &Client,
    meshsync: MeshSync,
    cluster_info: ClusterInfo,
) -> Result<Dereferenced, Error> {
    let identity = Identity::of(&meshsync);
    let namespace = identity.namespace.as_str();
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let stateful_sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    let (agent, broker, cluster) = (identity.agent(), identity.broker(), identity.cluster_scoped());
    let read = |what: &str| Error::api(format!("read {what} of MeshSync {namespace}/{}", identity.name));

    // A MeshSync of the same name that is gone may have left its own, which is not ours to go on with.
    let is_own = |labels: &BTreeMap<String, String>| labels.get(LABEL_MESHSYNC_UID) == Some(&identity.uid);
    let config_map = config_maps.get_opt(&agent).await.map_err(read("the ConfigMap"))?;
    let config_map = config_map.filter(|map| is_own(map.labels()));
    let config_edited = config_map.as_ref().is_some_and(is_edited);
    let last_config =
        config_map.and_then(|map| AgentConfig::parse(map.data?.get(AGENT_CONFIG_KEY).map(String::as_str)?).ok());
    let granted = cluster_roles.get_opt(&cluster).await.map_err(read("the ClusterRole"))?;
    let deployment = deployments.get_opt(&agent).await.map_err(read("the Deployment"))?;
    let stateful_set = stateful_sets.get_opt(&broker).await.map_err(read("the StatefulSet"))?;
    let own_secret = secrets.get_opt(&broker).await.map_err(read("the broker's Secret"))?;
    let mut secret_versions: Vec<String> = own_secret.iter().filter_map(version).collect();
    let named = named_secrets(&meshsync);
    let names_secrets = !named.is_empty();
    let missing_secrets = missing(&secrets, named, &identity, &mut secret_versions).await?;
    Ok(Dereferenced {
        last_config,
        config_edited,
        granted: granted.and_then(|role| role.rules).unwrap_or_default(),
        broker_secret_exists: own_secret.is_some(),
        missing_secrets,
        names_secrets,
        secret_versions,
        agent_exists: deployment.as_ref().is_some_and(|deployment| is_own(deployment.labels())),
        agent_available: deployment.as_ref().is_some_and(is_available),
        broker_ready: stateful_set.and_then(|set| set.status?.ready_replicas).is_some_and(|ready| ready > 0),
        restarted_for: deployment
            .and_then(|deployment| deployment.spec?.template.metadata?.annotations?.remove(ANNOTATION_RESTARTED_FOR)),
        meshsync,
        cluster_info,
    })
}

/// Names those of the Secrets that do not exist or lack the key, and adds the versions of the others to `versions`.
async fn missing(
    secrets: &Api<Secret>,
    named: Vec<SecretKeySelector>,
    Identity { namespace, name, .. }: &Identity,
    versions: &mut Vec<String>,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for wanted in named {
        let read = Error::api(format!("read a Secret of MeshSync {namespace}/{name}"));
        match secrets.get_opt(&wanted.name).await.map_err(read)? {
            Some(secret) if has_key(&secret, &wanted.key) => versions.extend(version(&secret)),
            Some(_) => missing.push(format!("key `{}` of Secret {namespace}/{}", wanted.key, wanted.name)),
            None => missing.push(format!("Secret {namespace}/{}", wanted.name)),
        }
    }
    Ok(missing)
}

/// Whether somebody else wrote the configuration last: who changes a field takes it over from its owner.
fn is_edited(map: &ConfigMap) -> bool {
    let configuration = format!("/f:data/f:{AGENT_CONFIG_KEY}");
    map.managed_fields().iter().any(|entry| {
        let is_owner = entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&configuration).is_some());
        is_owner && entry.manager.as_deref() != Some(OPERATOR_FIELD_MANAGER)
    })
}

/// Changes with every edit and every re-creation. Not a hash of the content: that would give a short password away.
fn version(secret: &Secret) -> Option<String> {
    Some(format!("{}/{}", secret.uid()?, secret.resource_version()?))
}

/// Every Secret that the spec names.
fn named_secrets(meshsync: &MeshSync) -> Vec<SecretKeySelector> {
    let Some(external) = meshsync.spec.broker.as_ref().and_then(|broker| broker.external.as_ref()) else {
        return Vec::new();
    };
    let credentials = external.credentials.as_ref();
    [
        credentials.and_then(|c| c.token.clone()),
        credentials.and_then(|c| c.user.clone()),
        credentials.and_then(|c| c.password.clone()),
        credentials.and_then(|c| c.nkey.clone()),
        credentials.and_then(|c| c.creds.clone()),
        external.tls.as_ref().and_then(|tls| tls.ca.clone()),
    ]
    .into_iter()
    .flatten()
    .filter(|selector| selector.optional != Some(true))
    .collect()
}

fn has_key(secret: &Secret, key: &str) -> bool {
    secret.data.as_ref().is_some_and(|data| data.contains_key(key))
}

/// The controller has seen the newest spec, and a pod of it is available.
fn is_available(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or_default() > 0
        && status.available_replicas.unwrap_or_default() > 0
}
