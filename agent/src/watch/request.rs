//! Requests to one collection of the API server, and what their failures mean.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use meshsync_runtime::client::chain;

use super::spec::WatchSpec;

/// Longest error body that is read.
const ERROR_BODY_MAX: usize = 16 * 1024;
/// How long the head of an answer may take. The client has no limit of its own, and a peer that vanished would keep a
/// first list's place for ever: a few of them would hold up every other type.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Accept header for objects without spec and status (KEP-2334); a server that cannot do so sends whole objects.
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA_WATCH: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// A collection to be listed and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the collection, e.g. `/apis/apps/v1/deployments`.
    pub path: String,
    /// Whether only metadata is asked for.
    pub metadata_only: bool,
}

/// Why a request failed, by what is to be done about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// 401 or 403: rights are missing.
    #[error("refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// 404 or 405: the type is not served any more, or not this way.
    #[error("not served: {0}")]
    Gone(String),
    /// 410: the version or continue token is too old; list again.
    #[error("the server no longer keeps the requested version")]
    Expired,
    /// 400 or 422: the server does not take what was asked for, in this form.
    #[error("status {status}: {message}")]
    Invalid {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// Anything else: try again later.
    #[error("{message}")]
    Transient {
        /// What went wrong.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
}

impl RequestError {
    /// Whether the account lacks the right; a credential that is not accepted at all is another matter.
    pub(crate) const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }

    pub(crate) fn transient(error: &dyn std::error::Error) -> Self {
        Self::Transient { message: chain(error), retry_after: None }
    }

    pub(super) fn silent(limit: Duration) -> Self {
        let message = format!("nothing was heard for {} s; connecting again", limit.as_secs());
        Self::Transient { message, retry_after: None }
    }

    pub(super) fn from_status(status: u16, message: String, retry_after: Option<Duration>) -> Self {
        match status {
            401 | 403 => Self::Refused { status, message },
            404 | 405 => Self::Gone(message),
            410 => Self::Expired,
            400 | 422 => Self::Invalid { status, message },
            _ => Self::Transient { message: format!("status {status}: {message}"), retry_after },
        }
    }
}

/// Query of one list page.
pub(super) struct ListQuery<'a> {
    pub(super) limit: usize,
    pub(super) token: &'a str,
}

impl Source {
    /// The collection that `spec` names, across all namespaces.
    pub(super) fn of(spec: &WatchSpec) -> Self {
        Self { path: spec.selected.served.collection_path(), metadata_only: spec.selected.metadata_only }
    }

    /// The part of it that is in one namespace, which may be read where the whole may not.
    pub(super) fn in_namespace(spec: &WatchSpec, namespace: &str) -> Self {
        let path = spec.selected.served.collection_path_in(namespace);
        Self { path, metadata_only: spec.selected.metadata_only }
    }

    pub(super) fn list_request(&self, query: &ListQuery<'_>) -> Result<Request<Vec<u8>>, RequestError> {
        let mut uri = format!("{}?limit={}", self.path, query.limit);
        if !query.token.is_empty() {
            uri.push_str("&continue=");
            uri.push_str(&escape(query.token));
        }
        self.get(&uri, if self.metadata_only { METADATA_LIST } else { "application/json" })
    }

    pub(super) fn watch_request(&self, version: &str, timeout: Duration) -> Result<Request<Vec<u8>>, RequestError> {
        let (path, seconds) = (&self.path, timeout.as_secs());
        let version = escape(version);
        let uri =
            format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}");
        self.get(&uri, if self.metadata_only { METADATA_WATCH } else { "application/json" })
    }

    /// A watch that begins with all objects there are. Without a version to begin from they are those of now, as of a list
    /// that is not read from a cache.
    pub(super) fn initial_watch_request(&self, timeout: Duration) -> Result<Request<Vec<u8>>, RequestError> {
        let (path, seconds) = (&self.path, timeout.as_secs());
        let uri = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}\
             &sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        );
        self.get(&uri, if self.metadata_only { METADATA_WATCH } else { "application/json" })
    }

    fn get(&self, uri: &str, accept: &str) -> Result<Request<Vec<u8>>, RequestError> {
        Request::get(uri)
            .header(header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(|error| RequestError::transient(&error))
    }
}

/// Percent-escapes whatever could end a query value. Versions and tokens are opaque.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Sends `request`; the answer is a success whose body has not been read.
pub(crate) async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<Response<Body>, RequestError> {
    let sent = tokio::time::timeout(ANSWER_WITHIN, client.send(request.map(Body::from))).await;
    let response = sent.map_err(|_| RequestError::silent(ANSWER_WITHIN))?;
    let response = response.map_err(|error| RequestError::transient(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let message = error_message(status, response.into_body()).await;
    Err(RequestError::from_status(status.as_u16(), message, retry_after))
}

/// The `message` of a `Status`, or the beginning of whatever came instead.
async fn error_message(status: StatusCode, body: Body) -> String {
    let mut text = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Ok(Some(chunk)) = chunks.try_next().await {
        let room = ERROR_BODY_MAX.saturating_sub(text.len());
        text.extend_from_slice(chunk.get(..chunk.len().min(room)).unwrap_or_default());
        if chunk.len() >= room {
            break;
        }
    }
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(&text) {
        Ok(status) => status.message,
        Err(_) if text.is_empty() => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        Err(_) => String::from_utf8_lossy(&text).chars().take(200).collect(),
    }
}

/// Body chunks as they arrive.
pub(crate) fn chunks(
    response: Response<Body>,
) -> impl futures::Stream<Item = Result<Bytes, RequestError>> + Send + Unpin {
    response.into_body().into_data_stream().map_err(|error| RequestError::transient(&error))
}
