//! Custom resource types for tests.

use serde_json::json;

/// The CustomResourceDefinition, as JSON, of a namespaced type `v1` whose objects may hold anything. Its plural is the
/// lower-case kind with an `s`.
#[must_use]
pub fn custom_type(group: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    let plural = format!("{singular}s");
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": singular, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
    .to_string()
}
