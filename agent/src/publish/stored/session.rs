//! One connection's work on the stream: its state, which the steps share.

use std::time::{Duration, Instant};

use async_nats::Subscriber;
use async_nats::jetstream::stream::Stream;

use super::checkpoints::Checkpoints;
use super::core_copy::CoreCopy;
use super::fetch::Fetches;
use super::flight::{Flight, Impossible, SentObject};
use super::reconcile::Reconciler;
use crate::publish::context::PublishContext;
use crate::publish::message::Encoding;
use crate::stream::{StreamSettings, Subjects};

/// How long a broker may leave everything without an answer before it is taken for gone.
pub(super) const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);
/// How long to leave a message that knows more than we do alone.
pub(super) const GIVE_WAY_FOR: Duration = Duration::from_secs(2);
/// How long somebody else is taken to write into the stream after a message of his was met.
pub(super) const RIVAL_FOR: Duration = Duration::from_secs(60);
/// How often checkpoints are looked at.
pub(super) const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// First and longest pause after the stream refused a message.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Pause after a message could not be asked back from the stream.
pub(super) const FETCH_AGAIN: Duration = Duration::from_secs(1);
/// How long the broker may take to say how far the stream is.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// How often the stream is read at most before a session begins.
pub(super) const READINGS: u32 = 3;

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publish) enum End {
    /// The connection broke.
    Broken,
    /// The broker answers nothing any more.
    Silent,
    /// The broker never answered to a message about an object.
    Unheard,
    /// There is no stream any more.
    NoStream,
    /// The stream may not be what it is thought to be.
    Stale,
    /// Messages are to be made differently from now on.
    OtherEncoding,
    /// Another agent took the place of this one.
    Yielded,
    /// Everything is published, and that was asked for.
    Drained,
}

/// One connection's work on the stream.
pub(in crate::publish) struct Session<'p> {
    pub(super) parts: &'p mut PublishContext,
    pub(super) encoding: Encoding,
    pub(super) generation: u64,
    pub(super) stream: Stream,
    pub(super) subjects: Subjects,
    pub(super) settings: StreamSettings,
    pub(super) flight: Flight,
    pub(super) answers: Subscriber,
    pub(super) core: CoreCopy,
    pub(super) fetches: Fetches,
    pub(super) checkpoints: Checkpoints,
    pub(super) reconciler: Reconciler,
    /// Messages that gave way to ones that know more.
    pub(super) gave_way: Vec<(Instant, Box<SentObject>)>,
    /// Messages that the client library did not take.
    pub(super) withdrawn: Vec<(Box<SentObject>, Impossible)>,
    /// When a message was last met that this session did not store.
    pub(super) met_rival: Option<Instant>,
    /// Until when nothing is sent, because the stream refuses.
    pub(super) paused_until: Option<Instant>,
    /// Length of the next pause.
    pub(super) pause: Duration,
    /// Whether a message about an object was ever answered.
    pub(super) heard: bool,
    /// What a message could have when the stream was read.
    pub(super) most_bytes: usize,
}
