//! Polls discovery.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use http::HeaderValue;
use kube::Client;
use tokio::time::{Instant, timeout};

use super::{Discovered, DiscoveryError, FailedGroup, get, parse};

/// Concurrent requests for groups of the older form.
const CONCURRENCY: usize = 8;
/// How long such a request may take, so that a hanging group does not delay the others.
const GROUP_WITHIN: Duration = Duration::from_secs(10);
/// How often each group is read again. The list of groups reveals only new groups. Reading each of 60 groups with every
/// poll of that list took 1,950 requests a minute.
const GROUPS_EVERY: Duration = Duration::from_secs(30);

/// Group and version.
type GroupVersion = (String, String);

/// Polls the served types; while nothing changes, a poll costs two empty answers.
///
/// The aggregated documents have an ETag. Polling them every few seconds finds new and removed types without the right
/// to watch CustomResourceDefinitions, which an agent may lack. In the older form, polling finds a new group equally
/// soon, and a new type of a known group within half a minute.
#[derive(Debug, Default)]
pub struct Poller {
    halves: [Half; 2],
}

impl Poller {
    /// Returns what is served now, or `None` if nothing changed since the last call.
    ///
    /// # Errors
    /// [`DiscoveryError`]; the poller keeps what it knew for the next call.
    pub async fn poll(&mut self, client: &Client) -> Result<Option<Discovered>, DiscoveryError> {
        let [core, groups] = &mut self.halves;
        let (core_changed, groups_changed) = tokio::try_join!(core.poll(client, "/api"), groups.poll(client, "/apis"))?;
        if !core_changed && !groups_changed {
            return Ok(None);
        }
        let mut all = core.found.clone();
        all.extend(groups.found.clone());
        Ok(Some(all))
    }
}

/// One of the two documents, and the documents of its groups.
#[derive(Debug, Default)]
pub(super) struct Half {
    etag: Option<HeaderValue>,
    pub(super) found: Discovered,
    /// Present if the server answers in the older form.
    old: Option<OldForm>,
}

#[derive(Debug, Default)]
struct OldForm {
    /// Groups and versions, with the preferred version of each group first.
    versions: Vec<GroupVersion>,
    unusable: Discovered,
    /// The last answer about each group version.
    groups: BTreeMap<GroupVersion, Group>,
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Group {
    etag: Option<HeaderValue>,
    found: Discovered,
}

impl Half {
    /// Sends the request, and returns whether `found` changed.
    pub(super) async fn poll(&mut self, client: &Client, path: &'static str) -> Result<bool, DiscoveryError> {
        if let Some((text, etag)) = get(client, path, self.etag.as_ref()).await? {
            let unreadable = |message| DiscoveryError::Unreadable { path: path.to_owned(), message };
            match parse::document(&text, path == "/api").map_err(unreadable)? {
                parse::Document::Aggregated(found) => {
                    let changed = take(&mut self.found, found, path)?;
                    (self.etag, self.old) = (etag, None);
                    return Ok(changed);
                }
                parse::Document::Versions(versions, unusable) => {
                    let old = self.old.get_or_insert_default();
                    (old.versions, old.unusable) = (versions, unusable);
                    self.etag = etag;
                }
            }
        }
        let Some(old) = &mut self.old else { return Ok(false) };
        let found = old.ask(client).await;
        let taken = take(&mut self.found, found, path);
        if taken.is_err() {
            self.etag = None;
        }
        taken
    }
}

/// Stores `found` and returns whether it differs. An empty result is a failure.
fn take(known: &mut Discovered, found: Discovered, path: &'static str) -> Result<bool, DiscoveryError> {
    if found.types.is_empty() && found.failed.is_empty() {
        return Err(DiscoveryError::Empty { path: path.to_owned() });
    }
    let changed = *known != found;
    *known = found;
    Ok(changed)
}

impl OldForm {
    /// Reads new groups, and all groups at intervals; returns the answers of all groups.
    async fn ask(&mut self, client: &Client) -> Discovered {
        let now = Instant::now();
        let is_due = self.asked.is_none_or(|asked| now.duration_since(asked) >= GROUPS_EVERY);
        self.groups.retain(|of, _| self.versions.contains(of));
        let due: Vec<GroupVersion> =
            self.versions.iter().filter(|of| is_due || !self.groups.contains_key(*of)).cloned().collect();
        let groups = &self.groups;
        let ask = async |of: GroupVersion| {
            let answer = timeout(GROUP_WITHIN, resources(client, &of, groups.get(&of))).await;
            let late = || Err(format!("it did not answer within {} s", GROUP_WITHIN.as_secs()));
            (of, answer.unwrap_or_else(|_| late()))
        };
        let answers: Vec<_> = stream::iter(due).map(ask).buffer_unordered(CONCURRENCY).collect().await;
        for (of, answer) in answers {
            match answer {
                Ok(Some(group)) => drop(self.groups.insert(of, group)),
                Ok(None) => {}
                Err(reason) => drop(self.groups.insert(of.clone(), Group::failed(of, reason))),
            }
        }
        if is_due {
            self.asked = Some(now);
        }
        let mut found = self.unusable.clone();
        self.versions.iter().filter_map(|of| self.groups.get(of)).for_each(|group| found.extend(group.found.clone()));
        parse::settle(&mut found);
        found
    }
}

impl Group {
    fn failed((group, version): GroupVersion, reason: String) -> Self {
        let failed = vec![FailedGroup { group, version, reason }];
        Self { etag: None, found: Discovered { failed, ..Discovered::default() } }
    }
}

/// Reads the older document about one version of one group; `None` if it has not changed.
async fn resources(
    client: &Client,
    (group, version): &GroupVersion,
    known: Option<&Group>,
) -> Result<Option<Group>, String> {
    let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let answer = get(client, &path, known.and_then(|known| known.etag.as_ref())).await;
    let Some((text, etag)) = answer.map_err(|error| error.to_string())? else { return Ok(None) };
    let mut found = Discovered::default();
    parse::resource_list(group, version, &text, &mut found)?;
    Ok(Some(Group { etag, found }))
}
