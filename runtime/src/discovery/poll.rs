//! Asking again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use http::HeaderValue;
use kube::Client;
use tokio::time::{Instant, timeout};

use super::{Discovered, DiscoveryError, FailedGroup, get, parse};

/// Groups that are asked at the same time in the old form.
const CONCURRENCY: usize = 8;
/// How long one of them may take: one that hangs must not hold up the others.
const GROUP_WITHIN: Duration = Duration::from_secs(10);
/// How often each of them is asked. The list of groups says only which are new: with 60 groups, to ask each whenever that
/// list is asked was 1,950 requests a minute.
const GROUPS_EVERY: Duration = Duration::from_secs(30);

/// Group and version.
type GroupVersion = (String, String);

/// Asks again and again what is served, at the price of two empty answers while nothing changes.
///
/// The aggregated documents carry an ETag: a poll every few seconds notices new and removed types without the right to
/// watch definitions, which an agent may not have. In the old form a new group is noticed as soon, a new type of a known
/// group within half a minute.
#[derive(Debug, Default)]
pub struct Poller {
    halves: [Half; 2],
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
        all.extend(groups.found.clone());
        Ok(Some(all))
    }
}

/// One of the two documents, and what it leads to.
#[derive(Debug, Default)]
pub(super) struct Half {
    etag: Option<HeaderValue>,
    pub(super) found: Discovered,
    /// Present where the server answers in the old form.
    old: Option<OldForm>,
}

#[derive(Debug, Default)]
struct OldForm {
    /// The preferred version of each group first, and what else the list says.
    versions: Vec<GroupVersion>,
    unusable: Discovered,
    /// What each said last.
    groups: BTreeMap<GroupVersion, Group>,
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Group {
    etag: Option<HeaderValue>,
    found: Discovered,
}

impl Half {
    /// Asks; whether `found` changed.
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

/// Whether `found` is news. That nothing is served is no news but a failure.
fn take(known: &mut Discovered, found: Discovered, path: &'static str) -> Result<bool, DiscoveryError> {
    if found.types.is_empty() && found.failed.is_empty() {
        return Err(DiscoveryError::Empty { path: path.to_owned() });
    }
    let changed = *known != found;
    *known = found;
    Ok(changed)
}

impl OldForm {
    /// Asks the groups that are new, and now and then all; gives what all of them said.
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

/// The document of the old form about one version of one group; none if it is the one that is known.
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
