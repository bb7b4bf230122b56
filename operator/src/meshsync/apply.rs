//! Step four: applies the built children with server-side apply. It sends nothing for a child that already has every
//! desired field.

use http::Request;
use kube::api::PostParams;
use kube::{Api, Client};
use meshsync_crds::names::OPERATOR_FIELD_MANAGER;
use serde_json::Value;

use super::build::{Built, Child, secret};
use super::garbage_collect::remove_unwanted_broker;
use super::requests::{delete, get};
use super::validate::{Broker, Validated};
use crate::error::Error;
use crate::quantity::nanos;

/// Annotation with a hash of what was applied last. It distinguishes a field that is no longer desired from one that
/// another client added.
const APPLIED_HASH: &str = "meshery.layer5.io/applied-hash";

/// The applied children: the only input of status.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The input from which they were built.
    pub input: Validated,
    /// Kinds and names of the children that had to be written.
    pub written: Vec<String>,
    /// Kinds and names of the children that were deleted.
    pub removed: Vec<String>,
}

/// Creates the Secret of a managed broker and returns whether it was missing. An existing Secret is never overwritten,
/// because running pods use its token.
///
/// # Errors
/// The request that failed.
pub async fn ensure_broker_secret(client: &Client, input: &Validated, exists: bool) -> Result<bool, Error> {
    if exists || !matches!(input.broker, Broker::Managed(_)) {
        return Ok(false);
    }
    let api = Api::namespaced(client.clone(), &input.identity.namespace);
    match api.create(&PostParams::default(), &secret(input, &new_token()?)).await {
        Ok(_) => Ok(true),
        // Another client created it after our read.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(true),
        Err(error) => Err(Error::api("create the broker's Secret")(error)),
    }
}

/// Applies the children in order.
///
/// # Errors
/// The first request that failed; the next reconciliation applies the remaining children.
pub async fn apply(client: &Client, input: Validated, built: Built) -> Result<Applied, Error> {
    let mut written = Vec::new();
    for child in built.children {
        if apply_child(client, &child).await? {
            written.push(format!("{} {}", child.kind, child.name));
        }
    }
    let removed = remove_unwanted_broker(client, &input).await?;
    Ok(Applied { input, written, removed })
}

/// Applies a child and returns whether it had to be written.
async fn apply_child(client: &Client, child: &Child) -> Result<bool, Error> {
    let path = format!("{}/{}", child.collection, child.name);
    let mut desired = child.body.clone();
    prune_nulls(&mut desired);
    let hash = format!("{:016x}", hash(&desired.to_string()));
    if let Some(annotations) = desired.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = annotations.entry("annotations").or_insert_with(|| Value::Object(Default::default()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED_HASH.to_owned(), Value::String(hash));
        }
    }
    let live = get(client, &path, child.kind).await?.unwrap_or_default();
    if live.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Error::Waiting(format!(
            "{} {} is being deleted; it is recreated afterwards",
            child.kind, child.name
        )));
    }
    if holds(&live, &desired) {
        return Ok(false);
    }
    let body = serde_json::to_vec(&desired).map_err(|error| Error::Serialize(child.kind, error))?;
    let request = Request::patch(format!("{path}?fieldManager={OPERATOR_FIELD_MANAGER}&force=true"))
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body)
        .map_err(Error::Request)?;
    let action = format!("apply {} {}", child.kind, child.name);
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        // Most fields of a StatefulSet, such as its volumes, cannot be changed, so it is deleted and recreated.
        Err(kube::Error::Api(status)) if status.code == 422 && child.kind == "StatefulSet" && !live.is_null() => {
            delete(client, &path, child.kind).await?;
            Err(Error::Waiting(format!("{} {} is replaced: {}", child.kind, child.name, status.message)))
        }
        Err(error) => Err(Error::api(action)(error)),
    }
}

/// Whether `live` has every field that `desired` sets, with the same value. Fields that other clients added are
/// ignored, but a list must match completely: an additional rule in a role is an additional right.
fn holds(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(key, value)| match live.get(key) {
            Some(live) if QUANTITIES.contains(&key.as_str()) => holds_quantities(live, value),
            Some(live) => holds(live, value),
            // The server does not store empty values.
            None => is_empty(value),
        }),
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| holds(live, desired))
        }
        (live, desired) => live == desired,
    }
}

/// Fields that contain named quantities, which the server may store in another spelling: `0.5` as `500m`.
const QUANTITIES: [&str; 2] = ["requests", "limits"];

fn holds_quantities(live: &Value, desired: &Value) -> bool {
    let (Some(live), Some(desired)) = (live.as_object(), desired.as_object()) else { return live == desired };
    let same = |live: &Value, desired: &Value| match (live.as_str().and_then(nanos), desired.as_str().and_then(nanos)) {
        (Some(live), Some(desired)) => live == desired,
        _ => live == desired,
    };
    desired.iter().all(|(name, desired)| live.get(name).is_some_and(|live| same(live, desired)))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

/// Removes fields without a value, which we do not own.
pub(super) fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A token of 256 random bits. nats-server reads it as a value of its configuration; the leading letter prevents it
/// from parsing a number.
fn new_token() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes.iter().fold("t".to_owned(), |token, byte| format!("{token}{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_of_others_are_ignored_and_changes_to_our_fields_are_detected() {
        let desired = json!({"a": 1, "list": [{"x": 1}], "none": []});
        assert!(holds(&json!({"a": 1, "b": 2, "list": [{"x": 1, "defaulted": true}]}), &desired));
        assert!(!holds(&json!({"a": 2, "list": [{"x": 1}]}), &desired));
        assert!(!holds(&json!({"a": 1, "list": [{"x": 1}, {"x": 2}]}), &desired));
        assert!(!holds(&json!({"list": [{"x": 1}]}), &desired));
    }

    #[test]
    fn other_spelling_of_a_quantity_is_no_change() {
        let desired =
            json!({"resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}}, "affinity": {}, "nodes": {"a": {}}});
        let live = |cpu: &str| json!({"resources": {"limits": {"cpu": cpu, "memory": "1Gi"}}});
        assert!(holds(&live("500m"), &desired));
        assert!(!holds(&live("501m"), &desired));
        assert!(!holds(&json!({"env": "500m"}), &json!({"env": "0.5"})), "only in fields of quantities");
    }

    #[test]
    fn field_without_a_value_is_ignored() {
        let mut value = json!({"a": null, "b": {"c": null, "d": [{"e": null}]}});
        prune_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": [{}]}}));
    }

    #[test]
    fn tokens_are_long_and_unique_and_do_not_read_as_numbers() {
        let (a, b) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(a.len(), 65);
        assert_ne!(a, b);
        assert!(a.starts_with('t'));
    }
}
