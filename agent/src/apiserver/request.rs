//! Requests to one collection of the API server, and what their failures mean.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use meshsync_runtime::client::chain;

use crate::object::event::WatchStatus;
use crate::object::{ObjectError, ResourceVersion};
use crate::plan::WatchSpec;

/// Longest error body that is read.
const ERROR_BODY_MAX: usize = 16 * 1024;
/// How long the head of an answer may take. The client has no limit of its own, and a peer that vanished would keep a
/// first list's place for ever: a few of them would hold up every other type.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// What of `Retry-After` is waited at most.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// Nothing can go on from where it was: only a list helps.
    #[error("{0}")]
    Relist(Reason),
    /// 400 or 422: the server does not take what was asked for, in this form.
    #[error("status {status}: {message}")]
    Invalid {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// Any other status: the server cannot do it now.
    #[error("status {status}: {message}")]
    Unavailable {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// How long the server asks to wait; a minute at most.
        retry_after: Option<Duration>,
    },
    /// The answer did not come, broke off, or cannot be read: try again later.
    #[error("{0}")]
    Transient(String),
}

/// Why nothing can go on from where it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// 410: the server's history does not reach back that far.
    #[error("the server no longer keeps the version to go on from")]
    Expired {
        /// Token with which a list may go on all the same, from a newer state.
        go_on: Option<String>,
    },
    /// The server's own version is older than what was seen.
    #[error("the server's version {server} is older than {seen}, as after a restore from a backup")]
    ServerIsOlder {
        /// What the server is at.
        server: ResourceVersion,
        /// What was seen of it.
        seen: ResourceVersion,
    },
    /// The list that the watch began from had no version.
    #[error("the server gives its lists no version to watch from: what was deleted meanwhile shows only in a list")]
    NoVersion,
    /// 400 or 422 to a watch.
    #[error("the server does not take the watch (status {status}: {message})")]
    WatchRefused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// What came where events should is something else.
    #[error("the watch was answered with something else than events: {0}")]
    NoEvents(String),
    /// The watch said that it failed, and not why: what it left out before is not known.
    #[error("the watch failed without a reason: {0}")]
    Unexplained(String),
    /// Watches that were opened ended at once, again and again.
    #[error("{0} watches in a row were ended at once")]
    EndsAtOnce(u32),
}

impl Reason {
    /// Static and in PascalCase, for conditions and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "Expired",
            Self::ServerIsOlder { .. } => "ServerIsOlder",
            Self::NoVersion => "NoVersion",
            Self::WatchRefused { .. } => "WatchRefused",
            Self::NoEvents(_) => "NoEvents",
            Self::Unexplained(_) => "WatchFailed",
            Self::EndsAtOnce(_) => "WatchEndsAtOnce",
        }
    }

    /// Whether it happens to a healthy server, and a list is known to help: then it need not wait.
    pub(crate) fn is_cured_by_a_list(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::ServerIsOlder { .. } | Self::NoVersion)
    }
}

impl RequestError {
    /// Whether the account lacks the right; a credential that is not accepted at all is another matter.
    pub(crate) const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }

    pub(crate) fn transient(error: &dyn std::error::Error) -> Self {
        Self::Transient(chain(error))
    }

    pub(crate) fn silent(limit: Duration) -> Self {
        Self::Transient(format!("nothing was heard for {} s; connecting again", limit.as_secs()))
    }

    pub(crate) fn from_status(status: u16, answer: ErrorAnswer) -> Self {
        let ErrorAnswer { message, retry_after, go_on } = answer;
        match status {
            401 | 403 => Self::Refused { status, message },
            404 | 405 => Self::Gone(message),
            410 => Self::Relist(Reason::Expired { go_on }),
            400 | 422 => Self::Invalid { status, message },
            _ => Self::Unavailable { status, message, retry_after },
        }
    }

    /// Static and in PascalCase, for conditions and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "Forbidden",
            Self::Gone(_) => "NotServed",
            Self::Relist(reason) => reason.word(),
            Self::Invalid { .. } => "Invalid",
            Self::Unavailable { .. } if self.is_busy() => "Busy",
            Self::Unavailable { .. } => "ServerError",
            Self::Transient(_) => "NoAnswer",
        }
    }

    /// Whether the server has too much to do, which says nothing of what was asked for.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Unavailable { status: 429 | 503, .. } | Self::Unavailable { retry_after: Some(_), .. })
    }
}

impl From<ObjectError> for RequestError {
    fn from(error: ObjectError) -> Self {
        Self::transient(&error)
    }
}

/// What an answer that is no success says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorAnswer {
    /// The server's words.
    pub(crate) message: String,
    /// How long it asks to wait.
    pub(crate) retry_after: Option<Duration>,
    /// See [`Reason::Expired`].
    pub(crate) go_on: Option<String>,
}

/// Query of one list page.
pub(crate) struct ListQuery<'a> {
    pub(crate) limit: usize,
    pub(crate) token: &'a str,
}

impl Source {
    /// The collection that `spec` names, across all namespaces.
    pub(crate) fn of(spec: &WatchSpec) -> Self {
        Self { path: spec.selected.served.collection_path(), metadata_only: spec.selected.metadata_only }
    }

    /// The part of it that is in one namespace, which may be read where the whole may not.
    pub(crate) fn in_namespace(spec: &WatchSpec, namespace: &str) -> Self {
        let path = spec.selected.served.collection_path_in(namespace);
        Self { path, metadata_only: spec.selected.metadata_only }
    }

    pub(crate) fn list_request(&self, query: &ListQuery<'_>) -> Result<Request<Vec<u8>>, RequestError> {
        let mut uri = format!("{}?limit={}", self.path, query.limit);
        if !query.token.is_empty() {
            uri.push_str("&continue=");
            uri.push_str(&escape(query.token));
        }
        self.get(&uri, if self.metadata_only { METADATA_LIST } else { "application/json" })
    }

    pub(crate) fn watch_request(&self, version: &str, timeout: Duration) -> Result<Request<Vec<u8>>, RequestError> {
        let (path, seconds) = (&self.path, timeout.as_secs());
        let version = escape(version);
        let uri =
            format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}");
        self.get(&uri, if self.metadata_only { METADATA_WATCH } else { "application/json" })
    }

    /// A watch that begins with all objects there are. Without a version to begin from they are those of now, as of a list
    /// that is not read from a cache.
    pub(crate) fn initial_watch_request(&self, timeout: Duration) -> Result<Request<Vec<u8>>, RequestError> {
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
    let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let answer = error_answer(status, response.into_body()).await;
    let retry_after = asked.or(answer.retry_after);
    Err(RequestError::from_status(status.as_u16(), ErrorAnswer { retry_after, ..answer }))
}

/// How long a server asks to wait: seconds or a date. None where it is neither, or long ago.
///
/// Bounded: whoever writes `Retry-After: 86400` must not switch a type off for a day.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A number that does not fit is one that is too large.
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => RETRY_AFTER_MAX,
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(at.duration_since(jiff::Timestamp::now())).ok()?
        }
    };
    Some(bounded(asked))
}

/// What of a wait that a server asks for is waited.
pub(crate) fn bounded(asked: Duration) -> Duration {
    asked.min(RETRY_AFTER_MAX)
}

/// What a `Status` says, or the beginning of whatever came instead.
async fn error_answer(status: StatusCode, body: Body) -> ErrorAnswer {
    let mut text = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Ok(Some(chunk)) = chunks.try_next().await {
        let room = ERROR_BODY_MAX.saturating_sub(text.len());
        text.extend_from_slice(chunk.get(..chunk.len().min(room)).unwrap_or_default());
        if chunk.len() >= room {
            break;
        }
    }
    let said = serde_json::from_slice::<WatchStatus>(&text);
    let message = match &said {
        Ok(said) if !said.message.is_empty() => said.message.clone(),
        Err(_) if !text.is_empty() => beginning(&text),
        Ok(_) | Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    let said = said.unwrap_or_default();
    let retry_after = said.retry_after_seconds().map(Duration::from_secs).map(bounded);
    ErrorAnswer { message, retry_after, go_on: said.continue_token().map(str::to_owned) }
}

/// As much of something that nobody can read as helps to see what it is.
fn beginning(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(200).collect()
}

/// Body chunks as they arrive.
pub(crate) fn chunks(
    response: Response<Body>,
) -> impl futures::Stream<Item = Result<Bytes, RequestError>> + Send + Unpin {
    response.into_body().into_data_stream().map_err(|error| RequestError::transient(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_ask_to_wait_for_a_minute_at_most_and_in_any_form() {
        let in_a_while = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
        let date = |at: jiff::Timestamp| jiff::fmt::rfc2822::to_string(&at.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        let http_date = date(in_a_while).replace("+0000", "GMT");
        let asked = retry_after(&http_date).unwrap();
        assert!((28..=30).contains(&asked.as_secs()), "{http_date}: {asked:?}");
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), None, "long ago");
        for (text, seconds) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("86400", Some(60)),
            ("99999999999999999999999", Some(60)),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(60)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
