//! Names that cross a process boundary, joined in one place.

/// API group of every custom resource of ours.
pub const GROUP: &str = "meshery.layer5.io";
/// Version of the API.
pub const VERSION: &str = "v1alpha1";
/// Name of the CustomResourceDefinition.
pub const CRD_NAME: &str = "meshsyncs.meshery.layer5.io";

/// Annotation of the CustomResourceDefinition that holds the cluster-wide default of `informer_config`, as YAML text.
pub const INFORMER_CONFIG_ANNOTATION: &str = "meshery.layer5.io/informer_config";

/// Field manager of everything that the operator applies.
pub const OPERATOR_FIELD_MANAGER: &str = "meshsync-operator";
/// Field manager of `status.agent`.
pub const AGENT_FIELD_MANAGER: &str = "meshsync-agent";

/// Label on every child: UID of the MeshSync that it belongs to. What an owner reference cannot reach (cluster-scoped
/// rights) is found and removed by this label.
pub const LABEL_MESHSYNC_UID: &str = "meshery.layer5.io/meshsync-uid";
/// Label on every child: name of the MeshSync that it belongs to.
pub const LABEL_MESHSYNC_NAME: &str = "meshery.layer5.io/meshsync-name";
/// Label on every child: namespace of the MeshSync that it belongs to.
pub const LABEL_MESHSYNC_NAMESPACE: &str = "meshery.layer5.io/meshsync-namespace";

/// Pod template annotation whose change rolls the agent: set when the agent did not acknowledge a configuration in time.
pub const ANNOTATION_RESTARTED_FOR: &str = "meshery.layer5.io/restarted-for";

/// ClusterRole that bounds what any agent may be granted; administrators narrow it.
pub const CEILING_CLUSTER_ROLE: &str = "meshsync-agent-ceiling";

/// Key of the agent's ConfigMap that holds [`crate::agent_config::AgentConfig`].
pub const AGENT_CONFIG_KEY: &str = "config.yaml";

/// Namespace whose UID identifies the cluster (SIG Multicluster's convention, KEP-2149).
pub const CLUSTER_ID_NAMESPACE: &str = "kube-system";

/// Longest `metadata.name` of a MeshSync: names of children are made by appending to it and must stay DNS-1035 labels
/// (63 characters), the pod-name suffixes of a Deployment included.
pub const MAX_MESHSYNC_NAME: usize = 40;
