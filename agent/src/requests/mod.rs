//! What Meshery Server asks of the agent over the broker.
//!
//! | entity | answer |
//! |---|---|
//! | `informer-store` | everything the agent holds, to the subject that the request names, ended by an empty array |
//! | `resync-discovery` | everything published again as `ADDED`, once for all requests within [`RESYNC_DELAY`] |
//! | `meshsync-meta` | the agent's version, on [`META_SUBJECT`] |
//!
//! A request that cannot be read, or asks for something else, is logged and has no effect.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::outbox::Outbox;
use crate::publish::broker::Broker;
use crate::publish::fence::Role;
use crate::snapshot::Store;

pub use parse::{Entity, ParseError, parse};

/// Subject that requests come in on.
pub const REQUEST_SUBJECT: &str = "meshery.meshsync.request";
/// Outbox group of the subscription: of several agents by mistake, one answers.
pub const QUEUE_GROUP: &str = "meshsync-request-stream";
/// Subject of the answer to `meshsync-meta`.
pub const META_SUBJECT: &str = "meshsync-meta";

/// How long a resync waits for others to be one with: consumers that start together, or a person who presses a button
/// twice, ask within this. The pass begins after the last of them asked, so each of them hears all of it.
pub const RESYNC_DELAY: Duration = Duration::from_millis(200);

/// Answers requests.
pub struct Requests {
    /// Connection.
    pub broker: Broker,
    /// What is held.
    pub store: Arc<Store>,
    /// Where a resync is queued.
    pub queue: Arc<Outbox>,
    /// Subjects at which somebody waits for everything that is held.
    pub answers: mpsc::Sender<String>,
    /// Whether this is the agent that publishes.
    pub(crate) role: watch::Receiver<Role>,
    /// Version told in answer to `meshsync-meta`.
    pub version: &'static str,
}

impl Requests {
    /// Answers for ever. The client library subscribes again after each reconnect.
    pub async fn run(self) {
        let mut role = self.role.clone();
        loop {
            // Of a queue group one is asked, whichever: it has to be the one that can answer.
            if role.wait_for(Role::is_active).await.is_err() {
                return;
            }
            let subscribed = self.broker.client.queue_subscribe(REQUEST_SUBJECT, QUEUE_GROUP.to_owned()).await;
            match subscribed {
                Ok(requests) => self.answer_all(requests).await,
                Err(error) => tracing::warn!(%error, "cannot listen for requests"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn answer_all(&self, mut requests: Subscriber) {
        let mut resync_at = None;
        let mut role = self.role.clone();
        loop {
            tokio::select! {
                () = stands_by(&mut role) => break,
                message = requests.next() => match message.map(|message| parse(&message.payload)) {
                    Some(Ok(Entity::InformerStore { reply })) => self.ask_publisher(reply),
                    Some(Ok(Entity::ResyncDiscovery)) => {
                        resync_at.get_or_insert_with(|| Instant::now() + RESYNC_DELAY);
                    }
                    Some(Ok(Entity::Meta)) => self.send_version().await,
                    Some(Err(error)) => tracing::warn!(%error, "request without effect"),
                    None => break,
                },
                () = reached(resync_at) => {
                    resync_at = None;
                    tracing::info!("resync asked for: publishing everything again");
                    self.queue.resync(&self.store);
                }
            }
        }
    }

    /// The publisher answers, between two batches: see there.
    fn ask_publisher(&self, reply: String) {
        if let Err(error) = self.answers.try_send(reply) {
            tracing::warn!(%error, "too many consumers ask for everything at once: one is not answered");
        }
    }

    async fn send_version(&self) {
        let message = serde_json::json!({
            "ObjectType": "meshsync-meta", "EventType": "", "Request": null, "Object": self.version,
        });
        if let Err(error) = self.broker.client.publish(META_SUBJECT, message.to_string().into()).await {
            tracing::warn!(%error, "cannot answer a request");
        }
    }
}

async fn stands_by(role: &mut watch::Receiver<Role>) {
    if role.wait_for(|role| !role.is_active()).await.is_err() {
        std::future::pending().await
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
