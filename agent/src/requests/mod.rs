//! What Meshery Server asks of the agent over the broker.
//!
//! | entity | answer |
//! |---|---|
//! | `informer-store` | everything the agent holds, to the subject that the request names, ended by an empty array |
//! | `resync-discovery` | everything published again as `ADDED`; requests that come while one is queued are one |
//! | `meshsync-meta` | the agent's version, on [`META_SUBJECT`] |
//!
//! A request that cannot be read, or asks for something else, is logged and has no effect.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::publish::broker::Broker;
use crate::publish::queue::Queue;
use crate::snapshot::Store;

pub use parse::{Entity, ParseError, parse};

/// Subject that requests come in on.
pub const REQUEST_SUBJECT: &str = "meshery.meshsync.request";
/// Queue group of the subscription: of several agents by mistake, one answers.
pub const QUEUE_GROUP: &str = "meshsync-request-stream";
/// Subject of the answer to `meshsync-meta`.
pub const META_SUBJECT: &str = "meshsync-meta";

/// Answers requests.
pub struct Requests {
    /// Connection.
    pub broker: Broker,
    /// What is held.
    pub store: Arc<Store>,
    /// Where a resync is queued.
    pub queue: Arc<Queue>,
    /// Subjects at which somebody waits for everything that is held.
    pub answers: mpsc::Sender<String>,
    /// Version told in answer to `meshsync-meta`.
    pub version: &'static str,
}

impl Requests {
    /// Answers for ever. The client library subscribes again after each reconnect.
    pub async fn run(self) {
        loop {
            let subscribed = self.broker.client.queue_subscribe(REQUEST_SUBJECT, QUEUE_GROUP.to_owned()).await;
            match subscribed {
                Ok(mut requests) => {
                    while let Some(message) = requests.next().await {
                        self.answer(&message.payload).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot listen for requests"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn answer(&self, payload: &[u8]) {
        let outcome = match parse(payload) {
            Ok(Entity::InformerStore { reply }) => {
                self.ask_publisher(reply);
                Ok(())
            }
            Ok(Entity::ResyncDiscovery) => {
                tracing::info!("resync asked for: publishing everything again");
                self.queue.resync(&self.store);
                Ok(())
            }
            Ok(Entity::Meta) => self.send_version().await,
            Err(error) => {
                tracing::warn!(%error, "request without effect");
                Ok(())
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot answer a request");
        }
    }

    /// The publisher answers, between two batches: see there.
    fn ask_publisher(&self, reply: String) {
        if let Err(error) = self.answers.try_send(reply) {
            tracing::warn!(%error, "too many consumers ask for everything at once: one is not answered");
        }
    }

    async fn send_version(&self) -> Result<(), async_nats::PublishError> {
        let message = serde_json::json!({
            "ObjectType": "meshsync-meta", "EventType": "", "Request": null, "Object": self.version,
        });
        send(&self.broker.client, META_SUBJECT, message.to_string().into_bytes()).await
    }
}

async fn send(client: &Client, subject: &str, message: Vec<u8>) -> Result<(), async_nats::PublishError> {
    client.publish(subject.to_owned(), Bytes::from(message)).await
}
