//! Every message of a cluster's stream in order, which the checker examines after a fault.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::{self, Message};
use futures::StreamExt as _;
use serde_json::Value;

use super::consumer::{LOOK_AT_STREAM_EVERY, STATE_SUBJECTS, created};

/// Pause before looking for the stream again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Increases when the stream was recreated and its sequences restart.
    pub epoch: u64,
    /// Sequence in the stream.
    pub sequence: u64,
    /// Subject.
    pub subject: String,
    /// What it says.
    pub told: Told,
}

/// Content of a message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The state of an object.
    State {
        /// Its uid.
        uid: String,
        /// resourceVersion of the state.
        version: u64,
        /// Whether it is gone.
        deleted: bool,
    },
    /// All changes of the subject's type up to this resourceVersion are in the stream.
    Checkpoint(u64),
}

/// Follows the stream from its beginning until it is dropped.
#[derive(Debug)]
pub struct History {
    entries: Arc<Mutex<Vec<Entry>>>,
    task: tokio::task::JoinHandle<()>,
}

impl History {
    /// Begins; there may be no stream yet.
    #[must_use]
    pub fn follow(client: Client) -> Self {
        let entries = Arc::default();
        let shared = Arc::clone(&entries);
        let task = tokio::spawn(async move {
            let mut place = Place::default();
            loop {
                // Without a stream, or a broker, there is nothing to read now.
                let _over = read_on(&client, &mut place, &shared).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Self { entries, task }
    }

    /// What was carried so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.entries).clone()
    }

    /// Messages that were carried so far.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Whether nothing was carried so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sequence at which to continue reading.
#[derive(Debug, Default)]
struct Place {
    created: Option<String>,
    epoch: u64,
    read: u64,
}

async fn read_on(client: &Client, place: &mut Place, entries: &Mutex<Vec<Entry>>) -> Result<()> {
    let context = jetstream::new(client.clone());
    let name = context.stream_by_subject(STATE_SUBJECTS).await?;
    let now = created(&context, &name).await?;
    if place.created.as_ref() != Some(&now) {
        *place = Place { created: Some(now.clone()), epoch: place.epoch + 1, read: 0 };
    }
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: place.read + 1 },
        ..push::OrderedConfig::default()
    };
    let stream = context.get_stream_no_info(&name).await?;
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut look = tokio::time::interval(LOOK_AT_STREAM_EVERY);
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.context("the consumer ended")??;
                let sequence = message.info().map_err(|error| anyhow::anyhow!("{error}"))?.stream_sequence;
                place.read = sequence;
                let told = read(&message).with_context(|| format!("an unknown message at {}", message.subject))?;
                let subject = message.subject.to_string();
                lock(entries).push(Entry { epoch: place.epoch, sequence, subject, told });
            }
            _ = look.tick() => {
                ensure!(created(&context, &name).await? == now, "it is another stream");
            }
        }
    }
}

fn read(message: &Message) -> Option<Told> {
    if message.subject.starts_with("meshsync.checkpoint.") {
        let checkpoint: Value = serde_json::from_slice(&message.payload).ok()?;
        return checkpoint.get("resourceVersion")?.as_str()?.parse().ok().map(Told::Checkpoint);
    }
    let headers = message.headers.as_ref()?;
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let version = text("Meshsync-Resource-Version").unwrap_or_default().parse().unwrap_or_default();
    let deleted = text("Meshsync-Event")? == "DELETED";
    Some(Told::State { uid: text("Meshsync-Uid").unwrap_or_default(), version, deleted })
}

fn lock(entries: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}
