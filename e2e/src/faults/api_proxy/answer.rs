//! Wrong answers of an API server.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

/// Bytes of a slow body that go out together.
const DRIBBLE: usize = 2 * 1024;

/// An answer that replaces the right answer, or changes it.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// 429 with `Retry-After`, in seconds.
    Busy(u64),
    /// 403 with a Status.
    Refused,
    /// 200 with this content type and body.
    Instead(&'static str, &'static str),
    /// No answer, for ever.
    Silence,
    /// 503, half a body, and then nothing for ever.
    FrozenError,
    /// The right answer's first bytes; then the connection ends.
    CutAfter(usize),
    /// The right answer's first bytes, as if they were all of it.
    EndAfter(usize),
    /// The right answer's first bytes, and then nothing for ever.
    FrozenAfter(usize),
    /// The right answer, 2 KiB at a time with this pause.
    Dribble(Duration),
    /// The right answer's JSON, changed.
    Changed(fn(&mut Value)),
}

impl Answer {
    /// The answer, if it does not depend on the right answer.
    pub(super) fn alone(self) -> Option<Response<Body>> {
        match self {
            Self::Busy(seconds) => {
                let mut response = status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "please try again later");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                Some(response)
            }
            Self::Refused => Some(status(StatusCode::FORBIDDEN, "Forbidden", "refused by the test's proxy")),
            Self::Instead(content_type, body) => {
                let mut response = Response::new(Body::from(body));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                Some(response)
            }
            Self::FrozenError => {
                let half = stream::iter([Ok::<_, Infallible>(Bytes::from_static(br#"{"kind":"Status","apiV"#))]);
                let mut response = Response::new(Body::from_stream(half.chain(stream::pending())));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Some(response)
            }
            _ => None,
        }
    }

    /// Applies the change to the body of the right answer.
    pub(super) async fn of(self, right: Response<Body>) -> Response<Body> {
        let (head, body) = right.into_parts();
        let body = match self {
            Self::Changed(change) => changed(body, change).await,
            Self::Dribble(pause) => dribbled(body, pause),
            Self::CutAfter(bytes) => {
                let cut = stream::iter([Err(axum::Error::new(std::io::Error::other("cut by the test's proxy")))]);
                Body::from_stream(first(body, bytes).chain(cut))
            }
            Self::EndAfter(bytes) => Body::from_stream(first(body, bytes)),
            Self::FrozenAfter(bytes) => Body::from_stream(first(body, bytes).chain(stream::pending())),
            _ => body,
        };
        Response::from_parts(head, body)
    }
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code.as_u16()});
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

type Chunk = Result<Bytes, axum::Error>;

/// The first bytes of a body.
fn first(body: Body, bytes: usize) -> impl futures::Stream<Item = Chunk> + Send {
    let mut left = bytes;
    body.into_data_stream()
        .map(move |chunk| {
            chunk.map(|mut chunk| {
                chunk.truncate(left);
                left -= chunk.len();
                chunk
            })
        })
        .take_while(|chunk| std::future::ready(!chunk.as_ref().is_ok_and(Bytes::is_empty)))
}

fn dribbled(body: Body, pause: Duration) -> Body {
    let pieces = body.into_data_stream().flat_map(|chunk| match chunk {
        Ok(chunk) => {
            let starts = (0..chunk.len()).step_by(DRIBBLE);
            let piece = move |start: usize| Ok(chunk.slice(start..chunk.len().min(start + DRIBBLE)));
            stream::iter(starts.map(piece).collect::<Vec<Chunk>>())
        }
        Err(error) => stream::iter(vec![Err(error)]),
    });
    Body::from_stream(pieces.then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    }))
}

/// A body that is not JSON stays unchanged, because no test changes such a body.
async fn changed(body: Body, change: fn(&mut Value)) -> Body {
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return Body::empty() };
    match serde_json::from_slice(&bytes) {
        Ok(mut value) => {
            change(&mut value);
            Body::from(value.to_string())
        }
        Err(_) => Body::from(bytes),
    }
}
