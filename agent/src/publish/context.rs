//! What both ways of publishing work on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use meshsync_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};

use super::broker::{Broker, Connection};
use super::delivery::DeliveryBoard;
use super::error::SessionError;
use super::fence::{Me, Role, Turn, Witness};
use super::informer_store;
use super::latecomers::{Latecomers, Note};
use super::message::Encoding;
use super::stats::PublishStats;
use crate::encode::{Detail, EncodeError};
use crate::outbox::Item;
use crate::outbox::Outbox;
use crate::plan::ActivePlan;
use crate::snapshot::Store;
use crate::stream::{Progress, Stamp, Subjects};

/// Subject that Meshery Server listens to.
pub const DATA_SUBJECT: &str = "meshery.meshsync.core";

/// Longest name that is told in a line of the log; Kubernetes ends most of them at 253.
const LONGEST_NAME: usize = 512;

/// Why nothing can be told of an object.
pub(super) const TOO_LARGE: &str = "what identifies it is larger than the broker's messages may be";

/// Where messages are made from, and where they go.
pub struct PublishContext {
    /// What is held.
    pub store: Arc<Store>,
    /// What waits.
    pub queue: Arc<Outbox>,
    /// The connection.
    pub broker: Broker,
    /// What messages are made of; nothing is sent before it is known.
    pub encoding: watch::Receiver<Option<Encoding>>,
    /// Subjects at which somebody waits for everything.
    pub answers: mpsc::Receiver<String>,
    /// What was published.
    pub stats: Arc<PublishStats>,
    /// How far the watches have come.
    pub progress: Arc<Progress>,
    /// What is watched.
    pub active_plan: watch::Receiver<ActivePlan>,
    /// Where to tell how messages are delivered.
    pub delivery: Arc<DeliveryBoard>,
    /// This process, as other agents hear of it.
    pub me: Me,
    /// Whether it is the one that publishes.
    pub(crate) role: watch::Sender<Role>,
    /// Tells clusters apart.
    pub witness: Witness,
    /// When to stop, once everything is published.
    pub shutdown: Shutdown,
    /// What one connection leaves to the next.
    pub carried: Carryover,
}

/// What one connection leaves to the next.
#[derive(Debug, Default)]
pub struct Carryover {
    /// What was sent over the last connection and may have been lost with it.
    pub(super) unproven: Vec<Note>,
    /// The connection that was worked on last.
    generation: u64,
    /// The connection over which this process says that it publishes.
    pub(super) turn: Option<Turn>,
    /// Whether this process ever had one.
    pub(super) had_turn: bool,
    /// Since when somebody who does not answer may publish.
    pub(super) silent_since: Option<Instant>,
}

impl Carryover {
    /// Whether no connection was worked on yet: what the stream holds, an earlier agent stored.
    pub(super) const fn is_empty_handed(&self) -> bool {
        self.generation == 0
    }
}

impl PublishContext {
    pub(super) fn current_encoding(&self) -> Option<Encoding> {
        self.encoding.borrow().clone()
    }

    /// What has to be repeated over a connection, if it is a new one and not the first: over the first everything goes
    /// out as new, and a consumer that attaches later asks.
    pub(super) fn new_connection(&mut self, connection: u64) -> Option<Latecomers> {
        let is_new = std::mem::replace(&mut self.carried.generation, connection) != connection;
        let unproven = std::mem::take(&mut self.carried.unproven);
        let first = connection <= 1;
        ((is_new && !first) || !unproven.is_empty()).then(|| Latecomers::new(Instant::now(), unproven))
    }

    /// Waits until there is a connection and it is known what to send; `None` when asked to stop with nothing to send.
    pub(super) async fn ready(&mut self) -> Option<(Connection, Encoding)> {
        let Self { broker, encoding, shutdown, queue, .. } = self;
        let idle = async {
            shutdown.requested().await;
            if !queue.is_empty() {
                // There is a limit to this wait, but it is not set here.
                std::future::pending::<()>().await;
            }
        };
        let ready = async {
            let encoding = encoding.wait_for(Option::is_some).await.ok()?.clone()?;
            let connection = *broker.connection.wait_for(|connection| connection.up).await.ok()?;
            Some((connection, encoding))
        };
        tokio::select! {
            ready = ready => ready,
            () = idle => None,
        }
    }

    /// What a message to the stream may have, headers included.
    pub(super) fn most_bytes(&self, stream: &Stream) -> usize {
        let of_server = self.broker.client.max_payload();
        // -1 and 0: no limit of its own.
        let of_stream = usize::try_from(stream.cached_info().config.max_message_size).unwrap_or_default();
        if of_stream == 0 { of_server } else { of_server.min(of_stream) }
    }

    /// Tells that a message holds less than all of its object.
    pub(super) fn shortened(&self, item: &Item, detail: Detail) {
        let what = match detail {
            Detail::Full => return,
            Detail::MetadataOnly => "metadata only",
            Detail::Skeleton => "its name and uid only",
        };
        self.stats.too_large.fetch_add(1, Ordering::Relaxed);
        let (max_payload, name) = (self.broker.client.max_payload(), &item.name);
        tracing::warn!(object = %name, max_payload, "too large for the broker: sending {what}");
    }

    /// Queues what was shortened and need not be any more.
    pub(super) fn repeat_what_fits(&self) {
        let Some(fitting) = self.delivery.take_fitting(self.broker.client.max_payload()) else {
            return self.queue.resync(&self.store);
        };
        for (type_id, name) in fitting {
            let Some(table) = self.store.table(type_id) else { continue };
            if let Some(object) = table.get_named(&name) {
                table.doubt(&name, &object.uid);
                self.queue.upsert(type_id, name, object.uid);
            }
        }
    }

    pub(super) fn unencodable(&self, item: &Item, error: &EncodeError) {
        self.cannot_publish(item, &error.to_string());
    }

    /// Reports an object of which no message is one that the broker takes: by name, and once, however often it is tried.
    pub(super) fn cannot_publish(&self, item: &Item, reason: &str) {
        let of = self.store.served_type(item.type_id).map(|served| served.to_string()).unwrap_or_default();
        // A name may be what is too long.
        let name: String = item.name.to_string().chars().take(LONGEST_NAME).collect();
        if self.delivery.cannot_publish(item.type_id, &item.name, format!("{of} {name}"), reason) {
            self.stats.unencodable.fetch_add(1, Ordering::Relaxed);
            tracing::error!(r#type = of, object = name, reason, "an object cannot be published");
        }
    }

    /// Sends everything to one who asked for it.
    pub(super) async fn answer(&self, encoding: &Encoding, stream: Option<(&Stream, &Subjects)>, reply: &str) {
        let client = &self.broker.client;
        let connection = *self.broker.connection.borrow();
        let unbroken = || *self.broker.connection.borrow() == connection;
        match informer_store::send(client, &self.store, encoding, stream, reply, unbroken).await {
            Ok(objects) => tracing::info!(objects, reply, "informer-store answered"),
            Err(problem) => tracing::warn!(%problem, reply, "cannot answer informer-store"),
        }
    }

    /// What the stream holds under a subject: the stamp, if it is an agent's message, and the sequence.
    pub(super) async fn look_up(&self, stream: &Stream, subject: &str) -> Result<Option<Found>, SessionError> {
        match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(Found { stamp: Stamp::read(&message.headers), sequence: message.sequence })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(SessionError(error.to_string())),
        }
    }
}

/// A message that stands under an object's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `None` of one that no agent stored.
    pub(super) stamp: Option<Stamp>,
    pub(super) sequence: u64,
}
