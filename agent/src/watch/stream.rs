//! One watch connection: from a version to its end.

use std::time::Duration;

use futures::TryStreamExt;
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

/// Reads events into `sink` until the connection ends; `version` is always where a new one may go on, and `advanced` is
/// told it after each chunk of events.
///
/// `Ok` is the orderly end after the time that was asked for.
pub(super) async fn watch(
    client: &Client,
    source: &Source,
    sink: &Sink,
    version: &mut ResourceVersion,
    mut advanced: impl FnMut(&ResourceVersion),
) -> Result<(), RequestError> {
    let timeout = TIMEOUT + TIMEOUT.mul_f64(jitter());
    let request = source.watch_request(&version.to_string(), timeout)?;
    sink.board.update(&sink.name, |report| report.watch_opens += 1);
    let mut chunks = chunks(send(client, request).await?);
    let mut frames = FrameSplitter::default();
    loop {
        let chunk = match tokio::time::timeout(SILENCE, chunks.try_next()).await {
            Ok(chunk) => chunk?,
            Err(_) => return Err(silent()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        sink.board.update(&sink.name, |report| report.bytes += chunk.len() as u64);
        frames.push(&chunk);
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => take(frame, sink, version)?,
                Ok(None) => {
                    advanced(version);
                    break;
                }
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

fn take(frame: &[u8], sink: &Sink, version: &mut ResourceVersion) -> Result<(), RequestError> {
    let event = match WatchEvent::parse(frame) {
        Ok(event) => event,
        // A line that is not an event means that the stream cannot be trusted: what was lost is found by listing.
        Err(error) => {
            sink.unreadable(&error);
            return Err(RequestError::Expired);
        }
    };
    let seen = match event.kind {
        EventKind::Added | EventKind::Modified => sink.upsert(&event),
        EventKind::Deleted => sink.delete(&event),
        EventKind::Bookmark => match Bookmark::parse(event.object) {
            Ok(bookmark) => Some(bookmark.resource_version),
            Err(error) => {
                sink.unreadable(&error);
                None
            }
        },
        EventKind::Error => {
            let status = WatchStatus::parse(event.object);
            if status.is_expired() {
                return Err(RequestError::Expired);
            }
            let retry_after = status.retry_after_seconds().map(Duration::from_secs);
            return Err(match RequestError::from_status(status.code, status.message, retry_after) {
                // An error inside a stream leaves open what was missed before it.
                RequestError::Transient { .. } if status.code == 0 => RequestError::Expired,
                error => error,
            });
        }
        EventKind::Unknown(kind) => {
            sink.unreadable(&format_args!("watch event of unknown type `{kind}`"));
            None
        }
    };
    if let Some(seen) = seen {
        *version = seen;
    }
    Ok(())
}
