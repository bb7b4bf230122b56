//! Messages that were sent and are not acknowledged yet: bounded in number and bytes.

use std::collections::BTreeMap;
use std::time::Instant;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode, jetstream};
use bytes::Bytes;

use crate::encode::{Detail, EventType};
use crate::outbox::Item;
use crate::snapshot::TypeId;
use crate::stream::Stamp;

/// Most messages that may wait for their acknowledgement.
const MOST: usize = 512;
/// Most bytes that they may have.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What was sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// A message about an object.
    Object(Box<SentObject>),
    /// A checkpoint of a type.
    Checkpoint(TypeId),
    /// A mark, or nothing: the answer says that everything before it has been handled.
    Marker,
}

/// A message about an object on its way into the stream.
#[derive(Debug)]
pub(super) struct SentObject {
    pub(super) item: Item,
    pub(super) event: EventType,
    pub(super) subject: String,
    pub(super) stamp: Stamp,
    pub(super) payload: Bytes,
    /// How much of the object is in it.
    pub(super) detail: Detail,
    /// Whether the stream's message was given way to before.
    pub(super) insists: bool,
}

impl Sent {
    fn bytes(&self) -> usize {
        match self {
            Self::Object(object) => object.payload.len(),
            Self::Checkpoint(_) | Self::Marker => 0,
        }
    }
}

/// What the broker says to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is stored.
    Stored {
        sequence: u64,
        /// The broker knows its id: it stored one like it before.
        duplicate: bool,
    },
    /// Another message stands where it was to go.
    Conflict,
    /// There is no stream that takes it.
    NoStream,
    /// The stream takes nothing now: a limit of its own, usually.
    Refused(String),
    /// This message is not one that the stream takes; others are.
    Impossible(Impossible),
    /// It came back: a marker.
    Echo,
}

/// Why a message will never be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Impossible {
    pub(super) reason: String,
    /// Whether one that is shorter may be.
    pub(super) too_large: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flight {
    inbox: String,
    sent: BTreeMap<u64, (Sent, Instant)>,
    next: u64,
    bytes: usize,
    /// When the last answer came.
    heard: Option<Instant>,
}

impl Flight {
    /// Nothing in flight; answers come to subjects below `inbox`.
    pub(super) fn new(inbox: String) -> Self {
        Self { inbox, sent: BTreeMap::new(), next: 0, bytes: 0, heard: None }
    }

    pub(super) fn has_room(&self) -> bool {
        self.sent.len() < MOST && self.bytes < MOST_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The number that the next message gets: each is sent, and answered, after those with smaller ones.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// Takes in what is about to be sent; gives the subject that its answer must come to.
    pub(super) fn add(&mut self, sent: Sent) -> String {
        let number = self.next;
        self.next += 1;
        self.bytes += sent.bytes();
        self.sent.insert(number, (sent, Instant::now()));
        format!("{}.{number}", self.inbox)
    }

    /// What an answer is about, with its number; `None` for an answer that nobody waits for any more.
    pub(super) fn take(&mut self, subject: &str) -> Option<(u64, Sent)> {
        let number = subject.strip_prefix(self.inbox.as_str())?.strip_prefix('.')?.parse().ok()?;
        let (sent, _) = self.sent.remove(&number)?;
        self.bytes -= sent.bytes();
        self.heard = Some(Instant::now());
        Some((number, sent))
    }

    /// Takes back what the client library did not take: it is the library's answer, not the broker's.
    pub(super) fn withdraw(&mut self, answer_to: &str) -> Option<Sent> {
        let heard = self.heard;
        let (_, sent) = self.take(answer_to)?;
        self.heard = heard;
        Some(sent)
    }

    /// Since when there is something to answer and nothing is answered.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let (_, (_, oldest)) = self.sent.first_key_value()?;
        Some(self.heard.map_or(*oldest, |heard| heard.max(*oldest)))
    }

    /// Everything that was not answered, in the order in which it was sent.
    pub(super) fn into_unanswered(self) -> impl DoubleEndedIterator<Item = Sent> {
        self.sent.into_values().map(|(sent, _)| sent)
    }
}

/// Reads an answer.
pub(super) fn read_answer(message: &Message) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NoStream;
    }
    if message.payload.is_empty() {
        return Answer::Echo;
    }
    match serde_json::from_slice::<Response<PublishAck>>(&message.payload) {
        Ok(Response::Ok(ack)) => Answer::Stored { sequence: ack.sequence, duplicate: ack.duplicate },
        Ok(Response::Err { error }) => match error.error_code() {
            jetstream::ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | jetstream::ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Answer::Conflict,
            jetstream::ErrorCode::STREAM_NOT_FOUND => Answer::NoStream,
            jetstream::ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
                Answer::Impossible(Impossible { reason: error.to_string(), too_large: true })
            }
            jetstream::ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                Answer::Impossible(Impossible { reason: error.to_string(), too_large: false })
            }
            // Several limits share a code. Those of one subject are of no concern to the others.
            _ if error.to_string().contains("maximum messages per subject") => {
                Answer::Impossible(Impossible { reason: error.to_string(), too_large: false })
            }
            _ => Answer::Refused(error.to_string()),
        },
        Err(error) => Answer::Refused(format!("an answer that cannot be read: {error}")),
    }
}
