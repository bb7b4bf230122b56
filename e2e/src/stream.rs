//! A consumer of the agent's stream that assembles what the stream claims the cluster to be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Subject of the resources in Meshery's format.
pub const CORE_SUBJECT: &str = "meshery.meshsync.core";

/// What identifies a row for a Meshery Server, the cluster aside.
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
    /// Messages that are no resource in Meshery's format: the reason and the beginning of each of the first few.
    pub malformed: Vec<String>,
    /// Messages that contained the needle: a secret value that must not leave the cluster.
    pub needle_hits: u64,
    /// When the first message came.
    pub first: Option<Instant>,
    /// When the newest message came.
    pub last: Option<Instant>,
}

impl View {
    /// Keys of the objects that exist by what the stream said.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// Number of objects that exist by what the stream said.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether no object exists by what the stream said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
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

    /// Takes one message in.
    pub fn receive(&mut self, payload: Bytes, needle: Option<&[u8]>) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.bytes += u64::try_from(payload.len()).unwrap_or(u64::MAX);
        if needle.is_some_and(|needle| memchr::memmem::find(&payload, needle).is_some()) {
            self.needle_hits += 1;
        }
        if let Err(reason) = self.apply(&payload) {
            let start = String::from_utf8_lossy(payload.get(..200).unwrap_or(&payload)).into_owned();
            if self.malformed.len() < 10 {
                self.malformed.push(format!("{reason:#}: {start}"));
            }
        }
    }

    fn apply(&mut self, payload: &Bytes) -> Result<()> {
        let envelope: Envelope<'_> = serde_json::from_slice(payload).context("no envelope")?;
        let resource: Resource = serde_json::from_str(envelope.object.get()).context("no resource")?;
        let Resource { api_version, kind, metadata: Metadata { namespace, name } } = resource;
        let key = Key { api_version, kind, namespace, name };
        match envelope.event_type {
            "ADDED" => self.added += 1,
            "MODIFIED" => self.modified += 1,
            "DELETED" => {
                self.deleted += 1;
                self.objects.remove(&key);
                return Ok(());
            }
            other => anyhow::bail!("unknown EventType `{other}`"),
        }
        self.objects.insert(key, payload.clone());
        Ok(())
    }
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
struct Resource {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
    name: String,
}

/// A subscription that keeps a [`View`] current in the background until it is dropped.
///
/// ```no_run
/// # async fn example(nats: &meshsync_e2e::nats::Nats) -> anyhow::Result<()> {
/// use std::time::Duration;
/// use meshsync_e2e::{await_condition, stream::Consumer};
///
/// let consumer = Consumer::subscribe(nats.client().await?, Some("hunter2")).await?;
/// await_condition("a pod arrives", Duration::from_secs(10), async || {
///     Ok((consumer.view().count("v1", "Pod") > 0).then_some(()))
/// })
/// .await?;
/// assert_eq!(consumer.view().needle_hits, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    view: Arc<Mutex<View>>,
    task: tokio::task::JoinHandle<()>,
}

impl Consumer {
    /// Subscribes to [`CORE_SUBJECT`]; the broker has confirmed the subscription when this returns. `needle` is searched
    /// for in every payload.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn subscribe(client: async_nats::Client, needle: Option<&str>) -> Result<Self> {
        let mut messages = client.subscribe(CORE_SUBJECT).await.context("cannot subscribe")?;
        // The server answers the flush after it has taken the subscription in: nothing published later is missed.
        client.flush().await.context("the broker does not confirm the subscription")?;
        let view = Arc::new(Mutex::new(View::default()));
        let (shared, needle) = (Arc::clone(&view), needle.map(str::to_owned));
        let task = tokio::spawn(async move {
            // The client is kept: with its last handle the connection would close.
            let _client = client;
            while let Some(message) = messages.next().await {
                lock(&shared).receive(message.payload, needle.as_deref().map(str::as_bytes));
            }
        });
        Ok(Self { view, task })
    }

    /// What was received so far. Hold the guard briefly: reception waits for it.
    pub fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    /// Forgets everything, as a consumer does that is about to ask for the whole state again.
    pub fn clear(&self) {
        *self.view() = View::default();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_view_holds_what_was_added_and_not_deleted() {
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
    fn a_view_counts_the_needle_and_keeps_what_is_malformed() {
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
