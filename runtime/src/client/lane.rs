//! HTTP/2 connections that many requests share.
//!
//! Servers limit the streams of a connection (kube-apiserver to 100), and a request beyond that waits in silence until
//! another one ends. A watch never ends: so each connection gets a number of requests that every server allows, and the next
//! one gets another connection.

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

/// Requests on one connection at a time. Half of what kube-apiserver allows, and less than any proxy of repute does.
const PLACES: usize = 50;

/// The limit of streams that holds until the server has said one: a number that is hardly anyone's.
const UNSAID: usize = PLACES + 1;
/// How long it may take to say so. It is the first thing that a server says.
const SAID_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Watches: many, small, and without an end.
    Watches,
    /// Everything else, of which lists are large.
    Answers,
}

impl Use {
    /// How much of one answer may be under way before its reader has taken it. At 20 ms to the server a list comes at
    /// 50 MB/s at most; a reader who stands still leaves this much in memory.
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

/// What a connection turned out to speak.
#[derive(Clone)]
pub(super) enum Opened {
    /// HTTP/2.
    Http2 {
        /// Sends requests.
        sender: SendRequest<Body>,
        /// How many the server takes at a time.
        limit: watch::Receiver<usize>,
    },
    /// HTTP/1.1, where connections are not shared.
    Http1,
}

/// The connections for one use.
#[derive(Debug)]
pub(super) struct Lanes {
    r#use: Use,
    /// Limit of silence.
    word: Duration,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

/// One connection. Whoever wants it while it is being opened waits for the same handshake.
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
        // In a task of its own: a request that is given up must not take the handshake of others with it.
        let opening = tokio::spawn(open(connector, server.clone(), r#use, word))
            .map(move |opened| opened.unwrap_or_else(|error| Err(Unreachable { server, reason: error.to_string() })));
        Self { opening: opening.boxed().shared(), taken: AtomicUsize::new(0) }
    }

    /// How many more requests it takes; none if it is over.
    fn room(&self) -> usize {
        let places = match self.opening.peek() {
            None => PLACES,
            // What the server said about its limit; at least one, or nothing would ever be asked.
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
    /// Requests that were there before.
    before: usize,
}

impl Place {
    /// The connection, once it is open; none if the server then said that it takes fewer requests than this one and those
    /// before it.
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

    /// A place on the first connection that has one, or on a new one. Connections that nobody uses any more are left to end.
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
        // Room for all: a reader who stands still must not hold up the others.
        .initial_connection_window_size(window.saturating_mul(PLACES as u32));
    let (sender, connection) = settings.handshake(stream).await.map_err(|error| unreachable(&error))?;
    let (say, mut limit) = watch::channel(UNSAID);
    let began = Instant::now();
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        // What the server says reaches another task, which does not wake this one.
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
    // Who says nothing is taken to mean what is usual.
    let said = async { limit.wait_for(|limit| *limit != UNSAID).await.is_ok() };
    let _usual = tokio::time::timeout(SAID_WITHIN, said).await.is_err();
    Ok(Opened::Http2 { sender, limit })
}
