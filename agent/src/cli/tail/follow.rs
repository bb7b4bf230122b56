//! What `tail` follows: events as they are sent, or the state that the broker holds and then what changes.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::consumer::push;
use async_nats::{Client, jetstream};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use crate::publish::context::DATA_SUBJECT;
use crate::stream::{ALL_STATES, TypeKey, type_of};

/// When enough events should have come to say what comes at all, where no stored state comes first.
const BEGUN_AFTER: Duration = Duration::from_secs(10);

/// What comes, until the connection is closed for good.
pub(super) type Followed = BoxStream<'static, anyhow::Result<Came>>;

/// Something came.
#[derive(Debug)]
pub(super) enum Came {
    /// A message.
    Message(Message),
    /// Once: the stored state has been read; without one, some time has passed.
    Begun,
}

/// A message about an object.
#[derive(Debug)]
pub(super) struct Message {
    /// The type, where the subject tells it: in the stored state only.
    pub(super) key: Option<TypeKey>,
    /// The event.
    pub(super) payload: Bytes,
}

/// Events as they are sent.
pub(super) async fn events(client: &Client) -> anyhow::Result<Followed> {
    let messages = client.subscribe(DATA_SUBJECT).await.context("cannot subscribe")?;
    let messages = messages.map(|message| Ok(Came::Message(Message { key: None, payload: message.payload })));
    let begun = tokio::time::sleep(BEGUN_AFTER).map(|()| Ok(Came::Begun));
    Ok(stream::select(messages, begun.into_stream()).boxed())
}

/// The state that the broker holds, of all clusters, then what changes.
pub(super) async fn stored(client: &Client) -> anyhow::Result<Followed> {
    let context = jetstream::new(client.clone());
    let name = context.stream_by_subject(ALL_STATES).await.context("there is no stream with a cluster's state")?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: ALL_STATES.to_owned(),
        ..push::OrderedConfig::default()
    };
    let consumer = context.get_stream_no_info(name).await?.create_consumer(config).await?;
    let mut unread = Unread(consumer.cached_info().num_pending);
    let nothing_stored = stream::iter((unread.0 == 0).then_some(Ok(Came::Begun)));
    let messages = consumer.messages().await?.map(move |message| {
        let message = message?;
        let last = unread.ends_with(message.info().map_err(|error| anyhow!(error))?.pending);
        Ok((Message { key: type_of(&message.subject), payload: message.message.payload }, last))
    });
    Ok(nothing_stored.chain(messages.flat_map(|message| stream::iter(with_end(message)))).boxed())
}

/// A message, and that it was the last of the stored state, if it was.
fn with_end(message: anyhow::Result<(Message, bool)>) -> impl Iterator<Item = anyhow::Result<Came>> {
    match message {
        Ok((message, last)) => [Some(Ok(Came::Message(message))), last.then_some(Ok(Came::Begun))],
        Err(error) => [Some(Err(error)), None],
    }
    .into_iter()
    .flatten()
}

/// Messages of the stored state that are still to come.
struct Unread(u64);

impl Unread {
    /// Counts a message behind which `pending` wait; whether it is the last of the state.
    ///
    /// Both numbers are needed. Where much changes, something always waits; and what is replaced before it is read does
    /// not come at its place, so that fewer come than were announced.
    fn ends_with(&mut self, pending: u64) -> bool {
        let before = self.0;
        self.0 = before.saturating_sub(1).min(pending);
        before > 0 && self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(announced: u64, pending: &[u64]) -> Vec<bool> {
        let mut unread = Unread(announced);
        pending.iter().map(|pending| unread.ends_with(*pending)).collect()
    }

    #[test]
    fn the_state_ends_once() {
        assert_eq!(ends(3, &[2, 1, 0, 0]), [false, false, true, false], "nothing changes");
        assert_eq!(ends(3, &[5, 6, 7, 8]), [false, false, true, false], "more comes than is read");
        assert_eq!(ends(5, &[1, 0, 0]), [false, true, false], "some are gone before they are read");
        assert_eq!(ends(0, &[0]), [false], "that of an empty stream ended before");
    }

    #[test]
    fn the_end_of_the_state_comes_behind_its_last_message() {
        let message = || Message { key: None, payload: Bytes::from_static(b"{}") };
        let told = |last| with_end(Ok((message(), last))).map(Result::unwrap).collect::<Vec<_>>();
        assert!(matches!(told(false)[..], [Came::Message(_)]));
        assert!(matches!(told(true)[..], [Came::Message(_), Came::Begun]));
        assert_eq!(with_end(Err(anyhow!("gone"))).filter(Result::is_err).count(), 1);
    }
}
