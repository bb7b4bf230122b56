//! One watch connection: from its opening to its end.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use kube::Client;
use tokio::time::Instant;

use super::intake::Sink;
use super::resume::{Provenance, Start};
use crate::apiserver::backoff::jitter;
use crate::apiserver::request::{ErrorAnswer, Reason, RequestError, Source, bounded, chunks, send};
use crate::object::event::{Bookmark, WatchStatus};
use crate::object::{EventKind, FrameSplitter, ResourceVersion, WatchEvent};

/// How long the server is asked to keep the connection: five to ten minutes, as client-go does.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How much longer than that it may be kept.
const OVERTIME: Duration = Duration::from_secs(30);
/// A server that sends bookmarks does so about every minute. A connection that is silent for longer than this is taken for
/// dead: a peer that vanished without a word would otherwise leave the snapshot stale for as long as TCP believes in it.
const SILENCE: Duration = Duration::from_secs(150);
/// A watch that ends sooner than this was not ended because its time was over.
const AT_ONCE: Duration = Duration::from_secs(30);

/// An open watch.
pub(super) struct Watch {
    chunks: BoxStream<'static, Result<Bytes, RequestError>>,
    frames: FrameSplitter,
    opened: Instant,
    /// When the server should have ended it.
    due: Instant,
    /// Whether any event came.
    is_used: bool,
    /// Whether something came that is too long for an event.
    is_oversized: bool,
}

/// What an event says about the watch itself.
pub(super) enum Seen {
    /// A state of an object, with its version; none where it could not be read.
    Object(Option<ResourceVersion>),
    /// How far the watch is.
    Bookmark(Bookmark),
}

/// How a watch ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server ended it when its time was over, or after something had come.
    Done {
        /// Whether it was long before its time.
        early: bool,
    },
    /// The server ended it long before its time, and nothing had come. Once this is a server that stops.
    AtOnce,
    /// The server did not end it when its time was over.
    Overdue,
}

/// How long to ask the server to keep a watch open. Not all the same, so that they do not all end together.
pub(super) fn timeout() -> Duration {
    TIMEOUT + TIMEOUT.mul_f64(jitter())
}

impl Watch {
    /// Opens a watch that begins at `start`.
    pub(super) async fn open(
        client: &Client,
        source: &Source,
        sink: &Sink,
        start: &Start,
    ) -> Result<Self, RequestError> {
        let timeout = timeout();
        let version = if start.has_version() { start.version.to_string() } else { String::new() };
        let request = source.watch_request(&version, timeout)?;
        sink.board.update(&sink.name, |report| report.watch_opens += 1);
        Self::answer(client, request, timeout).await.map_err(refused_to_watch)
    }

    /// Sends `request`, which is one for a watch that lasts for `timeout`.
    pub(super) async fn answer(
        client: &Client,
        request: Request<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Self, RequestError> {
        let chunks = chunks(send(client, request).await?).boxed();
        let opened = Instant::now();
        let due = opened + timeout + OVERTIME;
        let frames = FrameSplitter::default();
        Ok(Self { chunks, frames, opened, due, is_used: false, is_oversized: false })
    }

    /// Reads events into `sink` until the connection ends; `start` is always where a new one may go on, and `advanced`
    /// is told it after each chunk of events.
    ///
    /// Only who `sends_bookmarks` is judged by silence: others have nothing to say where nothing happens.
    pub(super) async fn follow(
        &mut self,
        sink: &Sink,
        start: &mut Start,
        sends_bookmarks: &mut bool,
        mut advanced: impl FnMut(&Start),
    ) -> Result<End, RequestError> {
        loop {
            while let Some(seen) = self.next_event(sink)? {
                *sends_bookmarks |= matches!(seen, Seen::Bookmark(_));
                advance(start, seen)?;
            }
            advanced(start);
            let limit = if *sends_bookmarks { Instant::now() + SILENCE } else { self.due };
            match tokio::time::timeout_at(limit, self.read(sink)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return self.end(sink, start),
                Ok(Err(error)) => return Err(error),
                Err(_) if *sends_bookmarks => {
                    // Another server may have taken its place, which sends none.
                    *sends_bookmarks = false;
                    return Err(silent());
                }
                Err(_) => return Ok(End::Overdue),
            }
        }
    }

    /// The connection has ended.
    fn end(&mut self, sink: &Sink, start: &mut Start) -> Result<End, RequestError> {
        if let Some(seen) = self.rest(sink)? {
            advance(start, seen)?;
        }
        let early = self.opened.elapsed() < AT_ONCE;
        match self.is_used {
            false if self.is_oversized => Err(no_events("something too long for an event")),
            false if early => Ok(End::AtOnce),
            _ => Ok(End::Done { early }),
        }
    }

    /// Takes in what came last, which no line end follows.
    pub(super) fn rest(&mut self, sink: &Sink) -> Result<Option<Seen>, RequestError> {
        let Some(rest) = self.frames.finish() else { return Ok(None) };
        if WatchEvent::parse(rest).is_err() && status(rest).is_none() && self.is_used {
            // As if it had not come: a new watch goes on before it.
            return Err(RequestError::Transient("the watch ended in the middle of an event".to_owned()));
        }
        self.is_used = true;
        take(rest, sink).map(Some)
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
                Ok(Some(frame)) => {
                    let seen = take(frame, sink)?;
                    self.is_used = true;
                    return Ok(Some(seen));
                }
                Ok(None) => return Ok(None),
                // Its object is stale until the next list; everything after it is not.
                Err(error) => {
                    self.is_oversized = true;
                    sink.unreadable(&error);
                }
            }
        }
    }
}

/// Moves `start` to where the watch is.
fn advance(start: &mut Start, seen: Seen) -> Result<(), RequestError> {
    match seen {
        Seen::Object(Some(version)) => start.advance(version, Provenance::Event),
        Seen::Object(None) => {}
        // The server's storage is older than what was seen, as after a restore from a backup: it would be silent until it
        // has caught up.
        Seen::Bookmark(bookmark) if bookmark.resource_version.is_older_than(&start.version) => {
            let (server, seen) = (bookmark.resource_version, start.version.clone());
            return Err(RequestError::Relist(Reason::ServerIsOlder { server, seen }));
        }
        Seen::Bookmark(bookmark) => start.advance(bookmark.resource_version, Provenance::Bookmark),
    }
    Ok(())
}

fn silent() -> RequestError {
    let message = format!("nothing was heard for {} s, not even a bookmark; connecting again", SILENCE.as_secs());
    RequestError::Transient(message)
}

fn no_events(what: &str) -> RequestError {
    RequestError::Relist(Reason::NoEvents(what.to_owned()))
}

fn take(frame: &[u8], sink: &Sink) -> Result<Seen, RequestError> {
    let event = match WatchEvent::parse(frame) {
        Ok(event) => event,
        // What is not an event means that the stream cannot be trusted: what was lost is found by listing.
        Err(error) => {
            if let Some(status) = status(frame) {
                return Err(failure(&status));
            }
            sink.unreadable(&error);
            return Err(no_events(&what_came(frame)));
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

/// The kind of a document that is no event.
fn kind(frame: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        kind: String,
    }
    serde_json::from_slice::<Document>(frame).ok().map(|document| document.kind)
}

/// A `Status` that came without an event around it.
fn status(frame: &[u8]) -> Option<WatchStatus> {
    (kind(frame)? == "Status").then(|| WatchStatus::parse(&String::from_utf8_lossy(frame)))
}

/// What something is that is no event, without its content: that may be secret.
fn what_came(frame: &[u8]) -> String {
    match kind(frame) {
        Some(kind) => format!("a document of kind {}", kind.chars().take(64).collect::<String>()),
        None if frame.trim_ascii_start().starts_with(b"<") => "a page, as proxies give".to_owned(),
        None => format!("{} bytes that are no event", frame.len()),
    }
}

/// What an error event means.
fn failure(status: &WatchStatus) -> RequestError {
    if status.is_expired() {
        return RequestError::Relist(Reason::Expired { go_on: None });
    }
    if status.code == 0 {
        // It leaves open what was missed before it.
        return RequestError::Relist(Reason::Unexplained(status.message.clone()));
    }
    let retry_after = status.retry_after_seconds().map(Duration::from_secs).map(bounded);
    let answer = ErrorAnswer { message: status.message.clone(), retry_after, go_on: None };
    refused_to_watch(RequestError::from_status(status.code, answer))
}

/// A watch that is not taken as it is asked for would be asked for in the same way again: only a list brings something else.
fn refused_to_watch(error: RequestError) -> RequestError {
    match error {
        RequestError::Invalid { status, message } => RequestError::Relist(Reason::WatchRefused { status, message }),
        error => error,
    }
}
