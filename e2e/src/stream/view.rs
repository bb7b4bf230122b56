//! The view of a cluster that results from messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What identifies a row for Meshery Server, without the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Such as `v1` or `apps/v1`.
    pub api_version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// What was received so far.
#[derive(Clone, Debug, Default)]
pub struct View {
    objects: BTreeMap<Key, Bytes>,
    /// Messages with `ADDED`.
    pub added: u64,
    /// Messages with `MODIFIED`.
    pub modified: u64,
    /// Messages with `DELETED`.
    pub deleted: u64,
    /// Bytes of all payloads.
    pub bytes: u64,
    /// Messages that are not resources in Meshery's format: reason and beginning of each of the first few.
    pub malformed: Vec<String>,
    /// Messages that contained the needle: a secret value that must not leave the cluster.
    pub needle_hits: u64,
    /// When the first message arrived.
    pub first: Option<Instant>,
    /// When the newest message arrived.
    pub last: Option<Instant>,
    /// When the last unknown object arrived.
    pub last_new: Option<Instant>,
}

impl View {
    /// Keys of the objects that exist according to the messages.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// Number of objects that exist according to the messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether no object exists according to the messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Messages of all kinds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.added + self.modified + self.deleted
    }

    /// Number of objects of one kind, such as `("v1", "ConfigMap")`.
    #[must_use]
    pub fn count(&self, api_version: &str, kind: &str) -> usize {
        self.keys().filter(|key| key.api_version == api_version && key.kind == kind).count()
    }

    /// The resource with this key in Meshery's format, as last received.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value> {
        let message: Value = serde_json::from_slice(self.objects.get(key)?).ok()?;
        message.get("Object").cloned()
    }

    /// All resources in Meshery's format.
    pub fn resources(&self) -> impl Iterator<Item = (&Key, Value)> {
        self.keys().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Applies a message, and returns the key of its object.
    pub fn receive(&mut self, payload: Bytes, needle: Option<&[u8]>) -> Option<Key> {
        self.receive_at(Instant::now(), payload, needle)
    }

    /// Applies a message that arrived at an earlier time.
    pub(super) fn receive_at(&mut self, at: Instant, payload: Bytes, needle: Option<&[u8]>) -> Option<Key> {
        self.first.get_or_insert(at);
        self.last = Some(at);
        self.scan(&payload, needle);
        self.apply(&payload).map_err(|reason| self.note_malformed(&reason, &payload)).ok()
    }

    /// Searches the bytes of a message for the needle.
    pub(super) fn scan(&mut self, payload: &[u8], needle: Option<&[u8]>) {
        self.bytes += u64::try_from(payload.len()).unwrap_or(u64::MAX);
        if needle.is_some_and(|needle| memchr::memmem::find(payload, needle).is_some()) {
            self.needle_hits += 1;
        }
    }

    pub(super) fn note_malformed(&mut self, reason: &anyhow::Error, payload: &[u8]) {
        if self.malformed.len() < 10 {
            let start = String::from_utf8_lossy(payload.get(..200).unwrap_or(payload));
            self.malformed.push(format!("{reason:#}: {start}"));
        }
    }

    /// Applies an answer to `informer-store`, which has everything that the agent holds: what is not among `objects` is
    /// removed. `newer` are keys with an event since the request, which takes precedence.
    pub(super) fn replace(&mut self, mut objects: BTreeMap<Key, Bytes>, newer: &BTreeSet<Key>) {
        objects.retain(|key, _| !newer.contains(key));
        let before = std::mem::replace(&mut self.objects, objects);
        self.objects.extend(before.into_iter().filter(|(key, _)| newer.contains(key)));
    }

    fn apply(&mut self, payload: &Bytes) -> Result<Key> {
        let envelope: Envelope<'_> = serde_json::from_slice(payload).context("no envelope")?;
        let resource: KeyedResource = serde_json::from_str(envelope.object.get()).context("no resource")?;
        let key = resource.key();
        match envelope.event_type {
            "ADDED" => self.added += 1,
            "MODIFIED" => self.modified += 1,
            "DELETED" => {
                self.deleted += 1;
                self.objects.remove(&key);
                return Ok(key);
            }
            other => anyhow::bail!("unknown EventType `{other}`"),
        }
        if self.objects.insert(key.clone(), payload.clone()).is_none() {
            self.last_new = self.last;
        }
        Ok(key)
    }
}

/// The objects of one message of the answer to `informer-store`, in the form of events; the last message has none.
pub(super) fn store_part(payload: &[u8]) -> Result<Vec<(Key, Bytes)>> {
    let envelope: StorePart<'_> = serde_json::from_slice(payload).context("no answer to informer-store")?;
    let object = |raw: &&RawValue| {
        let resource: KeyedResource = serde_json::from_str(raw.get()).context("no resource")?;
        let message = format!(r#"{{"EventType":"ADDED","Object":{}}}"#, raw.get());
        Ok((resource.key(), Bytes::from(message)))
    };
    envelope.objects.iter().map(object).collect()
}

#[derive(Deserialize)]
struct StorePart<'a> {
    #[serde(rename = "Object", borrow)]
    objects: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "EventType")]
    event_type: &'a str,
    #[serde(rename = "Object", borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyedResource {
    api_version: String,
    kind: String,
    metadata: KeyMetadata,
}

impl KeyedResource {
    fn key(self) -> Key {
        let Self { api_version, kind, metadata: KeyMetadata { namespace, name } } = self;
        Key { api_version, kind, namespace, name }
    }
}

#[derive(Deserialize)]
struct KeyMetadata {
    #[serde(default)]
    namespace: String,
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, kind: &str, name: &str) -> Bytes {
        let object =
            serde_json::json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}});
        let envelope =
            serde_json::json!({"ObjectType": "meshsync-data", "EventType": event, "Request": null, "Object": object});
        Bytes::from(envelope.to_string())
    }

    #[test]
    fn view_contains_what_was_added_and_not_deleted() {
        let mut view = View::default();
        view.receive(message("ADDED", "Pod", "a"), None);
        view.receive(message("ADDED", "Secret", "a"), None);
        view.receive(message("MODIFIED", "Pod", "a"), None);
        view.receive(message("DELETED", "Secret", "a"), None);
        assert_eq!((view.added, view.modified, view.deleted, view.len()), (2, 1, 1, 1));
        assert_eq!((view.count("v1", "Pod"), view.count("v1", "Secret")), (1, 0));
        assert_eq!(view.resources().next().unwrap().1["metadata"]["name"], "a");
        assert!(view.malformed.is_empty());
    }

    #[test]
    fn answer_replaces_objects_without_a_newer_event() {
        let mut view = View::default();
        for name in ["old", "deleted", "kept"] {
            view.receive(message("ADDED", "Pod", name), None);
        }
        let newer = [message("DELETED", "Pod", "deleted"), message("ADDED", "Pod", "fresh")];
        let newer: BTreeSet<Key> = newer.into_iter().filter_map(|message| view.receive(message, None)).collect();
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| {
                    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"n"}}}}"#)
                })
                .collect::<Vec<_>>()
                .join(",")
        };
        let answer =
            format!(r#"{{"ObjectType":"","EventType":"","Request":null,"Object":[{}]}}"#, names(&["kept", "deleted"]));
        let objects = store_part(answer.as_bytes()).unwrap().into_iter().collect();
        view.replace(objects, &newer);
        let left: Vec<&str> = view.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(left, ["fresh", "kept"]);
        assert_eq!(view.resources().count(), 2, "objects of the answer read like events");
    }

    #[test]
    fn view_counts_the_needle_and_keeps_malformed_messages() {
        let mut view = View::default();
        view.receive(message("ADDED", "Pod", "hunter2"), Some(b"hunter2"));
        view.receive(message("ADDED", "Pod", "innocent"), Some(b"hunter2"));
        view.receive(message("ERROR", "Pod", "x"), None);
        view.receive(Bytes::from_static(b"not json"), None);
        assert_eq!(view.needle_hits, 1);
        assert_eq!(view.malformed.len(), 2, "{:?}", view.malformed);
        assert!(view.malformed[0].starts_with("unknown EventType `ERROR`"), "{:?}", view.malformed);
    }
}
