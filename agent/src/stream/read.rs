//! Reading the stream from its beginning to its end as of now.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
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
    mut take: impl FnMut(Entry),
) -> Result<(), ReadError> {
    let mut reader = Reader::begin(stream, filter, true).await?;
    while let Some((message, sequence)) = reader.next().await? {
        if let Some(entry) = entry_of(message, sequence, subjects) {
            take(entry);
        }
    }
    Ok(())
}

/// All checkpoints.
///
/// # Errors
/// As of [`read_headers`].
pub async fn read_checkpoints(stream: &Stream, subjects: &Subjects) -> Result<HashMap<TypeKey, Checkpoint>, ReadError> {
    let mut checkpoints = HashMap::new();
    let mark = subjects.told_mark();
    let mut reader = Reader::begin(stream, subjects.all_checkpoints(), false).await?;
    while let Some((message, _)) = reader.next().await? {
        if *message.subject == *mark {
            continue;
        }
        let key = subjects.parse_checkpoint(&message.subject);
        match (key, serde_json::from_slice(&message.payload)) {
            (Some(key), Ok(checkpoint)) => {
                checkpoints.insert(key, checkpoint);
            }
            _ => {
                tracing::warn!(subject = %message.subject, "not a checkpoint that this agent can read; its type is listed")
            }
        }
    }
    Ok(checkpoints)
}

/// Objects with their messages, one after the other: no more than [`BYTES_AT_ONCE`] of them wait here.
pub struct Bodies<'s> {
    subjects: &'s Subjects,
    reader: Reader<'s>,
}

impl<'s> Bodies<'s> {
    /// Begins with the first of those that `filter` selects.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn begin(stream: &'s Stream, subjects: &'s Subjects, filter: String) -> Result<Self, ReadError> {
        Ok(Self { subjects, reader: Reader::begin(stream, filter, false).await? })
    }

    /// The next object; `None` after the last.
    ///
    /// # Errors
    /// As of [`read_headers`].
    pub async fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        while let Some((message, sequence)) = self.reader.next().await? {
            if let Some(entry) = entry_of(message, sequence, self.subjects) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn entry_of(message: Message, sequence: u64, subjects: &Subjects) -> Option<Entry> {
    let stamp = message.headers.as_ref().and_then(Stamp::read);
    match (subjects.parse_object(&message.subject), stamp) {
        (Some((key, name)), Some(stamp)) => Some(Entry { key, name, stamp, sequence, payload: message.payload }),
        _ => {
            tracing::warn!(subject = %message.subject, "a message in the stream is not the agent's; left alone");
            None
        }
    }
}

/// Reads messages and their sequences up to the end of the stream as it was at the beginning.
struct Reader<'s> {
    stream: &'s Stream,
    consumer: PullConsumer,
    headers_only: bool,
    batch: Option<pull::Batch>,
    /// Whether the next message is asked for alone, because it is larger than [`BYTES_AT_ONCE`].
    one_by_one: bool,
    /// Messages of the batch that have come.
    seen: u64,
    /// Messages that have yet to come, as the broker said last.
    left: u64,
    /// Number of the next message of this consumer.
    expected: u64,
}

impl<'s> Reader<'s> {
    async fn begin(stream: &'s Stream, filter: String, headers_only: bool) -> Result<Self, ReadError> {
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
        let left = consumer.cached_info().num_pending;
        Ok(Self { stream, consumer, headers_only, batch: None, one_by_one: false, seen: 0, left, expected: 1 })
    }

    /// The next message; `None` after the last.
    async fn next(&mut self) -> Result<Option<(Message, u64)>, ReadError> {
        loop {
            let Some(batch) = &mut self.batch else {
                if self.left == 0 {
                    self.end().await;
                    return Ok(None);
                }
                self.batch = Some(self.fetch().await?);
                self.seen = 0;
                continue;
            };
            let next = tokio::time::timeout(SILENCE * 2, batch.next()).await;
            let Some(message) = next.map_err(|_| ReadError("the broker is silent".to_owned()))? else {
                self.batch = None;
                // Nothing came although something was pending: it expired or was replaced, and came earlier or later.
                if self.seen == 0 {
                    self.left = 0;
                }
                continue;
            };
            let message = match message {
                Ok(message) => message,
                // The next one does not fit into what was asked for, usually: asking again shows whether it is more than that.
                Err(_) if self.seen > 0 => {
                    self.batch = None;
                    continue;
                }
                Err(_) if !self.one_by_one => {
                    self.one_by_one = true;
                    self.batch = None;
                    continue;
                }
                Err(error) => return Err(failed(&error)),
            };
            self.one_by_one = false;
            let info = message.info().map_err(|error| failed(&error))?;
            if info.consumer_sequence != self.expected {
                return Err(ReadError("messages were lost on the way".to_owned()));
            }
            self.expected += 1;
            self.seen += 1;
            self.left = info.pending;
            let sequence = info.stream_sequence;
            return Ok(Some((message.message, sequence)));
        }
    }

    async fn fetch(&self) -> Result<pull::Batch, ReadError> {
        let fetch = self.consumer.fetch().expires(SILENCE);
        let fetch = match (self.one_by_one, self.headers_only) {
            (true, _) => fetch.max_messages(1),
            (false, true) => fetch.max_messages(MESSAGES_AT_ONCE),
            (false, false) => fetch.max_messages(MESSAGES_AT_ONCE).max_bytes(BYTES_AT_ONCE),
        };
        fetch.messages().await.map_err(|error| failed(&error))
    }

    /// The consumer goes by itself, too, only later.
    async fn end(&self) {
        if let Err(error) = self.stream.delete_consumer(&self.consumer.cached_info().name).await {
            tracing::debug!(%error, "cannot remove the reader of the stream");
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> ReadError {
    ReadError(error.to_string())
}
