//! Takes changes from the queue and brings them to the broker, batch by batch, until each is confirmed.
//!
//! Core NATS gives no acknowledgement. What confirms a batch is a marker sent after it on the same connection, to a
//! subject that only this process listens to: the server handles a connection's messages in order, so when the marker comes
//! back, the batch has been taken. If the connection breaks before, the whole batch goes out again (at least once).
//! What that cannot tell is whether consumers were connected: see [`super::latecomers`].
//!
//! Who asks for everything is answered from here, too: were events sent beside the answer, the delete of an object could
//! overtake the answer that still has it, and the object would stay with the consumer for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use meshsync_crds::agent_config::PublishFormat;
use tokio::sync::{mpsc, watch};

use super::broker::{Broker, Connection};
use super::latecomers::Latecomers;
use super::outbox::{Action, Item, Next};
use super::queue::Queue;
use super::store_answer::send_store;
use super::{Deleted, Detail, EncodeError, EventType, kubernetes, meshery};
use crate::snapshot::{Store, Told};

/// Subject that Meshery Server listens to.
pub const DATA_SUBJECT: &str = "meshery.meshsync.core";

/// Messages in a batch.
const BATCH_MESSAGES: usize = 512;
/// Bytes in a batch: bounds what is in flight twice, here and in the client library.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a marker may take. A broker that is slower is asked again with a new connection's patience.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);

/// Counts of what was published.
#[derive(Debug, Default)]
pub struct PublishStats {
    /// Messages confirmed, by event type: added, modified, deleted.
    pub added: AtomicU64,
    /// See `added`.
    pub modified: AtomicU64,
    /// See `added`.
    pub deleted: AtomicU64,
    /// Bytes of confirmed messages.
    pub bytes: AtomicU64,
    /// Messages that had to be sent again.
    pub resent: AtomicU64,
    /// Objects that were too large for the broker and went out as metadata only.
    pub too_large: AtomicU64,
    /// Objects that could not be encoded.
    pub unencodable: AtomicU64,
}

/// What a message is made of besides the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// Shape of the object inside the envelope.
    pub format: PublishFormat,
}

/// See the module.
pub struct Publisher {
    store: Arc<Store>,
    queue: Arc<Queue>,
    broker: Broker,
    encoding: watch::Receiver<Option<Encoding>>,
    answers: mpsc::Receiver<String>,
    stats: Arc<PublishStats>,
}

/// A message that was sent and waits for confirmation.
struct Sent {
    item: Item,
    event: EventType,
    bytes: usize,
}

impl Publisher {
    /// A publisher that sends nothing before `encoding` is known. `answers` brings subjects at which somebody waits for
    /// everything.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        queue: Arc<Queue>,
        broker: Broker,
        encoding: watch::Receiver<Option<Encoding>>,
        answers: mpsc::Receiver<String>,
        stats: Arc<PublishStats>,
    ) -> Self {
        Self { store, queue, broker, encoding, answers, stats }
    }

    /// Publishes for ever.
    pub async fn run(mut self) {
        loop {
            let connection = self.connected().await;
            let encoding = self.known_encoding().await;
            let client = self.broker.client.clone();
            let inbox = client.new_inbox();
            let marker = match client.subscribe(inbox.clone()).await {
                Ok(marker) => marker,
                Err(error) => {
                    tracing::warn!(%error, "cannot subscribe at the broker");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            self.publish_until_broken(&client, connection.generation, (inbox, marker), encoding).await;
        }
    }

    async fn connected(&mut self) -> Connection {
        let connected = self.broker.connection.wait_for(|connection| connection.up).await.map(|now| *now);
        match connected {
            Ok(connection) => connection,
            // The client is gone, which happens only while the process ends.
            Err(_) => std::future::pending().await,
        }
    }

    async fn known_encoding(&mut self) -> Encoding {
        let known = self.encoding.wait_for(Option::is_some).await.map(|encoding| encoding.clone());
        match known {
            Ok(encoding) => encoding.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    async fn publish_until_broken(
        &mut self,
        client: &Client,
        generation: u64,
        (inbox, mut marker): (String, Subscriber),
        mut encoding: Encoding,
    ) {
        // Over the first connection everything goes out as new, and a consumer that attaches later asks.
        let mut latecomers = (generation > 1).then(|| Latecomers::new(Instant::now()));
        loop {
            if let Ok(true) = self.encoding.has_changed() {
                encoding = self.encoding.borrow_and_update().clone().unwrap_or(encoding);
            }
            let (batch, next) = self.send_batch(client, &encoding).await;
            if !batch.is_empty() && !self.confirmed(client, generation, &inbox, &mut marker).await {
                self.stats.resent.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // In reverse, so that nothing that was sent later gets in front.
                batch.into_iter().rev().for_each(|sent| self.queue.return_unconfirmed(sent.item));
                return;
            }
            for sent in batch {
                if let Some(latecomers) = &mut latecomers {
                    latecomers.note(&sent.item);
                }
                self.confirm(sent);
            }
            if let Some(due) = latecomers.take_if(|latecomers| latecomers.until() <= Instant::now()) {
                let repeated = due.repeat(&self.queue);
                tracing::debug!(repeated, "published again for consumers that reconnected later");
                continue;
            }
            let asked = tokio::select! {
                () = wait(&self.queue, &next) => None,
                () = until(latecomers.as_ref()) => None,
                _ = self.encoding.changed() => None,
                Some(reply) = self.answers.recv() => Some(reply),
                _ = self.broker.connection.wait_for(|now| !now.up || now.generation != generation) => return,
            };
            if let Some(reply) = asked {
                self.answer(client, &encoding, &reply).await;
            }
        }
    }

    async fn answer(&self, client: &Client, encoding: &Encoding, reply: &str) {
        match send_store(client, &self.store, &encoding.cluster_id, reply).await {
            Ok(objects) => tracing::info!(objects, reply, "informer-store answered"),
            Err(error) => tracing::warn!(%error, reply, "cannot answer informer-store"),
        }
    }

    /// Sends what may go out now, up to the size of a batch.
    async fn send_batch(&self, client: &Client, encoding: &Encoding) -> (Vec<Sent>, Next) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let item = match self.queue.next() {
                Next::Item(item) => item,
                next => return (batch, next),
            };
            match self.message(&item, encoding, client.server_info().max_payload) {
                Ok(Some((event, message))) => {
                    let size = message.len();
                    bytes += size;
                    if let Err(error) = client.publish(DATA_SUBJECT, message).await {
                        tracing::warn!(%error, "the broker client refuses a message");
                    }
                    batch.push(Sent { item, event, bytes: size });
                }
                Ok(None) => self.queue.confirm(item),
                Err(error) => {
                    tracing::error!(object = %item.name, %error, "an object cannot be published");
                    self.stats.unencodable.fetch_add(1, Ordering::Relaxed);
                    self.queue.confirm(item);
                }
            }
        }
        (batch, Next::WaitUntil(Instant::now()))
    }

    /// The message for an item; none if its object has left meanwhile.
    fn message(
        &self,
        item: &Item,
        encoding: &Encoding,
        max_payload: usize,
    ) -> Result<Option<(EventType, Bytes)>, EncodeError> {
        let mut out = Vec::new();
        let event = match &item.action {
            Action::Upsert { uid, .. } => {
                let Some(object) = self.store.table(item.type_id).and_then(|table| table.get_to_publish(uid)) else {
                    return Ok(None);
                };
                let event = item.action.event_type(object.told);
                encode_event(encoding, event, &object.body, Detail::Full, &mut out)?;
                if out.len() > max_payload {
                    self.stats.too_large.fetch_add(1, Ordering::Relaxed);
                    let (size, name) = (out.len(), &item.name);
                    tracing::warn!(object = %name, size, max_payload, "too large for the broker: sending metadata only");
                    out.clear();
                    encode_event(encoding, event, &object.body, Detail::MetadataOnly, &mut out)?;
                }
                event
            }
            Action::Delete(removed) => {
                let Some(served) = self.store.served_type(item.type_id) else { return Ok(None) };
                let deleted = Deleted {
                    api_version: &served.api_version(),
                    kind: &served.kind,
                    namespace: removed.name.namespace(),
                    name: removed.name.name(),
                    uid: &removed.uid.to_string(),
                    resource_version: &removed.resource_version.to_string(),
                };
                match encoding.format {
                    PublishFormat::Meshery => meshery::encode_deleted(&deleted, &encoding.cluster_id, &mut out),
                    PublishFormat::Kubernetes => kubernetes::encode_deleted(&deleted, &mut out),
                }
                item.action.event_type(Told::Yes)
            }
        };
        Ok(Some((event, out.into())))
    }

    /// Whether everything that was sent so far over this connection has been taken.
    async fn confirmed(&self, client: &Client, generation: u64, inbox: &str, marker: &mut Subscriber) -> bool {
        let echo = async {
            client.publish(inbox.to_owned(), Bytes::new()).await.ok()?;
            client.flush().await.ok()?;
            marker.next().await
        };
        let mut connection = self.broker.connection.clone();
        let came_back = tokio::select! {
            echo = tokio::time::timeout(CONFIRM_WITHIN, echo) => matches!(echo, Ok(Some(_))),
            _ = connection.wait_for(|now| !now.up || now.generation != generation) => false,
        };
        // A marker can come back over a new connection although the batch went into the old one.
        let now = *connection.borrow();
        came_back && now.up && now.generation == generation
    }

    fn confirm(&self, sent: Sent) {
        let Sent { item, event, bytes } = sent;
        if let Action::Upsert { uid, .. } = &item.action
            && let Some(table) = self.store.table(item.type_id)
        {
            table.confirm(uid);
        }
        let count = match event {
            EventType::Added => &self.stats.added,
            EventType::Modified => &self.stats.modified,
            EventType::Deleted => &self.stats.deleted,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.queue.confirm(item);
    }
}

/// Until what was published may be published again.
async fn until(latecomers: Option<&Latecomers>) {
    match latecomers {
        Some(latecomers) => tokio::time::sleep_until(latecomers.until().into()).await,
        None => std::future::pending().await,
    }
}

/// Until there may be something to send.
async fn wait(queue: &Queue, next: &Next) {
    match next {
        Next::WaitUntil(until) => {
            tokio::select! {
                () = tokio::time::sleep_until((*until).into()) => {}
                () = queue.pushed() => {}
            }
        }
        Next::Empty | Next::Item(_) => queue.pushed().await,
    }
}

fn encode_event(
    encoding: &Encoding,
    event: EventType,
    body: &[u8],
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match encoding.format {
        PublishFormat::Meshery => meshery::encode_event(event, body, &encoding.cluster_id, detail, out),
        PublishFormat::Kubernetes => kubernetes::encode_event(event, body, detail, out),
    }
}
