//! Publishing without JetStream: whoever is subscribed gets it, batch by batch, until the broker has taken each.
//!
//! Core NATS gives no acknowledgement. What confirms a batch is a marker sent after it on the same connection, to a
//! subject that only this process listens to: the server handles a connection's messages in order, so when the marker comes
//! back, the batch has been taken. If the connection breaks before, the whole batch goes out again (at least once).
//! What that cannot tell is whether consumers were connected: see [`super::latecomers`].
//!
//! Who asks for everything is answered from here, too: were events sent beside the answer, the delete of an object could
//! overtake the answer that still has it, and the object would stay with the consumer for ever.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::client::PublishErrorKind;
use async_nats::{Client, Subscriber};
use bytes::Bytes;

use super::context::{DATA_SUBJECT, PublishContext, TOO_LARGE};
use super::error::SessionError;
use super::latecomers::Latecomers;
use super::message::Encoding;
use super::wait::{echo, until, wait};
use crate::encode::{Detail, EncodeError, EventType};
use crate::outbox::{Action, Item, Next};
use crate::snapshot::Confirmation;
use crate::stream::Subjects;

/// Messages in a batch.
const BATCH_MESSAGES: usize = 512;
/// Bytes in a batch: bounds what is in flight twice, here and in the client library.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a marker may take. A broker that is slower is asked again with a new connection's patience.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);

/// A message that was sent and waits for confirmation.
struct Sent {
    item: Item,
    event: EventType,
    bytes: usize,
    hash: u64,
}

/// What is to be sent for an item.
enum Made {
    Message {
        event: EventType,
        payload: Bytes,
        hash: u64,
    },
    /// Nothing: the object has left meanwhile, is as consumers know it again, or its body is yet to come.
    Nothing,
    /// Not even what identifies the object fits into a message.
    Impossible,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is time to look what the broker offers, or nothing is left to do over this connection.
    Over,
    /// Another agent took the place of this one.
    Yielded,
}

/// One connection's work.
pub(super) struct Session<'p> {
    parts: &'p mut PublishContext,
    encoding: Encoding,
    generation: u64,
    inbox: String,
    marker: Subscriber,
    latecomers: Option<Latecomers>,
}

impl<'p> Session<'p> {
    /// Begins on a connection.
    ///
    /// # Errors
    /// When the connection does not take a subscription.
    pub(super) async fn begin(
        parts: &'p mut PublishContext,
        encoding: Encoding,
        generation: u64,
    ) -> Result<Self, SessionError> {
        let client = parts.broker.client.clone();
        let inbox = client.new_inbox();
        let marker = client.subscribe(inbox.clone()).await.map_err(|error| SessionError(error.to_string()))?;
        parts.take_turn(generation, &Subjects::new(&encoding.cluster_id)).await?;
        let latecomers = parts.new_connection(generation);
        parts.repeat_what_fits();
        Ok(Self { parts, encoding, generation, inbox, marker, latecomers })
    }

    /// Works until the connection breaks, `probe_at` comes, or everything is out and that was asked for.
    pub(super) async fn run(mut self, probe_at: Instant) -> End {
        let end = self.work(probe_at).await;
        // What was to be repeated for those who come late still is.
        self.parts.carried.unproven = self.latecomers.into_iter().flat_map(Latecomers::into_notes).collect();
        end
    }

    async fn work(&mut self, probe_at: Instant) -> End {
        let client = self.parts.broker.client.clone();
        let generation = self.generation;
        let mut lost = pin!(self.parts.lost_turn());
        loop {
            if let Ok(true) = self.parts.encoding.has_changed() {
                let changed = self.parts.encoding.borrow_and_update().clone();
                self.encoding = changed.unwrap_or_else(|| self.encoding.clone());
            }
            let (batch, next) = self.send_batch(&client).await;
            if !batch.is_empty() && !self.confirmed(&client).await {
                self.parts.stats.resent.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // In reverse, so that nothing that was sent later gets in front.
                batch.into_iter().rev().for_each(|sent| self.take_back(sent.item));
                return End::Over;
            }
            for sent in batch {
                if let Some(latecomers) = &mut self.latecomers {
                    latecomers.note(&sent.item);
                }
                self.confirm(sent);
            }
            if let Some(due) = self.latecomers.take_if(|latecomers| latecomers.until() <= Instant::now()) {
                let repeated = due.repeat(&self.parts.queue);
                tracing::debug!(repeated, "published again for consumers that reconnected later");
                continue;
            }
            if self.parts.shutdown.has_begun() && self.parts.queue.is_empty() {
                return End::Over;
            }
            let asked = tokio::select! {
                () = wait(&self.parts.queue, &next) => None,
                () = until(self.latecomers.as_ref().map(Latecomers::until)) => None,
                () = until(Some(probe_at)) => return End::Over,
                () = self.parts.shutdown.requested(), if !self.parts.shutdown.has_begun() => None,
                _ = self.parts.encoding.changed() => None,
                Some(reply) = self.parts.answers.recv() => Some(reply),
                _ = self.parts.broker.connection.wait_for(|now| !now.is(generation)) => return End::Over,
                () = &mut lost => return End::Yielded,
            };
            if let Some(reply) = asked {
                self.parts.answer(&self.encoding, None, &reply).await;
            }
        }
    }

    /// Sends what may go out now, up to the size of a batch.
    async fn send_batch(&self, client: &Client) -> (Vec<Sent>, Next) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let item = match self.parts.queue.next() {
                Next::Item(item) => item,
                next => return (batch, next),
            };
            match self.make(&item, client.max_payload()) {
                Ok(Made::Message { event, payload, hash }) => {
                    let size = payload.len();
                    if let Err(error) = client.publish(DATA_SUBJECT, payload).await
                        // A closed client: the marker after the batch does not come back either.
                        && error.kind() != PublishErrorKind::Send
                    {
                        self.give_up(item, &error.to_string());
                        continue;
                    }
                    bytes += size;
                    batch.push(Sent { item, event, bytes: size, hash });
                }
                Ok(Made::Nothing) => self.parts.queue.confirm(item),
                Ok(Made::Impossible) => self.give_up(item, TOO_LARGE),
                Err(error) => {
                    self.parts.unencodable(&item, &error);
                    self.parts.queue.confirm(item);
                }
            }
        }
        (batch, Next::WaitUntil(Instant::now()))
    }

    fn make(&self, item: &Item, limit: usize) -> Result<Made, EncodeError> {
        match &item.action {
            Action::Upsert { uid, resync } => {
                let Some(table) = self.parts.store.table(item.type_id) else { return Ok(Made::Nothing) };
                let Some(object) = table.get_to_publish(&item.name, uid) else { return Ok(Made::Nothing) };
                if object.confirmed && !*resync {
                    return Ok(Made::Nothing);
                }
                let Some(body) = object.body else {
                    table.want_body(&item.name, uid);
                    return Ok(Made::Nothing);
                };
                let event = item.action.event_type(object.told);
                let Some(encoded) = self.encoding.encode(event, &body, Detail::Full, limit)? else {
                    return Ok(Made::Impossible);
                };
                self.parts.shortened(item, encoded.detail);
                self.parts.delivery.shortened(item.type_id, &item.name, encoded.needs);
                Ok(Made::Message { event, payload: encoded.payload, hash: object.hash })
            }
            Action::Delete(removed) => {
                let Some(served) = self.parts.store.served_type(item.type_id) else { return Ok(Made::Nothing) };
                let payload = self.encoding.encode_deleted(&served, removed);
                if payload.len() > limit {
                    return Ok(Made::Impossible);
                }
                Ok(Made::Message { event: EventType::Deleted, payload, hash: 0 })
            }
        }
    }

    /// Reports what cannot be told. Nothing waits for it, and it is tried again when it changes.
    fn give_up(&self, item: Item, reason: &str) {
        self.parts.cannot_publish(&item, reason);
        if let Action::Delete(_) = &item.action {
            self.parts.delivery.published(item.type_id, &item.name);
        }
        self.parts.queue.confirm(item);
    }

    /// Whether everything that was sent so far over this connection has been taken.
    async fn confirmed(&mut self, client: &Client) -> bool {
        let echo = echo(client, &self.inbox, &mut self.marker);
        let generation = self.generation;
        let mut connection = self.parts.broker.connection.clone();
        let came_back = tokio::select! {
            echo = tokio::time::timeout(CONFIRM_WITHIN, echo) => matches!(echo, Ok(Some(_))),
            _ = connection.wait_for(|now| !now.is(generation)) => false,
        };
        // A marker can come back over a new connection although the batch went into the old one.
        came_back && connection.borrow().is(generation)
    }

    /// An item may have arrived, or not: what consumers know of its object is not known any more.
    fn take_back(&self, item: Item) {
        if let Action::Upsert { uid, .. } = &item.action
            && let Some(table) = self.parts.store.table(item.type_id)
        {
            table.doubt(&item.name, uid);
        }
        self.parts.queue.return_unconfirmed(item);
    }

    fn confirm(&self, sent: Sent) {
        let Sent { item, event, bytes, hash } = sent;
        if let Action::Upsert { uid, .. } = &item.action
            && let Some(table) = self.parts.store.table(item.type_id)
        {
            table.confirm(&item.name, uid, Confirmation { hash, sequence: 0 });
        }
        self.parts.delivery.published(item.type_id, &item.name);
        self.parts.stats.published(event, bytes);
        self.parts.queue.confirm(item);
    }
}
