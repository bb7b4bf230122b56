//! Brings what waits in the queue to the broker, in the strongest way that the broker offers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use meshsync_crds::Delivery;

use super::context::PublishContext;
use super::error::SessionError;
use super::message::Encoding;
use super::{core, stored};
use crate::stream::{SetupError, StreamSettings, Subjects, ensure};

/// How often JetStream is asked for before core NATS has to do.
const ATTEMPTS: u32 = 5;
/// How often in a row a session may fail to begin before core NATS has to do.
const FAILURES: u32 = 2;
/// Wait between two of these attempts, and after a session that could not begin.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// How often a broker that offers less is looked at again.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct Publisher {
    parts: PublishContext,
    settings: StreamSettings,
}

impl Publisher {
    /// A publisher that sends nothing before the encoding is known.
    #[must_use]
    pub fn new(parts: PublishContext, settings: StreamSettings) -> Self {
        Self { parts, settings }
    }

    /// Publishes until everything is out after the shutdown began.
    pub async fn run(mut self) {
        // In a row: a stream that is there and cannot be read, for lack of rights say, must not hold up everything.
        let mut failures = 0;
        let mut last_problem = String::new();
        loop {
            let Some((connection, encoding)) = self.parts.ready().await else { return };
            let generation = connection.generation;
            let mut connections = self.parts.broker.connection.clone();
            match self.parts.may_publish(generation, &Subjects::new(&encoding.cluster_id)).await {
                Ok(true) => {}
                Ok(false) if self.parts.wait_for_turn(generation).await => continue,
                Ok(false) => return,
                Err(problem) => {
                    tracing::debug!(%problem, "cannot ask whether another agent publishes");
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                    continue;
                }
            }
            let stream = tokio::select! {
                stream = self.stream(&encoding), if failures < FAILURES => stream,
                // What a broken connection lets through says nothing about JetStream.
                _ = connections.wait_for(|now| !now.is(generation)), if failures < FAILURES => continue,
                else => Err(last_problem.clone()),
            };
            let worked = match stream {
                Ok(stream) => self.store(encoding, generation, stream).await,
                Err(reason) => {
                    failures = 0;
                    self.send(encoding, generation, reason).await
                }
            };
            match worked {
                Ok(()) => failures = 0,
                Err(problem) if !connections.borrow().is(generation) => {
                    tracing::debug!(%problem, "the connection broke while publishing began");
                }
                Err(problem) => {
                    tracing::warn!(%problem, retry_in = ?BETWEEN_ATTEMPTS, "publishing cannot begin");
                    failures += 1;
                    last_problem = problem.to_string();
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                }
            }
            if self.parts.shutdown.has_begun() && self.parts.queue.is_empty() {
                return;
            }
        }
    }

    /// The stream, ready; or why there is none.
    async fn stream(&self, encoding: &Encoding) -> Result<Stream, String> {
        let subjects = Subjects::new(&encoding.cluster_id);
        let mut attempt = 1;
        loop {
            match ensure(&self.parts.broker.client, &subjects, &self.settings).await {
                Ok(stream) => return Ok(stream),
                Err(SetupError::NotNow(reason)) if attempt < ATTEMPTS => {
                    tracing::info!(reason, "JetStream is not ready");
                    attempt += 1;
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn store(&mut self, encoding: Encoding, connection: u64, stream: Stream) -> Result<(), SessionError> {
        self.parts.delivery.set_mode(Delivery::JetStream, String::new());
        let settings = self.settings.clone();
        let states = Subjects::new(&encoding.cluster_id).all_objects();
        let session = stored::Session::begin(&mut self.parts, encoding, connection, stream, settings).await?;
        let end = session.run().await;
        tracing::debug!(?end, "session over");
        if end == stored::End::Yielded {
            self.parts.yield_turn().await;
            return Ok(());
        }
        if end == stored::End::Unheard {
            let problem =
                format!("nothing that is sent to {states} is acknowledged; may the broker's user publish to it?");
            return Err(SessionError(problem));
        }
        if end == stored::End::Silent {
            // The other end may be gone without a word: a new connection shows it long before the client's own pings do.
            let _closed = self.parts.broker.client.force_reconnect().await;
            let mut connections = self.parts.broker.connection.clone();
            let gone = connections.wait_for(|now| !now.is(connection));
            let _waited_long_enough = tokio::time::timeout(BETWEEN_ATTEMPTS, gone).await;
        }
        Ok(())
    }

    async fn send(&mut self, encoding: Encoding, connection: u64, reason: String) -> Result<(), SessionError> {
        self.parts.delivery.set_mode(Delivery::Core, reason);
        self.parts.progress.done(HashMap::new());
        let session = core::Session::begin(&mut self.parts, encoding, connection).await?;
        if session.run(Instant::now() + PROBE_EVERY).await == core::End::Yielded {
            self.parts.yield_turn().await;
        }
        Ok(())
    }
}
