//! Compares what a consumer holds with the cluster: the independent check behind every end-to-end claim.
//!
//! One side comes from `kubectl get … -o json`, the other from the messages that a subscriber assembled. Both are
//! brought into one form, that of the Kubernetes API, and compared as trees. Left out on both sides: `managedFields`,
//! `resourceVersion` and `selfLink`, the annotation `kubectl.kubernetes.io/last-applied-configuration`, the values of Secrets, and
//! top-level fields that the Meshery format has no room for.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

pub mod fingerprint;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

/// What identifies an object for a consumer: the row key of Meshery Server, less the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `v1` or `group/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Reads the key from an object of the Kubernetes API or of the Meshery format: they agree in these fields.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api_version, kind, namespace, name } = self;
        write!(f, "{api_version} {kind} {namespace}/{name}")
    }
}

/// Differences between a cluster and a consumer's view of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// In the cluster only.
    pub missing: Vec<ObjectKey>,
    /// In the view only.
    pub extra: Vec<ObjectKey>,
    /// In both, with the first few fields that differ.
    pub different: Vec<(ObjectKey, String)>,
}

impl Differences {
    /// Whether there are no differences.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.different.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, extra, different } = self;
        writeln!(f, "{} missing, {} extra, {} different", missing.len(), extra.len(), different.len())?;
        missing.iter().try_for_each(|key| writeln!(f, "  missing   {key}"))?;
        extra.iter().try_for_each(|key| writeln!(f, "  extra     {key}"))?;
        different.iter().try_for_each(|(key, what)| writeln!(f, "  different {key}: {what}"))
    }
}

/// Compares Kubernetes objects with resource objects of the Meshery format.
#[must_use]
pub fn compare<'a>(
    cluster: impl IntoIterator<Item = &'a Value>,
    view: impl IntoIterator<Item = &'a Value>,
) -> Differences {
    let cluster: BTreeMap<ObjectKey, Value> =
        cluster.into_iter().map(|object| (ObjectKey::of(object), from_cluster(object))).collect();
    let mut view: BTreeMap<ObjectKey, Value> =
        view.into_iter().map(|object| (ObjectKey::of(object), from_meshery(object))).collect();
    let mut differences = Differences::default();
    for (key, expected) in cluster {
        match view.remove(&key) {
            None => differences.missing.push(key),
            Some(found) if found == expected => {}
            Some(found) => {
                let mut paths = Vec::new();
                differing("", &expected, &found, &mut paths);
                paths.truncate(3);
                differences.different.push((key, paths.join("; ")));
            }
        }
    }
    differences.extra = view.into_keys().collect();
    differences
}

/// Fields of an object's metadata that both sides carry.
const METADATA: [&str; 8] = [
    "uid",
    "name",
    "generateName",
    "namespace",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Fields that the Meshery format carries as JSON text.
const TEXT_FIELDS: [&str; 5] = ["immutable", "data", "binaryData", "stringData", "type"];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn from_cluster(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut out = common(object, metadata);
    for field in ["labels", "annotations"] {
        let mut map = metadata[field].as_object().cloned().unwrap_or_default();
        map.remove(LAST_APPLIED);
        insert_unless_empty(&mut out, field, Value::Object(map));
    }
    for field in ["ownerReferences", "finalizers"] {
        insert_unless_empty(&mut out, field, metadata[field].clone());
    }
    for field in ["spec", "status"].into_iter().chain(TEXT_FIELDS) {
        insert_unless_null(&mut out, field, object[field].clone());
    }
    finish(out)
}

fn from_meshery(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut out = common(object, metadata);
    for field in ["labels", "annotations"] {
        let entries = metadata[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let map: Map<String, Value> = entries
            .iter()
            // The format leaves an empty value out.
            .filter_map(|entry| {
                Some((entry["key"].as_str()?.to_owned(), json!(entry["value"].as_str().unwrap_or_default())))
            })
            .collect();
        insert_unless_empty(&mut out, field, Value::Object(map));
    }
    for field in ["ownerReferences", "finalizers"] {
        insert_unless_empty(&mut out, field, json_text(&metadata[field]));
    }
    for field in ["spec", "status"] {
        insert_unless_null(&mut out, field, json_text(&object[field]["attribute"]));
    }
    for field in TEXT_FIELDS {
        insert_unless_null(&mut out, field, json_text(&object[field]));
    }
    finish(out)
}

fn common(object: &Value, metadata: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    for field in ["apiVersion", "kind"] {
        out.insert(field.to_owned(), object[field].clone());
    }
    for field in METADATA {
        insert_unless_null(&mut out, field, metadata[field].clone());
    }
    out
}

/// Secret values are compared by key only.
fn finish(mut out: Map<String, Value>) -> Value {
    if out.get("kind") == Some(&json!("Secret")) {
        for field in ["data", "stringData"] {
            if let Some(values) = out.get_mut(field).and_then(Value::as_object_mut) {
                values.values_mut().for_each(|value| *value = Value::Null);
            }
        }
    }
    Value::Object(out)
}

/// Parses JSON inside a string; text that is not JSON (the format sends plain strings without quotes) stays a string.
fn json_text(value: &Value) -> Value {
    match value.as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        None => value.clone(),
    }
}

fn insert_unless_null(out: &mut Map<String, Value>, field: &str, value: Value) {
    // In fields that the format carries as text, an empty map equals a missing field.
    let says_nothing = value.is_null() || (TEXT_FIELDS.contains(&field) && is_empty(&value));
    if !says_nothing {
        out.insert(field.to_owned(), value);
    }
}

fn insert_unless_empty(out: &mut Map<String, Value>, field: &str, value: Value) {
    if !value.is_null() && !is_empty(&value) {
        out.insert(field.to_owned(), value);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Paths at which two trees differ, with both values shortened.
fn differing(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differing(&format!("{path}.{key}"), a, b, out);
            }
        }
        _ if a == b => {}
        _ => out.push(format!("{path}: cluster {} view {}", short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster_secret() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"password": "c2VjcmV0"},
            "metadata": {
                "name": "s", "namespace": "n", "uid": "u", "resourceVersion": "7", "creationTimestamp": "t",
                "labels": {"b": "2", "a": "1"}, "annotations": {LAST_APPLIED: "{}"},
                "ownerReferences": [{"uid": "o"}], "managedFields": [{}],
            },
        })
    }

    fn meshery_secret() -> Value {
        json!({
            "id": "", "model": "", "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "data": "{\"password\":\"cmVkYWN0ZWQ=\"}", "cluster_id": "c",
            "metadata": {
                "id": "", "name": "s", "namespace": "n", "uid": "u", "resourceVersion": "9", "creationTimestamp": "t",
                "labels": [
                    {"id": "", "unique_id": "", "kind": "label", "key": "a", "value": "1"},
                    {"id": "", "unique_id": "", "kind": "label", "key": "b", "value": "2"},
                ],
                "ownerReferences": "[{\"uid\":\"o\"}]",
            },
        })
    }

    #[test]
    fn both_forms_of_an_object_are_equal() {
        let differences = compare([&cluster_secret()], [&meshery_secret()]);
        assert!(differences.is_empty(), "{differences}");
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let mut changed = meshery_secret();
        changed["metadata"]["labels"][0]["value"] = json!("3");
        let mut extra = meshery_secret();
        extra["metadata"]["name"] = json!("extra");
        let mut missing = cluster_secret();
        missing["metadata"]["name"] = json!("missing");
        let text = compare([&cluster_secret(), &missing], [&changed, &extra]).to_string();
        assert_eq!(
            text,
            "1 missing, 1 extra, 1 different\n  missing   v1 Secret n/missing\n  extra     v1 Secret n/extra\n  \
             different v1 Secret n/s: .labels.a: cluster \"1\" view \"3\"\n"
        );
    }

    #[test]
    fn missing_key_of_a_secret_is_a_difference() {
        let mut changed = meshery_secret();
        changed["data"] = json!("{}");
        assert_eq!(compare([&cluster_secret()], [&changed]).different.len(), 1);
    }

    #[test]
    fn spec_and_status_are_compared_as_trees() {
        let cluster = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"b": 1, "a": [2]}, "status": {}});
        let mut view = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"id": "", "attribute": "{\"a\":[2],\"b\":1}"}, "status": {"id": "", "attribute": "{}"}});
        assert!(compare([&cluster], [&view]).is_empty());
        view["spec"]["attribute"] = json!("{\"a\":[3],\"b\":1}");
        assert_eq!(compare([&cluster], [&view]).different[0].1, ".spec.a: cluster [2] view [3]");
    }
}
