//! A consumer that uses very little while it listens, for measurements on the machine that also runs the measured
//! program.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt as _;

use super::consumer::CORE_SUBJECT;
use super::view::View;

/// Every message on `meshery.meshsync.core` with its time; payloads are parsed only on request.
#[derive(Debug)]
pub struct Recorder {
    messages: Arc<Mutex<Vec<(Instant, Bytes)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Listens; the broker has confirmed the subscription when this returns.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn subscribe(client: Client) -> Result<Self> {
        let mut incoming = client.subscribe(CORE_SUBJECT).await.context("cannot subscribe")?;
        client.flush().await.context("the broker does not confirm the subscription")?;
        let messages = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&messages);
        let task = tokio::spawn(async move {
            // The client is kept: with its last handle the connection would close.
            let _client = client;
            while let Some(message) = incoming.next().await {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), message.payload));
            }
        });
        Ok(Self { messages, task })
    }

    /// Messages so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no message has arrived yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the first message arrived.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(at, _)| *at)
    }

    /// Time since the last message; `None` before the first message.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.last().map(|(at, _)| at.elapsed())
    }

    /// Payloads of the messages so far, in their order.
    #[must_use]
    pub fn payloads(&self) -> Vec<Bytes> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().map(|(_, payload)| payload.clone()).collect()
    }

    /// The view that results from the messages so far.
    #[must_use]
    pub fn view(&self) -> View {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut view = View::default();
        for (at, payload) in messages {
            view.receive_at(at, payload, None);
        }
        view
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
