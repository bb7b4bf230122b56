//! What a MeshSync is told about itself.
//!
//! Two writers: `agent` belongs to the agent (field manager `meshsync-agent`), everything else to the operator
//! (`meshsync-operator`). Both write with server-side apply, so that neither touches the other's fields.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::informer_config::InformerConfig;

/// What is in force, and how it goes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshSyncStatus {
    /// Latest observations: Ready, Resolved, Authorized, BrokerAvailable, AgentAvailable, Published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    // Without the list map, server-side apply treats all conditions as one value.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The configuration that the operator has put in force, defaults filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// What is selected, per tier of discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<TiersStatus>,
    /// Where the agent publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
    /// What the agent says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
}

/// The configuration that the operator has put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Identifies the configuration; compare with `agent.appliedRevision`.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// Where it comes from.
    pub source: ConfigurationSource,
    /// What is in force, defaults filled in.
    #[serde(rename = "informer_config")]
    pub informer_config: InformerConfig,
}

/// Where an `informer_config` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigurationSource {
    /// Built into the operator.
    #[default]
    BuiltIn,
    /// The annotation of the CustomResourceDefinition.
    ClusterDefault,
    /// The MeshSync's own spec, unset fields from the cluster-wide default.
    Spec,
}

/// What is selected, per tier of discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TiersStatus {
    /// Tier 1: types that the API server serves.
    pub presence: PresenceTier,
    /// Tier 2: types that are listed and watched.
    pub inspection: InspectionTier,
}

/// Tier 1: what exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceTier {
    /// Types that the API server serves.
    pub types: i32,
    /// API groups whose discovery failed, e.g. because an aggregated API server is down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    pub failed_groups: Vec<String>,
}

/// Tier 2: what is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InspectionTier {
    /// Types that the configuration selects and the agent may read.
    pub types: i32,
    /// Types that the configuration selects but that the agent may not be granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub refused: Vec<RefusedType>,
}

/// A type that was asked for and is not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedType {
    /// The type, e.g. `deployments.apps`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// Static, PascalCase, e.g. `Forbidden`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What the API server said, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A type that is listed and watched in some namespaces only, because it may not be in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NarrowedType {
    /// The type, e.g. `deployments.apps`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// Namespaces in which it is listed and watched.
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
    /// Namespaces that are wanted, and in which it may not be listed or watched either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub refused: Vec<String>,
    /// What the API server says of all namespaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A type that cannot be listed or watched at present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingType {
    /// The type, e.g. `widgets.example.com`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// Static, PascalCase, e.g. `ServerError`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What the API server said, or what was wrong with its answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when nothing works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// Where the agent publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Whether the operator runs the broker.
    pub managed: bool,
    /// URL inside the cluster; never holds credentials.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// Secret that holds the credentials, in the MeshSync's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,
}

/// What the agent says of itself. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Revision of the configuration that is really in force.
    #[schemars(length(max = 64))]
    pub applied_revision: String,
    /// Revision that was received but refused, with the reason in `message`; the one before stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rejected_revision: Option<String>,
    /// What it is doing.
    pub phase: AgentPhase,
    /// Anything a person should know, e.g. why it is behind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Types whose objects are watched; without those that fail.
    pub types: i32,
    /// Types whose first list is not complete yet; without those that fail.
    pub pending_types: i32,
    /// Objects in the snapshot.
    pub objects: i64,
    /// Its connection to the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<AgentBrokerStatus>,
    /// Changes that wait for the broker.
    pub outbox: i64,
    /// Since when the oldest of them waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<Time>,
    /// Whether the broker confirms what it stores (`JetStream`) or only takes it (`Core`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Why the broker only takes what it is sent; absent where it stores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub delivery_reason: Option<String>,
    /// Objects that were too large for the broker and went out as metadata only, or with what identifies them alone.
    pub too_large: i64,
    /// Why it publishes nothing: another agent publishes into the same stream, and this one stands by. Absent while it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<AgentStandby>,
    /// Objects of which the broker cannot be told, or cannot keep what it is told; the oldest first, 32 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub unpublished: Vec<UnpublishedObject>,
    /// Types that the API server refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub refused: Vec<RefusedType>,
    /// Types that may not be read in all namespaces, and are in some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub narrowed: Vec<NarrowedType>,
    /// Types that have failed for 10 s or longer, the first 50 of them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub failing: Vec<FailingType>,
    /// How many they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failing_types: i32,
    /// What fails of asking the API server what it serves; absent while nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<AgentDiscoveryStatus>,
    /// Pod that wrote this.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Version of the agent.
    #[schemars(length(max = 64))]
    pub version: String,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<Time>,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// What fails of an agent's discovery: what was known before stays in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentDiscoveryStatus {
    /// Since when nothing can be asked; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// When it was answered last before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_succeeded: Option<Time>,
    /// Parts of the answer that cannot be used: groups whose API server does not answer, and entries with nothing in them
    /// that one could watch. All others hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub unusable: Vec<UnusableDiscovery>,
}

/// A part of discovery that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnusableDiscovery {
    /// What it is, e.g. `metrics.k8s.io/v1beta1` or `things.example.org/v1`.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Since when.
    pub since: Time,
}

/// Why an agent publishes nothing, and deletes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStandby {
    /// Static, PascalCase: `ClusterIdShared` where another cluster has the same id, `BrokerShared` where the other agent is that
    /// of another MeshSync, `AnotherPublishes` where it cannot be told which.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Which agent publishes, and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when this one stands by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// An object that exists and is not published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnpublishedObject {
    /// Type and name, e.g. `configmaps shop/settings`.
    #[schemars(length(max = 1024))]
    pub object: String,
    /// Why, and what is done instead.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// When that was found out first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// An agent's connection to its broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentBrokerStatus {
    /// URL that it connects to, without credentials.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// Whether there is a connection.
    pub connected: bool,
    /// Why there is none, e.g. `IO error: Connection refused`. Without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentPhase {
    /// It finds out what there is.
    #[default]
    Discovering,
    /// First lists are under way.
    Synchronizing,
    /// Every first list is complete and the broker has everything.
    Live,
    /// It works, but something is missing or late: see `message` and `refused`.
    Degraded,
    /// It was told to stop.
    Stopping,
}

/// How sure it is that the broker keeps what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// Core NATS: delivered to whoever is subscribed at the moment.
    Core,
    /// JetStream: stored and confirmed.
    JetStream,
}
