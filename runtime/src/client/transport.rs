//! Sends requests to the API server: over shared connections if it speaks HTTP/2, otherwise over one connection per
//! request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tower::{BoxError, Service};

use super::connector::{Connector, Connectors};
use super::deadline::lasts;
use super::lane::{Lanes, Opened, Place, Use};

/// Attempts to send a request: a connection may end just before it takes the request.
const ATTEMPTS: usize = 3;

/// The service below all layers of a client.
#[derive(Clone, Debug)]
pub(super) struct Transport(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    server: Uri,
    either: Connector,
    watches: Lanes,
    answers: Lanes,
    http1: legacy::Client<Connector, Body>,
    /// Whether the server turned out to speak only HTTP/1.1, so that no further connection has to find out.
    only_http1: AtomicBool,
}

impl Transport {
    /// Creates a transport to `server`, which pings shared connections after a silence of `word`.
    pub(super) fn new(server: Uri, connectors: Connectors, word: Duration) -> Self {
        let Connectors { either, http1 } = connectors;
        let http1 = legacy::Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(http1);
        // HTTP/2 is negotiated within TLS.
        let only_http1 = AtomicBool::new(server.scheme_str() == Some("http"));
        let (watches, answers) = (Lanes::new(Use::Watches, word), Lanes::new(Use::Answers, word));
        Self(Arc::new(Shared { server, either, watches, answers, http1, only_http1 }))
    }
}

impl Shared {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Held>, BoxError> {
        let lanes = if lasts(request.uri()) { &self.watches } else { &self.answers };
        let mut attempts = 0;
        while !self.only_http1.load(Ordering::Relaxed) {
            let place = lanes.take(&self.either, &self.server);
            let mut sender = match place.opened().await? {
                Some(Opened::Http2 { sender, .. }) => sender,
                Some(Opened::Http1) => {
                    self.only_http1.store(true, Ordering::Relaxed);
                    break;
                }
                None => continue,
            };
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| Held { body, place: Some(place) })),
                Err(error) => error,
            };
            attempts += 1;
            match error.take_message() {
                // The connection had ended before it took the request.
                Some(unsent) if attempts < ATTEMPTS => request = unsent,
                _ => return Err(error.into_error().into()),
            }
        }
        let response = self.http1.request(request).await?;
        Ok(response.map(|body| Held { body, place: None }))
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Held>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.send(request).await })
    }
}

/// A body that holds its request's place until it ends.
#[derive(Debug)]
pub(super) struct Held {
    body: Incoming,
    place: Option<Place>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.place = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
