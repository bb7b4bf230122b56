//! What a person writes into a MeshSync.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, SecretKeySelector, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agent_config::{PublishFormat, SecretPolicy, SnapshotMode};
use crate::informer_config::InformerConfig;
use crate::status::MeshSyncStatus;

/// A MeshSync keeps a live snapshot of this cluster and publishes it: it says what to watch and where to publish.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshery.layer5.io",
    version = "v1alpha1",
    kind = "MeshSync",
    plural = "meshsyncs",
    singular = "meshsync",
    shortname = "ms",
    category = "meshery",
    namespaced,
    status = "MeshSyncStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A MeshSync keeps a live snapshot of this cluster and publishes it: it says what to watch and where to publish.",
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS-1035 label of at most 40 characters: lower case letters, digits and '-', \
                  beginning with a letter, because the names of the agent's objects are made from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all of what was asked for is in force"),
    printcolumn(name = "Types", type_ = "integer", json_path = ".status.agent.types",
        description = "Types whose objects are watched"),
    printcolumn(name = "Objects", type_ = "integer", json_path = ".status.agent.objects",
        description = "Objects in the agent's snapshot"),
    printcolumn(name = "Broker", type_ = "string", json_path = ".status.broker.url", description = "Where it publishes"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp",
        description = "Time since creation")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSyncSpec {
    /// What to watch. A field that is not set follows the cluster-wide default, which stands in the annotation
    /// `meshery.layer5.io/informer_config` of the CustomResourceDefinition.
    // This exact name: users and documentation know it.
    #[serde(default, rename = "informer_config", skip_serializing_if = "Option::is_none")]
    pub informer_config: Option<InformerConfig>,
    /// Where to publish. Default: a NATS that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerSpec>,
    /// What is published. Default: the Meshery format, Secrets redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishSpec>,
    /// What the agent holds in memory. Default: everything, compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSpec>,
    /// Settings of the agent's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSpec>,
}

/// Where to publish: exactly one of `managed` and `external`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.managed) != has(self.external)")
    .message("set exactly one of broker.managed and broker.external"))]
pub struct BrokerSpec {
    /// The operator runs NATS with JetStream in the MeshSync's namespace: a StatefulSet, Services, and a Secret with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedBroker>,
    /// A NATS that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalBroker>,
}

/// A NATS that the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedBroker {
    /// Image of nats-server. Default: the one that the operator was released with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Compute resources of the broker's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Persistent storage. Default: the pod's own, which is empty again after the pod was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<BrokerStorage>,
}

/// Persistent storage of a managed broker. A change replaces the broker: what it stored is published anew.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStorage {
    /// Size of the volume, e.g. `1Gi`.
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("broker.managed.storage.size must be a quantity above zero, such as 1Gi"))]
    pub size: Quantity,
    /// Storage class. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// After the host comes nothing, or a port from 1 to 65535. Of a text that is no URL at all, the other rule tells enough.
const PORT_RULE: &str = r"!self.matches('^(nats|tls)://[^/@, ]+$') || self.matches(r'^(nats|tls)://([^/@: ]+|\[[^/@ ]+\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$')";

/// Of each element of a list of URLs, in one rule.
const URLS_RULE: &str = r"self.all(url, url.matches(r'^(nats|tls)://([^/@:, ]+|\[[^/@, ]+\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$'))";

/// A NATS that somebody else runs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalBroker {
    /// URL of the broker, `nats://host:4222`, or `tls://host:4222` to insist on TLS. It must not hold credentials:
    /// anybody who may read the MeshSync would see them.
    #[schemars(length(min = 8, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(nats|tls)://[^/@, ]+$')")
        .message("broker.external.url must be nats://host:port or tls://host:port, without credentials; put those into \
                  a Secret and name it in broker.external.credentials"))]
    #[x_kube(validation = Rule::new(PORT_RULE)
        .message("broker.external.url: the port must be a number from 1 to 65535, as in nats://host:4222; an IPv6 \
                  address stands in brackets, as in nats://[fd00::1]:4222"))]
    pub url: String,
    /// Further servers of the same cluster of brokers: the agent connects to any of them that it can reach. The same rules as for
    /// `url` hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15), inner(length(min = 8, max = 255)))]
    #[x_kube(validation = Rule::new(URLS_RULE)
        .message("broker.external.additionalUrls must be nats://host:port or tls://host:port, without credentials"))]
    pub additional_urls: Vec<String>,
    /// How to authenticate. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<BrokerCredentials>,
    /// How the connection is protected, and how the broker's certificate is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BrokerTls>,
    /// The stream that the agent keeps at the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<BrokerStream>,
}

/// What a stream at an external broker is like. What is not set stays as the broker's administrator has it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStream {
    /// Most bytes that it may hold, e.g. `10Gi`. An account with limits on storage may ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("broker.external.stream.maxBytes must be a quantity above zero, such as 10Gi"))]
    pub max_bytes: Option<Quantity>,
}

/// Credentials for an external broker, read from a Secret in the MeshSync's namespace: one of a token, user and password, an nkey,
/// and a credentials file.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.user) == has(self.password) && \
                                 [has(self.token), has(self.user), has(self.nkey), has(self.creds)].exists_one(x, x)")
    .message("set one of credentials.token, credentials.nkey, credentials.creds, or both credentials.user and credentials.password"))]
pub struct BrokerCredentials {
    /// A token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretKeySelector>,
    /// A user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<SecretKeySelector>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKeySelector>,
    /// The seed of a user's nkey, which begins with `SU`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nkey: Option<SecretKeySelector>,
    /// A credentials file (`.creds`): a user's JWT, and the seed that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creds: Option<SecretKeySelector>,
}

/// How the connection to an external broker is protected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerTls {
    /// PEM bundle of the certificate authorities to trust. Default: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretKeySelector>,
    /// Whether TLS begins before the broker has said anything, as its `handshake_first: true` asks for. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_first: Option<bool>,
}

/// What is published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishSpec {
    /// Id under which this cluster is published: it names the broker's stream. Default: the uid of the namespace `kube-system`,
    /// which clones of a cluster share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$"))]
    pub cluster_id: Option<String>,
    /// Shape of a published object. Default: `meshery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<PublishFormat>,
    /// What happens to the values of Secrets. Default: `redact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretPolicy>,
}

/// What the agent holds in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSpec {
    /// How much of each object. Default: `full`. `hashOnly` is for giant clusters: an object's body is held only until it is
    /// published, and what is asked for later is read from the broker's stream or the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SnapshotMode>,
}

/// Settings of the agent's pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// Image of the agent. Default: the one that the operator was released with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the image is pulled. Default: as Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets with credentials for the image registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// Compute resources of the agent's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes that the pod may run on, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the pod tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Scheduling constraints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Priority class of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Additional annotations of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_annotations: Option<BTreeMap<String, String>>,
    /// Additional labels of the pod; those that the operator sets win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_labels: Option<BTreeMap<String, String>>,
}

/// When an image is pulled; see the Kubernetes documentation of containers' images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

impl ImagePullPolicy {
    /// The spelling of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
