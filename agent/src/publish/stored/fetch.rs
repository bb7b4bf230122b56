//! Messages that are asked back from the stream, to be sent to core subscribers once more: many at a time, because each answer
//! takes as long as the way to the broker and back.

use std::collections::HashMap;

use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::encode::EventType;
use crate::encode::envelope::{data_message, object_of};
use crate::publish::outbox::Item;

/// Most messages that are asked for at the same time.
const MOST: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Fetches {
    /// What the answers are for.
    items: HashMap<u64, Item>,
    answers: FuturesUnordered<BoxFuture<'static, (u64, Option<Bytes>)>>,
}

impl Fetches {
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < MOST
    }

    /// Asks for the message with this sequence, to be sent for `item`.
    pub(super) fn ask(&mut self, stream: &Stream, sequence: u64, item: Item) {
        self.items.insert(sequence, item);
        let stream = stream.clone();
        self.answers.push(Box::pin(async move { (sequence, message(&stream, sequence).await) }));
    }

    /// An item and its message, as `ADDED`, which is `None` if it is not there; for ever while nothing is asked for.
    pub(super) async fn next(&mut self) -> (Item, Option<Bytes>) {
        while let Some((sequence, message)) = self.answers.next().await {
            if let Some(item) = self.items.remove(&sequence) {
                return (item, message);
            }
        }
        std::future::pending().await
    }

    /// What has no answer yet.
    pub(super) fn into_items(self) -> impl Iterator<Item = Item> {
        self.items.into_values()
    }
}

async fn message(stream: &Stream, sequence: u64) -> Option<Bytes> {
    let message = stream.direct_get(sequence).await.ok()?;
    let object = object_of(&message.payload)?;
    let mut out = Vec::with_capacity(message.payload.len() + 8);
    data_message(EventType::Added, &mut out, |out| out.extend_from_slice(object));
    Some(out.into())
}
