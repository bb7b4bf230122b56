//! What the API server serves, asked live.
//!
//! One request each for `/api` and `/apis` in the aggregated form (KEP-3352, stable since Kubernetes 1.30). A server or
//! proxy that answers in the old form is asked group by group. A group that cannot be asked is reported by name and
//! never holds up another; an empty answer is a failure, never "this cluster has no types".

mod parse;

use futures::stream::{self, StreamExt};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use kube::Client;
use kube::client::Body;
use kube::core::discovery::v2::ACCEPT_AGGREGATED_DISCOVERY_V2;
use meshsync_crds::discovery::ServedType;

use crate::client::chain;

/// Groups that are asked at the same time in the old form.
const CONCURRENCY: usize = 8;

/// What is served, and what could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// In the server's order: core group first, groups by priority, preferred version first.
    pub types: Vec<ServedType>,
    /// `group/version`s whose discovery failed or is stale, e.g. because an aggregated API server is down. Their types
    /// may be missing from `types`: what was known of them is to be kept.
    pub failed: Vec<FailedGroup>,
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
    /// Adds what `before` knew about groups that failed now: a dead aggregated API server does not mean that its
    /// types are gone.
    #[must_use]
    pub fn keeping(mut self, before: &Self) -> Self {
        let known: Vec<ServedType> = before
            .types
            .iter()
            .filter(|t| {
                self.failed.iter().any(|f| f.group == t.group && (f.version.is_empty() || f.version == t.version))
                    && !self
                        .types
                        .iter()
                        .any(|now| (&now.group, &now.version, &now.plural) == (&t.group, &t.version, &t.plural))
            })
            .cloned()
            .collect();
        // While a version cannot be asked, the next one looks preferred: two of them would be watched.
        for now in &mut self.types {
            let outranked = |t: &ServedType| t.preferred && (&t.group, &t.plural) == (&now.group, &now.plural);
            now.preferred &= !known.iter().any(outranked);
        }
        self.types.extend(known);
        self
    }
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The API server did not answer, or with an error.
    #[error("discovery at {path} failed: {message}")]
    Request {
        /// Path that was asked.
        path: &'static str,
        /// What went wrong.
        message: String,
        /// HTTP status of the server's answer, if there was one.
        status: Option<u16>,
    },
    /// The answer names no type at all.
    #[error("discovery at {path} is empty; the API server is not ready, or a proxy answers in its place")]
    Empty {
        /// Path that was asked.
        path: &'static str,
    },
    /// The answer is neither of the two documents.
    #[error("discovery at {path} is neither an APIGroupDiscoveryList nor the older document: {message}")]
    Unreadable {
        /// Path that was asked.
        path: &'static str,
        /// What the parser said.
        message: String,
    },
}

/// Asks the API server what it serves.
///
/// # Errors
/// [`DiscoveryError`] when nothing can be said at all. Single groups that fail are in [`Discovered::failed`].
pub async fn discover(client: &Client) -> Result<Discovered, DiscoveryError> {
    let (core, groups) = tokio::try_join!(half(client, "/api"), half(client, "/apis"))?;
    let mut all = core;
    all.types.extend(groups.types);
    all.failed.extend(groups.failed);
    Ok(all)
}

/// Asks again and again what is served, at the price of two empty answers while nothing changes.
///
/// The aggregated documents carry an ETag: a poll every few seconds notices new and removed types without the right to
/// watch definitions, which an agent may not have.
#[derive(Debug, Default)]
pub struct Poller {
    halves: [Half; 2],
}

#[derive(Debug, Default)]
struct Half {
    etag: Option<HeaderValue>,
    found: Discovered,
}

impl Poller {
    /// What is served now; `None` if that is what the last call gave.
    ///
    /// # Errors
    /// [`DiscoveryError`]; what was known before stays for the next call.
    pub async fn poll(&mut self, client: &Client) -> Result<Option<Discovered>, DiscoveryError> {
        let [core, groups] = &mut self.halves;
        let (core_changed, groups_changed) = tokio::try_join!(core.poll(client, "/api"), groups.poll(client, "/apis"))?;
        if !core_changed && !groups_changed {
            return Ok(None);
        }
        let mut all = core.found.clone();
        all.types.extend(groups.found.types.iter().cloned());
        all.failed.extend(groups.found.failed.iter().cloned());
        Ok(Some(all))
    }
}

impl Half {
    /// Whether `found` changed.
    async fn poll(&mut self, client: &Client, path: &'static str) -> Result<bool, DiscoveryError> {
        let Some((text, etag)) = get(client, path, self.etag.as_ref()).await? else { return Ok(false) };
        let (found, covers_all) = read(client, path, &text).await?;
        // In the old form the tag covers the list of groups only: a new type inside a group would never be seen.
        self.etag = etag.filter(|_| covers_all);
        let changed = found != self.found;
        self.found = found;
        Ok(changed)
    }
}

async fn half(client: &Client, path: &'static str) -> Result<Discovered, DiscoveryError> {
    let text = get(client, path, None).await?.map(|(text, _)| text).unwrap_or_default();
    Ok(read(client, path, &text).await?.0)
}

/// What is served, and whether `text` alone told it.
async fn read(client: &Client, path: &'static str, text: &str) -> Result<(Discovered, bool), DiscoveryError> {
    let document = parse::document(text).map_err(|message| DiscoveryError::Unreadable { path, message })?;
    let aggregated = matches!(document, parse::Document::Aggregated(_));
    let found = match document {
        parse::Document::Aggregated(found) => found,
        parse::Document::CoreVersions(versions) => {
            one_by_one(client, versions.into_iter().map(|v| (String::new(), v)).collect()).await
        }
        parse::Document::Groups(groups) => one_by_one(client, versions_of(&groups)).await,
    };
    if found.types.is_empty() && found.failed.is_empty() {
        return Err(DiscoveryError::Empty { path });
    }
    Ok((found, aggregated))
}

/// The document at `path` and its ETag; `None` if it is still the one that `etag` names.
async fn get(
    client: &Client,
    path: &'static str,
    etag: Option<&HeaderValue>,
) -> Result<Option<(String, Option<HeaderValue>)>, DiscoveryError> {
    let failed = |message: String, status| DiscoveryError::Request { path, message, status };
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

/// The preferred version of each group first.
fn versions_of(groups: &APIGroupList) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for group in &groups.groups {
        let preferred = group.preferred_version.as_ref().map(|v| v.version.as_str());
        let (first, others): (Vec<_>, Vec<_>) =
            group.versions.iter().map(|v| v.version.as_str()).partition(|v| Some(*v) == preferred);
        all.extend(first.into_iter().chain(others).map(|v| (group.name.clone(), v.to_owned())));
    }
    all
}

async fn one_by_one(client: &Client, versions: Vec<(String, String)>) -> Discovered {
    let answers: Vec<_> = stream::iter(versions)
        .map(async |(group, version)| {
            let answer = resources(client, &group, &version).await;
            (group, version, answer)
        })
        .buffered(CONCURRENCY)
        .collect()
        .await;
    let mut found = Discovered::default();
    for (group, version, answer) in answers {
        match answer {
            Ok(list) => found.types.extend(parse::resource_list(&group, &version, &list)),
            Err(reason) => found.failed.push(FailedGroup { group, version, reason }),
        }
    }
    parse::mark_preferred(&mut found.types);
    found
}

async fn resources(client: &Client, group: &str, version: &str) -> Result<APIResourceList, String> {
    let answer = if group.is_empty() {
        client.list_core_api_resources(version).await
    } else {
        client.list_api_group_resources(&format!("{group}/{version}")).await
    };
    answer.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests;
