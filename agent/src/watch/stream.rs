//! One watch connection: from its opening to its end.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use kube::Client;

use super::pace::jitter;
use super::request::{RequestError, Source, chunks, send};
use super::type_loop::Sink;
use crate::object::event::{Bookmark, WatchStatus};
use crate::object::{EventKind, FrameSplitter, ResourceVersion, WatchEvent};

/// How long the server is asked to keep the connection: five to ten minutes, as client-go does.
const TIMEOUT: Duration = Duration::from_secs(300);
/// A server sends a bookmark about every minute. A connection that is silent for longer than this is taken for dead:
/// a peer that vanished without a word would otherwise leave the snapshot stale for as long as TCP believes in it.
const SILENCE: Duration = Duration::from_secs(150);

/// An open watch.
pub(super) struct Watch {
    chunks: BoxStream<'static, Result<Bytes, RequestError>>,
    frames: FrameSplitter,
}

/// What an event says about the watch itself.
pub(super) enum Seen {
    /// A state of an object, with its version; none where it could not be read.
    Object(Option<ResourceVersion>),
    /// How far the watch is.
    Bookmark(Bookmark),
}

/// How long to ask the server to keep a watch open. Not all the same, so that they do not all end together.
pub(super) fn timeout() -> Duration {
    TIMEOUT + TIMEOUT.mul_f64(jitter())
}

impl Watch {
    /// Opens a watch that begins after `version`.
    pub(super) async fn open(
        client: &Client,
        source: &Source,
        sink: &Sink,
        version: &ResourceVersion,
    ) -> Result<Self, RequestError> {
        let request = source.watch_request(&version.to_string(), timeout())?;
        sink.board.update(&sink.name, |report| report.watch_opens += 1);
        Self::answer(client, request).await
    }

    /// Sends `request`, which is one for a watch.
    pub(super) async fn answer(client: &Client, request: Request<Vec<u8>>) -> Result<Self, RequestError> {
        let chunks = chunks(send(client, request).await?).boxed();
        Ok(Self { chunks, frames: FrameSplitter::default() })
    }

    /// Reads events into `sink` until the connection ends; `version` is always where a new one may go on, and `advanced`
    /// is told it after each chunk of events.
    ///
    /// `Ok` is the orderly end after the time that was asked for.
    pub(super) async fn follow(
        &mut self,
        sink: &Sink,
        version: &mut ResourceVersion,
        mut advanced: impl FnMut(&ResourceVersion),
    ) -> Result<(), RequestError> {
        loop {
            while let Some(seen) = self.next_event(sink)? {
                match seen {
                    Seen::Object(Some(seen)) => *version = seen,
                    Seen::Object(None) => {}
                    // The server's storage is older than what was seen, as after a restore from a backup: it would be silent
                    // until it has caught up.
                    Seen::Bookmark(bookmark) if bookmark.resource_version.is_older_than(version) => {
                        return Err(RequestError::Expired);
                    }
                    Seen::Bookmark(bookmark) => *version = bookmark.resource_version,
                }
            }
            advanced(version);
            let read = tokio::time::timeout(SILENCE, self.read(sink)).await;
            if !read.map_err(|_| silent())?? {
                return Ok(());
            }
        }
    }

    /// Waits for more bytes; gives whether the connection goes on.
    pub(super) async fn read(&mut self, sink: &Sink) -> Result<bool, RequestError> {
        let Some(chunk) = self.chunks.try_next().await? else { return Ok(false) };
        sink.board.update(&sink.name, |report| report.bytes += chunk.len() as u64);
        self.frames.push(&chunk);
        Ok(true)
    }

    /// Takes in the next event of those that were read; none when there is none.
    pub(super) fn next_event(&mut self, sink: &Sink) -> Result<Option<Seen>, RequestError> {
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) => return take(frame, sink).map(Some),
                Ok(None) => return Ok(None),
                // Its object is stale until the next list; everything after it is not.
                Err(error) => sink.unreadable(&error),
            }
        }
    }
}

fn silent() -> RequestError {
    let message = format!("nothing was heard for {} s, not even a bookmark; connecting again", SILENCE.as_secs());
    RequestError::Transient { message, retry_after: None }
}

fn take(frame: &[u8], sink: &Sink) -> Result<Seen, RequestError> {
    let event = match WatchEvent::parse(frame) {
        Ok(event) => event,
        // A line that is not an event means that the stream cannot be trusted: what was lost is found by listing.
        Err(error) => {
            sink.unreadable(&error);
            return Err(RequestError::Expired);
        }
    };
    Ok(match event.kind {
        EventKind::Added | EventKind::Modified => Seen::Object(sink.upsert(&event)),
        EventKind::Deleted => Seen::Object(sink.delete(&event)),
        EventKind::Bookmark => match Bookmark::parse(event.object) {
            Ok(bookmark) => Seen::Bookmark(bookmark),
            Err(error) => {
                sink.unreadable(&error);
                Seen::Object(None)
            }
        },
        EventKind::Error => return Err(failure(&WatchStatus::parse(event.object))),
        EventKind::Unknown(kind) => {
            sink.unreadable(&format_args!("watch event of unknown type `{kind}`"));
            Seen::Object(None)
        }
    })
}

/// What an error event means.
fn failure(status: &WatchStatus) -> RequestError {
    if status.is_expired() {
        return RequestError::Expired;
    }
    let retry_after = status.retry_after_seconds().map(Duration::from_secs);
    match RequestError::from_status(status.code, status.message.clone(), retry_after) {
        // An error inside a stream leaves open what was missed before it.
        RequestError::Transient { .. } if status.code == 0 => RequestError::Expired,
        error => error,
    }
}
