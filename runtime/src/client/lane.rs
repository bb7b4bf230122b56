//! HTTP/2 connections, each shared by many requests.
//!
//! Servers limit the streams of a connection (kube-apiserver to 100), and a request beyond that limit waits silently
//! until another request ends. A watch never ends, so each connection carries only as many requests as every server
//! allows, and the next request opens another connection.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::Uri;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

use super::connector::Connector;
use super::error::chain;

/// Concurrent requests on one connection: half of what kube-apiserver allows, and less than common proxies allow.
const PLACES: usize = 50;

/// Limit of streams until the server has announced its own: a number that hardly any server announces.
const UNSAID: usize = PLACES + 1;
/// How long the server may take to announce it, which is the first thing that a server sends.
const SAID_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Watches, which are many and small and do not end.
    Watches,
    /// Everything else, such as lists, which are large.
    Answers,
}

impl Use {
    /// Bytes of one answer that may be in flight before its reader has taken them. With 20 ms to the server, a list
    /// arrives at 50 MB/s at most. A stalled reader leaves this much in memory.
    fn window(self) -> u32 {
        match self {
            Self::Watches => 256 * 1024,
            Self::Answers => 1024 * 1024,
        }
    }
}

/// No connection could be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot connect to {server}: {reason}")]
pub(super) struct Unreachable {
    server: Uri,
    reason: String,
}

/// Protocol of an open connection.
#[derive(Clone)]
pub(super) enum Opened {
    /// HTTP/2.
    Http2 {
        /// Sends requests.
        sender: SendRequest<Body>,
        /// How many streams the server allows.
        limit: watch::Receiver<usize>,
    },
    /// HTTP/1.1, whose connections are not shared.
    Http1,
}

/// The connections of one kind.
#[derive(Debug)]
pub(super) struct Lanes {
    r#use: Use,
    /// Longest silence before a ping.
    word: Duration,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

/// One connection. Requests that need it while it is being opened wait for the same handshake.
struct Lane {
    opening: Shared<BoxFuture<'static, Result<Opened, Unreachable>>>,
    taken: AtomicUsize,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} taken", self.taken.load(Ordering::Relaxed))
    }
}

impl Lane {
    fn open(connector: Connector, server: Uri, r#use: Use, word: Duration) -> Self {
        // A task of its own: cancelling one request must not cancel the handshake for the others.
        let opening = tokio::spawn(open(connector, server.clone(), r#use, word))
            .map(move |opened| opened.unwrap_or_else(|error| Err(Unreachable { server, reason: error.to_string() })));
        Self { opening: opening.boxed().shared(), taken: AtomicUsize::new(0) }
    }

    /// How many more requests the connection accepts; `None` once it has ended.
    fn room(&self) -> usize {
        let places = match self.opening.peek() {
            None => PLACES,
            // The server's own limit, but at least 1: otherwise no request would ever be sent.
            Some(Ok(Opened::Http2 { sender, limit })) if !sender.is_closed() => PLACES.min(*limit.borrow()).max(1),
            Some(_) => 0,
        };
        places.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    fn is_over(&self) -> bool {
        match self.opening.peek() {
            None => false,
            Some(Ok(Opened::Http2 { sender, .. })) => sender.is_closed(),
            Some(_) => true,
        }
    }
}

/// A request's place on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lane: Arc<Lane>,
    /// Requests that held a place earlier.
    before: usize,
}

impl Place {
    /// Waits until the connection is open. Returns `None` if the server then announces a limit that excludes this
    /// request.
    pub(super) async fn opened(&self) -> Result<Option<Opened>, Unreachable> {
        let opened = self.lane.opening.clone().await?;
        let fits = match &opened {
            Opened::Http2 { limit, .. } => self.before < (*limit.borrow()).max(1),
            Opened::Http1 => true,
        };
        Ok(fits.then_some(opened))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(super) fn new(r#use: Use, word: Duration) -> Self {
        Self { r#use, word, lanes: Mutex::default() }
    }

    /// Returns a place on the first connection that has room, or on a new connection. Unused connections are dropped
    /// and end.
    pub(super) fn take(&self, connector: &Connector, server: &Uri) -> Place {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| !lane.is_over());
        let free = lanes.iter().position(|lane| lane.room() > 0);
        let used = |lane: &Lane| lane.taken.load(Ordering::Relaxed) > 0;
        if let Some(free) = free {
            let mut at = 0;
            lanes.retain(|lane| {
                at += 1;
                at <= free + 1 || used(lane)
            });
        }
        let lane = match free.and_then(|free| lanes.get(free)) {
            Some(lane) => lane.clone(),
            None => {
                let lane = Arc::new(Lane::open(connector.clone(), server.clone(), self.r#use, self.word));
                lanes.push(lane.clone());
                lane
            }
        };
        let before = lane.taken.fetch_add(1, Ordering::Relaxed);
        Place { lane, before }
    }
}

async fn open(connector: Connector, server: Uri, r#use: Use, word: Duration) -> Result<Opened, Unreachable> {
    let unreachable = |error: &dyn std::error::Error| Unreachable { server: server.clone(), reason: chain(error) };
    let stream = connector.oneshot(server.clone()).await.map_err(|error| unreachable(&*error))?;
    if !stream.connected().is_negotiated_h2() {
        return Ok(Opened::Http1);
    }
    let window = r#use.window();
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .keep_alive_interval(word)
        .keep_alive_timeout(word)
        .keep_alive_while_idle(true)
        .initial_max_send_streams(UNSAID)
        .initial_stream_window_size(window)
        // The window of the connection fits all streams, so that one stalled reader does not block the others.
        .initial_connection_window_size(window.saturating_mul(PLACES as u32));
    let (sender, connection) = settings.handshake(stream).await.map_err(|error| unreachable(&error))?;
    let (say, mut limit) = watch::channel(UNSAID);
    let began = Instant::now();
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        // The server's settings arrive in another task, which does not wake this one.
        let mut look = tokio::time::interval(LOOK_EVERY);
        let ended = std::future::poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            let limit = connection.current_max_send_streams();
            say.send_if_modified(|said| std::mem::replace(said, limit) != limit);
            while limit == UNSAID && began.elapsed() < SAID_WITHIN && look.poll_tick(context).is_ready() {}
            ended
        });
        if let Err(error) = ended.await {
            tracing::debug!(error = chain(&error), "a connection to the API server ended");
        }
    });
    // A server that announces no limit is assumed to have the usual one.
    let said = async { limit.wait_for(|limit| *limit != UNSAID).await.is_ok() };
    let _usual = tokio::time::timeout(SAID_WITHIN, said).await.is_err();
    Ok(Opened::Http2 { sender, limit })
}
