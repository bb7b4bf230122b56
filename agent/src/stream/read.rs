//! Reading the stream from its beginning to its end as of now.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::StreamExt;

use super::{Checkpoint, Stamp, Subjects, TypeKey};
use crate::object::ObjectName;

/// Messages that are asked for at once.
const MESSAGES_AT_ONCE: usize = 5_000;
/// Bytes that are asked for at once, where bodies come.
const BYTES_AT_ONCE: usize = 8 * 1024 * 1024;
/// How long the broker may be silent.
const SILENCE: Duration = Duration::from_secs(15);
/// When the broker forgets a reader that went away.
const FORGET_READER: Duration = Duration::from_secs(60);

/// The stream could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the stream: {0}")]
pub struct ReadError(String);

/// One message of the stream about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its type.
    pub key: TypeKey,
    /// Its name.
    pub name: ObjectName,
    /// What the headers say.
    pub stamp: Stamp,
    /// Sequence of the message.
    pub sequence: u64,
    /// The message; empty when only headers were asked for.
    pub payload: Bytes,
}

/// Gives `take` every object's headers.
///
/// # Errors
/// When the broker does not answer or the connection breaks: then some were not given.
pub async fn read_headers(
    stream: &Stream,
    subjects: &Subjects,
    filter: String,
    take: impl FnMut(Entry),
) -> Result<(), ReadError> {
    read_objects(stream, subjects, filter, true, take).await
}

/// Gives `take` every object's message.
///
/// # Errors
/// As of [`read_headers`].
pub async fn read_bodies(
    stream: &Stream,
    subjects: &Subjects,
    filter: String,
    take: impl FnMut(Entry),
) -> Result<(), ReadError> {
    read_objects(stream, subjects, filter, false, take).await
}

/// All checkpoints.
///
/// # Errors
/// As of [`read_headers`].
pub async fn read_checkpoints(stream: &Stream, subjects: &Subjects) -> Result<HashMap<TypeKey, Checkpoint>, ReadError> {
    let mut checkpoints = HashMap::new();
    let mark = subjects.told_mark();
    read(stream, subjects.all_checkpoints(), false, |message, _| {
        if *message.subject == *mark {
            return;
        }
        let key = subjects.parse_checkpoint(&message.subject);
        match (key, serde_json::from_slice(&message.payload)) {
            (Some(key), Ok(checkpoint)) => {
                checkpoints.insert(key, checkpoint);
            }
            _ => tracing::warn!(subject = %message.subject, "not a checkpoint that this agent can read; its type is listed"),
        }
    })
    .await?;
    Ok(checkpoints)
}

async fn read_objects(
    stream: &Stream,
    subjects: &Subjects,
    filter: String,
    headers_only: bool,
    mut take: impl FnMut(Entry),
) -> Result<(), ReadError> {
    read(stream, filter, headers_only, |message, sequence| {
        let stamp = message.headers.as_ref().and_then(Stamp::read);
        match (subjects.parse_object(&message.subject), stamp) {
            (Some((key, name)), Some(stamp)) => take(Entry { key, name, stamp, sequence, payload: message.payload }),
            _ => tracing::warn!(subject = %message.subject, "a message in the stream is not the agent's; left alone"),
        }
    })
    .await
}

/// Gives `take` every message and its sequence.
async fn read(
    stream: &Stream,
    filter: String,
    headers_only: bool,
    mut take: impl FnMut(async_nats::Message, u64),
) -> Result<(), ReadError> {
    let failed = |error: &dyn std::fmt::Display| ReadError(error.to_string());
    let config = pull::Config {
        // Each subject has one message; one that is replaced meanwhile comes again at the end.
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        filter_subject: filter,
        headers_only,
        inactive_threshold: FORGET_READER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
    let mut left = consumer.cached_info().num_pending;
    let mut expected = 1;
    while left > 0 {
        let fetch = consumer.fetch().expires(SILENCE);
        let fetch = if headers_only { fetch } else { fetch.max_bytes(BYTES_AT_ONCE) }.max_messages(MESSAGES_AT_ONCE);
        let mut batch = fetch.messages().await.map_err(|error| failed(&error))?;
        let mut seen = 0_u64;
        loop {
            let next = tokio::time::timeout(SILENCE * 2, batch.next()).await;
            let Some(message) = next.map_err(|_| ReadError("the broker is silent".to_owned()))? else { break };
            let message = message.map_err(|error| failed(&error))?;
            let info = message.info().map_err(|error| failed(&error))?;
            if info.consumer_sequence != expected {
                return Err(ReadError("messages were lost on the way".to_owned()));
            }
            expected += 1;
            seen += 1;
            left = info.pending;
            let sequence = info.stream_sequence;
            take(message.message, sequence);
        }
        // Nothing came although something was pending: it expired or was replaced, and came earlier or later.
        if seen == 0 {
            break;
        }
    }
    // It goes by itself, too, only later.
    if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
        tracing::debug!(%error, "cannot remove the reader of the stream");
    }
    Ok(())
}
