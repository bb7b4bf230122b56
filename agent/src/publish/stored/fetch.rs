//! Messages that are asked back from the stream, to be sent to core subscribers once more: many at a time, because each answer
//! takes as long as the way to the broker and back.

use std::collections::HashMap;

use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::encode::EventType;
use crate::encode::envelope::{data_message, object_of};
use crate::outbox::Item;

/// Most messages that are asked for at the same time.
const MOST: usize = 64;

/// What became of a question.
pub(super) enum Fetched {
    /// The message, as `ADDED`.
    Message(Bytes),
    /// Something newer has taken its place, and was told as such.
    Replaced,
    /// It holds no object: no agent made it so.
    Unusable,
    /// The broker gave no answer.
    Failed(String),
}

/// See the module.
#[derive(Default)]
pub(super) struct Fetches {
    /// Number of the last question.
    asked: u64,
    /// What the answers are for, by the number of the question.
    items: HashMap<u64, Item>,
    answers: FuturesUnordered<BoxFuture<'static, (u64, Fetched)>>,
}

impl Fetches {
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < MOST
    }

    /// Asks for the message with this sequence, to be sent for `item`.
    pub(super) fn ask(&mut self, stream: &Stream, sequence: u64, item: Item) {
        self.asked += 1;
        self.items.insert(self.asked, item);
        let (stream, number) = (stream.clone(), self.asked);
        self.answers.push(Box::pin(async move { (number, message(&stream, sequence).await) }));
    }

    /// An item and what became of the question; for ever while nothing is asked for.
    pub(super) async fn next(&mut self) -> (Item, Fetched) {
        while let Some((number, fetched)) = self.answers.next().await {
            if let Some(item) = self.items.remove(&number) {
                return (item, fetched);
            }
        }
        std::future::pending().await
    }

    /// What has no answer yet.
    pub(super) fn into_items(self) -> impl Iterator<Item = Item> {
        self.items.into_values()
    }
}

async fn message(stream: &Stream, sequence: u64) -> Fetched {
    let message = match stream.direct_get(sequence).await {
        Ok(message) => message,
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Fetched::Replaced,
        Err(error) => return Fetched::Failed(error.to_string()),
    };
    let Some(object) = object_of(&message.payload) else { return Fetched::Unusable };
    let mut out = Vec::with_capacity(message.payload.len() + 8);
    data_message(EventType::Added, &mut out, |out| out.extend_from_slice(object));
    Fetched::Message(out.into())
}
