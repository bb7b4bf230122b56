//! The limits of every request to the API server.
//!
//! A peer that vanished silently never answers. Without limits, a discovery poll would never end, a list would hold its
//! permit for ever, and the body of an error would never arrive. Callers forget limits; a layer of the client cannot.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tower::{BoxError, Layer, Service};

/// Time limits for answers of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the head of an answer that the server has at hand.
    pub head: Duration,
    /// For the head of an answer that needs work: a page of a list, which an API server sends only when the page is
    /// complete, or a write, which may wait for admission webhooks.
    pub head_of_work: Duration,
    /// For the next part of the body.
    pub silence: Duration,
    /// For the whole answer.
    pub whole: Duration,
    /// Longest silence on a connection that many requests share. After it the client sends a ping. If the server does
    /// not answer that within the same time, all requests on the connection fail and the next request opens another
    /// connection.
    pub word: Duration,
}

impl Default for Limits {
    /// An API server abandons most requests after a minute (`--request-timeout`) and says why. To receive that reason,
    /// requests that need work get a little more time. A healthy server sends what it has at hand within milliseconds,
    /// and a busy server within about 15 s, the longest wait of its queues.
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            head_of_work: Duration::from_secs(65),
            silence: Duration::from_secs(30),
            whole: Duration::from_secs(300),
            word: Duration::from_secs(10),
        }
    }
}

/// The server did not answer within a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} did not arrive from {server} within {} s: {request}", awaited.text(), limit.as_secs_f64())]
pub struct DeadlineError {
    /// The missing part of the answer.
    pub awaited: Awaited,
    /// The limit.
    pub limit: Duration,
    /// The API server.
    pub server: Arc<str>,
    /// Method and path.
    pub request: String,
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Its status and headers.
    Head,
    /// The next part of its body.
    NextPart,
    /// The end of its body.
    End,
}

impl Awaited {
    fn text(self) -> &'static str {
        match self {
            Self::Head => "the head of the answer",
            Self::NextPart => "the next part of the answer",
            Self::End => "the end of the answer",
        }
    }
}

/// Applies limits to every request. Once a watch or a followed log has begun, it may be silent, and last, for any time:
/// only its reader knows how long is too long.
#[derive(Clone, Debug)]
pub(super) struct DeadlineLayer {
    limits: Limits,
    server: Arc<str>,
}

impl DeadlineLayer {
    /// Creates a layer for requests to `server`, whose name appears in errors.
    pub(super) fn new(limits: Limits, server: &str) -> Self {
        Self { limits, server: server.into() }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline { inner, layer: self.clone() }
    }
}

/// The service that [`DeadlineLayer`] makes.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, Q, B> Service<Request<Q>> for Deadline<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<Limited<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let waiting = Waiting::new(&request, &self.layer);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let head = waiting.head;
            let Ok(answer) = tokio::time::timeout(head, answer).await else {
                return Err(waiting.error(Awaited::Head, head).into());
            };
            let answer = answer.map_err(Into::into)?;
            let lasts = waiting.lasts && answer.status().is_success();
            Ok(answer.map(|body| Limited::new(body, (!lasts).then(|| Timer::new(waiting, began)))))
        })
    }
}

/// Whether a successful answer to the request has no natural end.
pub(super) fn lasts(uri: &Uri) -> bool {
    has(uri, |pair| matches!(pair, "watch=true" | "watch=1" | "follow=true"))
}

fn has(uri: &Uri, wanted: impl Fn(&str) -> bool) -> bool {
    uri.query().unwrap_or_default().split('&').any(wanted)
}

/// A request in progress.
#[derive(Debug)]
struct Waiting {
    limits: Limits,
    head: Duration,
    lasts: bool,
    server: Arc<str>,
    request: String,
}

impl Waiting {
    fn new<Q>(request: &Request<Q>, layer: &DeadlineLayer) -> Self {
        let DeadlineLayer { limits, server } = layer.clone();
        let lasts = lasts(request.uri());
        let reads = request.method() == Method::GET && !has(request.uri(), |pair| pair.starts_with("limit="));
        let head = if lasts || reads { limits.head } else { limits.head_of_work };
        let request = format!("{} {}", request.method(), request.uri().path());
        Self { limits, head, lasts, server, request }
    }

    fn error(&self, awaited: Awaited, limit: Duration) -> DeadlineError {
        DeadlineError { awaited, limit, server: self.server.clone(), request: self.request.clone() }
    }
}

/// The limits of a body.
#[derive(Debug)]
struct Timer {
    waiting: Waiting,
    began: Instant,
    /// Runs while a part is awaited, not while a slow reader handles the previous part.
    sleep: Option<Pin<Box<Sleep>>>,
    awaiting: bool,
}

impl Timer {
    fn new(waiting: Waiting, began: Instant) -> Self {
        Self { waiting, began, sleep: None, awaiting: false }
    }

    /// Waits for the earlier of the two limits.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<DeadlineError> {
        let Limits { silence, whole, .. } = self.waiting.limits;
        let end = self.began + whole;
        if !self.awaiting {
            self.awaiting = true;
            let until = end.min(Instant::now() + silence);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(until),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        }
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        ready!(sleep.as_mut().poll(context));
        let over = sleep.deadline() >= end;
        Poll::Ready(match over {
            true => self.waiting.error(Awaited::End, whole),
            false => self.waiting.error(Awaited::NextPart, silence),
        })
    }
}

/// A body with limits.
#[derive(Debug)]
pub(super) struct Limited<B> {
    body: B,
    timer: Option<Timer>,
}

impl<B> Limited<B> {
    fn new(body: B, timer: Option<Timer>) -> Self {
        Self { body, timer }
    }
}

impl<B> Body for Limited<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let Self { body, timer } = &mut *self;
        let frame = Pin::new(body).poll_frame(context);
        let Some(timer) = timer else { return frame.map_err(Into::into) };
        if frame.is_ready() {
            timer.awaiting = false;
            // A server that sends one byte at a time stays within the limit of each part, so that only this limit ends
            // the answer.
            if timer.began.elapsed() > timer.waiting.limits.whole && matches!(frame, Poll::Ready(Some(Ok(_)))) {
                return Poll::Ready(Some(Err(timer.waiting.error(Awaited::End, timer.waiting.limits.whole).into())));
            }
            return frame.map_err(Into::into);
        }
        timer.poll(context).map(|late| Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
