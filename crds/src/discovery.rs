//! What an API server serves, as data: the input that type patterns are matched against.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One served version of one resource type, as discovery describes it.
///
/// The source is the aggregated discovery document (`APIGroupDiscoveryList`, KEP-3352) or its unaggregated
/// predecessor; see `meshsync-runtime` for the client side. Subresources are not represented.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedType {
    /// API group; empty for the core group.
    pub group: String,
    /// Version inside the group, e.g. `v1`.
    pub version: String,
    /// Whether this is the version that the server prefers for this resource.
    pub preferred: bool,
    /// Kind, e.g. `Pod`.
    pub kind: String,
    /// Plural resource name as in URLs, e.g. `pods`.
    pub plural: String,
    /// Singular name, e.g. `pod`; may be empty on old servers.
    #[serde(default)]
    pub singular: String,
    /// Short names, e.g. `po`.
    #[serde(default)]
    pub short_names: Vec<String>,
    /// Categories, e.g. `all`.
    #[serde(default)]
    pub categories: Vec<String>,
    /// Whether objects of this type live in a namespace.
    pub namespaced: bool,
    /// Verbs that the server supports for the type, e.g. `list`, `watch`.
    #[serde(default)]
    pub verbs: Vec<String>,
}

impl ServedType {
    /// A preferred version of a namespaced type without other names. Its verbs are unknown, so it
    /// [is not watchable](Self::is_watchable).
    #[must_use]
    pub fn named(
        group: impl Into<String>,
        version: impl Into<String>,
        kind: impl Into<String>,
        plural: impl Into<String>,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            preferred: true,
            kind: kind.into(),
            plural: plural.into(),
            singular: String::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
        }
    }

    /// `v1` or `group/v1`, as in an object's `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `plural` or `plural.group`: the name that `kubectl api-resources -o name` prints.
    ///
    /// Unique among the types that are selected for watching, because only one version of each is watched.
    #[must_use]
    pub fn name(&self) -> String {
        group_resource(&self.plural, &self.group)
    }

    /// Whether the type can be kept live: it must offer both `list` and `watch`.
    #[must_use]
    pub fn is_watchable(&self) -> bool {
        self.has_verb("list") && self.has_verb("watch")
    }

    /// Whether discovery names `verb` for the type.
    #[must_use]
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Path of the collection across all namespaces, e.g. `/apis/apps/v1/deployments`.
    #[must_use]
    pub fn collection_path(&self) -> String {
        format!("{}/{}", self.version_path(), self.plural)
    }

    /// Path of the collection in one namespace, e.g. `/apis/apps/v1/namespaces/shop/deployments`.
    #[must_use]
    pub fn collection_path_in(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.version_path(), self.plural)
    }

    fn version_path(&self) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}", self.api_version())
    }
}

impl fmt::Display for ServedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// `plural` for the core group, else `plural.group`.
#[must_use]
pub fn group_resource(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
