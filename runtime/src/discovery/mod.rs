//! What the API server serves, asked live.
//!
//! One request each for `/api` and `/apis` in the aggregated form (KEP-3352, stable since Kubernetes 1.30). A server or
//! proxy that answers in the old form is asked group by group. A group that cannot be asked is reported by name and
//! never holds up another; an entry that cannot be used is left out and named, and says nothing about the next; an
//! empty answer is a failure, never "this cluster has no types".

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

/// Entries that were left out and are named; more are only counted. A server may serve any number of them.
const NAMED: usize = 64;
/// Longest reason that is kept.
const MAX_REASON: usize = 300;

/// What is served, and what could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// In the server's order: core group first, groups by priority, preferred version first.
    pub types: Vec<ServedType>,
    /// `group/version`s whose discovery failed or is stale, e.g. because an aggregated API server is down. Their types
    /// may be missing from `types`: what was known of them is to be kept.
    pub failed: Vec<FailedGroup>,
    /// Entries that cannot be used, at most 64 of them: all others hold.
    pub left_out: Vec<LeftOut>,
    /// How many there are besides.
    pub left_out_more: usize,
}

/// An entry of discovery that cannot be used, or only in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// API group; empty for the core group, or if it is the group that has no usable name.
    pub group: String,
    /// Version, or empty.
    pub version: String,
    /// Plural resource name as the server gives it, or empty.
    pub resource: String,
    /// What is wrong.
    pub reason: String,
}

impl LeftOut {
    /// `resource.group/version`, with a star for what is not known.
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

/// A group version that could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedGroup {
    /// API group.
    pub group: String,
    /// Version, or empty if the whole group.
    pub version: String,
    /// Why.
    pub reason: String,
}

impl Discovered {
    /// Notes an entry that cannot be used.
    fn leave_out(&mut self, mut entry: LeftOut) {
        if self.left_out.len() >= NAMED {
            self.left_out_more += 1;
            return;
        }
        entry.reason = entry.reason.chars().take(MAX_REASON).collect();
        self.left_out.push(entry);
    }

    /// Adds what another document told.
    fn extend(&mut self, other: Self) {
        let Self { types, failed, left_out, left_out_more } = other;
        self.types.extend(types);
        self.failed.extend(failed);
        left_out.into_iter().for_each(|entry| self.leave_out(entry));
        self.left_out_more += left_out_more;
    }

    /// Whether `t` may be served although it is not named: its group could not be asked, or its entry cannot be used.
    #[must_use]
    pub fn is_in_doubt(&self, t: &ServedType) -> bool {
        self.failed.iter().any(|f| f.group == t.group && is_or_all(&f.version, &t.version))
            || self
                .left_out
                .iter()
                .any(|l| l.group == t.group && is_or_all(&l.version, &t.version) && is_or_all(&l.resource, &t.plural))
    }

    /// Adds what `before` knew about groups that failed now, and about entries that cannot be used now: a dead
    /// aggregated API server does not mean that its types are gone.
    #[must_use]
    pub fn keeping(mut self, before: &Self) -> Self {
        let mut known = Vec::new();
        let in_doubt: Vec<&ServedType> = before.types.iter().filter(|t| self.is_in_doubt(t)).collect();
        let types = &mut self.types;
        for t in in_doubt {
            match types.iter_mut().find(|now| is_same(now, t)) {
                // Its server does not say what one may do with it: what it said before holds.
                Some(now) if now.verbs.is_empty() => now.verbs.clone_from(&t.verbs),
                Some(_) => {}
                None => known.push(t.clone()),
            }
        }
        // While a version cannot be asked, the next one looks preferred: two of them would be watched.
        for now in types.iter_mut() {
            let outranked = |t: &ServedType| t.preferred && (&t.group, &t.plural) == (&now.group, &now.plural);
            now.preferred &= !known.iter().any(outranked);
        }
        types.extend(known);
        self
    }
}

/// Whether a name is `other`, or stands for all.
fn is_or_all(name: &str, other: &str) -> bool {
    name.is_empty() || name == other
}

fn is_same(one: &ServedType, other: &ServedType) -> bool {
    (&one.group, &one.version, &one.plural) == (&other.group, &other.version, &other.plural)
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The API server did not answer, or with an error.
    #[error("discovery at {path} failed: {message}")]
    Request {
        /// Path that was asked.
        path: String,
        /// What went wrong.
        message: String,
        /// HTTP status of the server's answer, if there was one.
        status: Option<u16>,
    },
    /// The answer names no type at all.
    #[error("discovery at {path} is empty; the API server is not ready, or a proxy answers in its place")]
    Empty {
        /// Path that was asked.
        path: String,
    },
    /// The answer is neither of the two documents.
    #[error("discovery at {path} is neither an APIGroupDiscoveryList nor the older document: {message}")]
    Unreadable {
        /// Path that was asked.
        path: String,
        /// What the parser said.
        message: String,
    },
}

/// Asks the API server what it serves.
///
/// # Errors
/// [`DiscoveryError`] when nothing can be said at all. Single groups that fail are in [`Discovered::failed`].
pub async fn discover(client: &Client) -> Result<Discovered, DiscoveryError> {
    Ok(Poller::default().poll(client).await?.unwrap_or_default())
}

/// Whether the API server says that it is ready. Everybody may ask (`system:public-info-viewer`), unless that was taken away.
pub async fn server_state(client: &Client) -> Server {
    let Ok(request) = Request::get("/readyz").body(Body::empty()) else { return Server::Unknown };
    match client.send(request).await.map(|response| response.status()) {
        Ok(status) if status.is_success() => Server::Ready,
        // A server of the time before /readyz, a proxy, or an account that may not ask.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => Server::Unknown,
        Ok(_) | Err(_) => Server::NotReady,
    }
}

/// The document at `path` and its ETag; `None` if it is still the one that `etag` names.
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
