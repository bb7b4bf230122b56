//! Consumers that only listen, as Meshery Server does, and consumers that request everything when they may have missed
//! something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer::push};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;

use super::view::{Key, View, store_part};

/// Subjects of the stored state.
pub(super) const STATE_SUBJECTS: &str = "meshsync.state.>";
/// Subject of the resources in Meshery's format.
pub const CORE_SUBJECT: &str = "meshery.meshsync.core";
/// Subject on which the agent receives requests.
const REQUEST_SUBJECT: &str = "meshery.meshsync.request";
/// Subject on which an agent announces its start.
const PRESENCE_SUBJECT: &str = "meshery.meshsync.presence";
/// Time without an answer after which a request counts as lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often a consumer checks whether the stream was replaced.
pub(super) const LOOK_AT_STREAM_EVERY: Duration = Duration::from_millis(250);
/// How often a consumer checks whether it was disconnected.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
    /// Listens and sends no requests. The broker has confirmed the subscription when this returns. Searches every
    /// payload for `needle`.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn subscribe(client: Client, needle: Option<&str>) -> Result<Self> {
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

    /// Listens, and requests everything at the start, after each reconnect and whenever an agent starts. The answer
    /// replaces the view, so that objects deleted meanwhile leave it. Searches every payload for `needle`.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn asking(client: Client, needle: Option<&str>) -> Result<Self> {
        let core = client.subscribe(CORE_SUBJECT).await.context("cannot subscribe")?;
        let presence = client.subscribe(PRESENCE_SUBJECT).await.context("cannot subscribe")?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.context("cannot subscribe")?;
        client.flush().await.context("the broker does not confirm the subscription")?;
        let view = Arc::new(Mutex::new(View::default()));
        let asker = Asker {
            client,
            view: Arc::clone(&view),
            needle: needle.map(|needle| needle.as_bytes().to_vec()),
            inbox,
            asked: 0,
            question: None,
        };
        let task = tokio::spawn(asker.run(core, presence, answers));
        Ok(Self { view, task })
    }

    /// Reads the stored state and follows it without requests: the view is what the stream holds. Searches every
    /// payload for `needle`.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn stored(client: Client, needle: Option<&str>) -> Result<Self> {
        let view = Arc::new(Mutex::new(View::default()));
        let (shared, needle) = (Arc::clone(&view), needle.map(|needle| needle.as_bytes().to_vec()));
        let task = tokio::spawn(async move {
            loop {
                // If there is no stream yet, or no longer, the consumer starts again.
                let _over = follow_state(&client, &shared, needle.as_deref()).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(Self { view, task })
    }

    /// The view so far. Drop the guard soon: reception waits for it.
    pub fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Asker {
    client: Client,
    view: Arc<Mutex<View>>,
    needle: Option<Vec<u8>>,
    inbox: String,
    /// Number of requests so far; each has its own reply subject.
    asked: u64,
    question: Option<Question>,
}

/// A request whose answer is incomplete.
struct Question {
    reply: String,
    /// The objects of the answer so far.
    objects: BTreeMap<Key, Bytes>,
    /// Keys of the events since the request.
    newer: BTreeSet<Key>,
    /// Time of the request, or of the newest part of the answer.
    heard: Instant,
}

impl Asker {
    async fn run(mut self, mut core: Subscriber, mut presence: Subscriber, mut answers: Subscriber) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let connects = || self.client.statistics().connects.load(Ordering::Relaxed);
        let mut connected = connects();
        self.ask().await;
        loop {
            // This order processes earlier messages before a request or an answer.
            tokio::select! {
                biased;
                Some(message) = core.next() => self.event(message.payload),
                Some(message) = answers.next() => self.answer(&message),
                Some(_) = presence.next() => self.ask().await,
                _ = look.tick() => {
                    let now = self.client.statistics().connects.load(Ordering::Relaxed);
                    let lost = self.question.as_ref().is_some_and(|question| question.heard.elapsed() > ASK_AGAIN);
                    if now != connected || lost {
                        connected = now;
                        self.ask().await;
                    }
                }
            }
        }
    }

    async fn ask(&mut self) {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        let request = format!(
            r#"{{"ObjectType":"request-payload","EventType":"","Request":{{"Entity":"informer-store","Payload":{{"Reply":"{reply}"}}}},"Object":null}}"#
        );
        // A request that cannot be sent is handled like a request without an answer.
        let _sent = self.client.publish(REQUEST_SUBJECT, request.into()).await;
        let heard = Instant::now();
        self.question = Some(Question { reply, objects: BTreeMap::new(), newer: BTreeSet::new(), heard });
    }

    fn event(&mut self, payload: Bytes) {
        let key = lock(&self.view).receive(payload, self.needle.as_deref());
        if let (Some(question), Some(key)) = (&mut self.question, key) {
            question.newer.insert(key);
        }
    }

    fn answer(&mut self, message: &Message) {
        let mut view = lock(&self.view);
        view.scan(&message.payload, self.needle.as_deref());
        let Some(mut question) = self.question.take_if(|question| *question.reply == *message.subject) else { return };
        match store_part(&message.payload) {
            Ok(part) if part.is_empty() => view.replace(question.objects, &question.newer),
            Ok(part) => {
                question.objects.extend(part);
                question.heard = Instant::now();
                self.question = Some(question);
            }
            Err(reason) => view.note_malformed(&reason, &message.payload),
        }
    }
}

/// Reads the state stream from its beginning into a new view, and follows it.
async fn follow_state(client: &Client, view: &Mutex<View>, needle: Option<&[u8]>) -> Result<()> {
    let context = jetstream::new(client.clone());
    let name = context.stream_by_subject(STATE_SUBJECTS).await?;
    let created = created(&context, &name).await?;
    let stream = context.get_stream_no_info(&name).await?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: STATE_SUBJECTS.to_owned(),
        ..push::OrderedConfig::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    *lock(view) = View::default();
    let mut look = tokio::time::interval(LOOK_AT_STREAM_EVERY);
    loop {
        tokio::select! {
            message = messages.next() => {
                lock(view).receive(message.context("the consumer ended")??.message.payload, needle);
            }
            _ = look.tick() => {
                ensure!(self::created(&context, &name).await? == created, "it is another stream");
            }
        }
    }
}

/// When a stream was created: a stream of the same name that was created later has new sequences.
pub(super) async fn created(context: &jetstream::Context, name: &str) -> Result<String> {
    Ok(context.get_stream(name).await?.cached_info().created.to_string())
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}
