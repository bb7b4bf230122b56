//! Discovery documents → [`ServedType`]s. Pure.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResource, APIResourceList, APIVersions};
use kube::core::discovery::v2::{APIGroupDiscoveryList, APIResourceDiscovery};
use meshsync_crds::discovery::ServedType;
use serde::Deserialize;

use super::{Discovered, FailedGroup};

/// `freshness` of a group version whose server could not be reached (k8s.io/api/apidiscovery/v2).
const STALE: &str = "Stale";

/// The answers that a server may give at `/api` or `/apis`.
pub(super) enum Document {
    Aggregated(Discovered),
    /// `/api` of old.
    CoreVersions(Vec<String>),
    /// `/apis` of old.
    Groups(APIGroupList),
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    kind: String,
}

/// Tells the documents apart by their `kind`.
pub(super) fn document(text: &str) -> Result<Document, String> {
    let head: Head = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let read = |error: serde_json::Error| format!("{}: {error}", head.kind);
    match head.kind.as_str() {
        "APIGroupDiscoveryList" => serde_json::from_str(text).map(|list| Document::Aggregated(aggregated(list))),
        "APIVersions" => serde_json::from_str(text).map(|list: APIVersions| Document::CoreVersions(list.versions)),
        "APIGroupList" => serde_json::from_str(text).map(Document::Groups),
        other => return Err(format!("the document is of kind `{other}`")),
    }
    .map_err(read)
}

fn aggregated(list: APIGroupDiscoveryList) -> Discovered {
    let mut found = Discovered::default();
    for group in list.items {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        for version in group.versions {
            let version_name = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some(STALE) {
                let reason = "its API server cannot be reached; what discovery last knew is used".to_owned();
                found.failed.push(FailedGroup { group: name.clone(), version: version_name.clone(), reason });
            }
            found.types.extend(version.resources.into_iter().filter_map(|r| served(&name, &version_name, r)));
        }
    }
    mark_preferred(&mut found.types);
    found
}

/// `None` for an entry that only carries subresources: the server lists those without a response kind.
fn served(group: &str, version: &str, resource: APIResourceDiscovery) -> Option<ServedType> {
    let plural = resource.resource.filter(|plural| !plural.is_empty())?;
    let kind = resource.response_kind?.kind.filter(|kind| !kind.is_empty())?;
    Some(ServedType {
        group: group.to_owned(),
        version: version.to_owned(),
        preferred: false,
        kind,
        plural,
        singular: resource.singular_resource.unwrap_or_default(),
        short_names: resource.short_names,
        categories: resource.categories,
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs,
    })
}

/// The types of one document of the old form; subresources (`pods/log`) are left out.
pub(super) fn resource_list(group: &str, version: &str, list: &APIResourceList) -> Vec<ServedType> {
    let main = |resource: &&APIResource| !resource.name.contains('/');
    list.resources
        .iter()
        .filter(main)
        .map(|resource| ServedType {
            group: group.to_owned(),
            version: version.to_owned(),
            preferred: false,
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
            singular: resource.singular_name.clone(),
            short_names: resource.short_names.clone().unwrap_or_default(),
            categories: resource.categories.clone().unwrap_or_default(),
            namespaced: resource.namespaced,
            verbs: resource.verbs.clone(),
        })
        .collect()
}

/// Versions come in order of preference: the first that has a resource is the preferred one for it.
pub(super) fn mark_preferred(types: &mut [ServedType]) {
    let mut seen = HashSet::new();
    for t in types {
        t.preferred = seen.insert((t.group.clone(), t.plural.clone()));
    }
}
