//! Discovery: the types that the API server serves.
//!
//! One request each for `/api` and `/apis` in the aggregated form (KEP-3352, stable since Kubernetes 1.30). If a server
//! or proxy answers in the older form, each group takes another request. A group that fails is reported by name and
//! does not delay others. An unusable entry is left out and reported, and does not affect others. An empty answer is a
//! failure, never "this cluster has no types".

mod entry;
mod leaving;
mod parse;
mod poll;

use std::fmt;

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::discovery::v2::ACCEPT_AGGREGATED_DISCOVERY_V2;
use meshsync_crds::discovery::ServedType;

use crate::client::chain;

pub use leaving::{LEAVES_AFTER, LEAVES_AFTER_IN_DOUBT, Leaving, Server};
pub use poll::Poller;

/// Most left-out entries that are named; further entries are only counted, because a server may serve any number.
const NAMED: usize = 64;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 300;

/// The served types, and what discovery could not find out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// In the server's order: core group first, groups by priority, preferred version first.
    pub types: Vec<ServedType>,
    /// `group/version`s whose discovery failed or is stale, e.g. because an aggregated API server is down. Their types
    /// may be missing from `types`: callers keep the types that they know.
    pub failed: Vec<FailedGroup>,
    /// Entries that cannot be used, at most 64; all other entries are valid.
    pub left_out: Vec<LeftOut>,
    /// Number of further unusable entries.
    pub left_out_more: usize,
}

/// An entry of discovery that is unusable in whole or in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// API group; empty for the core group, or if the group itself has no usable name.
    pub group: String,
    /// Version, or empty.
    pub version: String,
    /// Plural resource name as the server sent it, or empty.
    pub resource: String,
    /// What is wrong.
    pub reason: String,
}

impl LeftOut {
    /// `resource.group/version`, with a star for unknown parts.
    #[must_use]
    pub fn name(&self) -> String {
        let Self { group, version, resource, reason: _ } = self;
        let resource = if resource.is_empty() { "*" } else { resource };
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let version = if version.is_empty() { String::new() } else { format!("/{version}") };
        format!("{}{group}{version}", resource.escape_debug())
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.reason)
    }
}

/// A group or group version whose discovery failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedGroup {
    /// API group.
    pub group: String,
    /// Version, or empty for the whole group.
    pub version: String,
    /// Why.
    pub reason: String,
}

impl Discovered {
    /// Records an unusable entry.
    fn leave_out(&mut self, mut entry: LeftOut) {
        if self.left_out.len() >= NAMED {
            self.left_out_more += 1;
            return;
        }
        entry.reason = entry.reason.chars().take(MAX_REASON).collect();
        self.left_out.push(entry);
    }

    /// Adds the result of another document.
    fn extend(&mut self, other: Self) {
        let Self { types, failed, left_out, left_out_more } = other;
        self.types.extend(types);
        self.failed.extend(failed);
        left_out.into_iter().for_each(|entry| self.leave_out(entry));
        self.left_out_more += left_out_more;
    }

    /// Whether `t` may be served although it is not listed, because its group failed or its entry is unusable.
    #[must_use]
    pub fn is_in_doubt(&self, t: &ServedType) -> bool {
        self.failed.iter().any(|f| f.group == t.group && is_or_all(&f.version, &t.version))
            || self
                .left_out
                .iter()
                .any(|l| l.group == t.group && is_or_all(&l.version, &t.version) && is_or_all(&l.resource, &t.plural))
    }

    /// Adds what `before` knew about groups that failed and about entries that are unusable now: types of a dead
    /// aggregated API server are not removed.
    #[must_use]
    pub fn keeping(mut self, before: &Self) -> Self {
        let mut known = Vec::new();
        let in_doubt: Vec<&ServedType> = before.types.iter().filter(|t| self.is_in_doubt(t)).collect();
        let types = &mut self.types;
        for t in in_doubt {
            match types.iter_mut().find(|now| is_same(now, t)) {
                // The server does not list its verbs: the earlier verbs still hold.
                Some(now) if now.verbs.is_empty() => now.verbs.clone_from(&t.verbs),
                Some(_) => {}
                None => known.push(t.clone()),
            }
        }
        // While a version fails, the next version looks preferred, and both would be watched.
        for now in types.iter_mut() {
            let outranked = |t: &ServedType| t.preferred && (&t.group, &t.plural) == (&now.group, &now.plural);
            now.preferred &= !known.iter().any(outranked);
        }
        types.extend(known);
        self
    }
}

/// Whether a name equals `other` or stands for all names.
fn is_or_all(name: &str, other: &str) -> bool {
    name.is_empty() || name == other
}

fn is_same(one: &ServedType, other: &ServedType) -> bool {
    (&one.group, &one.version, &one.plural) == (&other.group, &other.version, &other.plural)
}

/// Discovery failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The API server did not answer, or answered with an error.
    #[error("discovery at {path} failed: {message}")]
    Request {
        /// Path of the request.
        path: String,
        /// What went wrong.
        message: String,
        /// HTTP status of the server's answer, if there was one.
        status: Option<u16>,
    },
    /// The answer lists no type.
    #[error("discovery at {path} is empty; the API server is not ready, or a proxy answers in its place")]
    Empty {
        /// Path of the request.
        path: String,
    },
    /// The answer is neither of the two documents.
    #[error("discovery at {path} is neither an APIGroupDiscoveryList nor the older document: {message}")]
    Unreadable {
        /// Path of the request.
        path: String,
        /// The parser's message.
        message: String,
    },
}

/// Requests the served types from the API server.
///
/// # Errors
/// [`DiscoveryError`] if nothing could be discovered. Single groups that fail are in [`Discovered::failed`].
pub async fn discover(client: &Client) -> Result<Discovered, DiscoveryError> {
    Ok(Poller::default().poll(client).await?.unwrap_or_default())
}

/// Asks the API server whether it is ready. Everybody may ask (`system:public-info-viewer`), unless an administrator
/// revoked that.
pub async fn server_state(client: &Client) -> Server {
    let Ok(request) = Request::get("/readyz").body(Body::empty()) else { return Server::Unknown };
    match client.send(request).await.map(|response| response.status()) {
        Ok(status) if status.is_success() => Server::Ready,
        // A server older than /readyz, a proxy, or an account that may not ask.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => Server::Unknown,
        Ok(_) | Err(_) => Server::NotReady,
    }
}

/// The document at `path` and its ETag; `None` if `etag` is still current.
async fn get(
    client: &Client,
    path: &str,
    etag: Option<&HeaderValue>,
) -> Result<Option<(String, Option<HeaderValue>)>, DiscoveryError> {
    let failed = |message: String, status| DiscoveryError::Request { path: path.to_owned(), message, status };
    let mut request = Request::get(path).header(header::ACCEPT, ACCEPT_AGGREGATED_DISCOVERY_V2);
    if let Some(etag) = etag {
        request = request.header(header::IF_NONE_MATCH, etag);
    }
    let request = request.body(Body::empty()).map_err(|error| failed(error.to_string(), None))?;
    let response = client.send(request).await.map_err(|error| failed(chain(&error), None))?;
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let etag = response.headers().get(header::ETAG).cloned();
    let body = response.into_body().collect().await.map_err(|error| failed(chain(&error), None))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        return Err(failed(text.chars().take(300).collect(), Some(status.as_u16())));
    }
    Ok(Some((text, etag)))
}

#[cfg(test)]
mod tests;
