//! Tier 1: what exists, told before the first object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use http::Request;
use jiff::Timestamp;
use kube::Client;
use meshsync_crds::discovery::ServedType;
use serde::{Deserialize, Serialize};

use crate::object::ListPage;

/// Subject of the presence message.
pub const PRESENCE_SUBJECT: &str = "meshery.meshsync.presence";

/// Types that are counted at the same time.
const CONCURRENCY: usize = 16;
/// Time for all counts together: presence must be out within a second, so what is not counted by then is `null`.
const COUNT_WITHIN: Duration = Duration::from_millis(700);
/// Metadata of one object is enough to count.
const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What exists in a cluster; the payload of [`PRESENCE_SUBJECT`], as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// Version of the API server, e.g. `v1.37.2`; empty if it does not tell.
    pub server_version: String,
    /// Version of the agent.
    pub agent_version: String,
    /// When this was found out.
    pub observed_at: Timestamp,
    /// Every type that can be listed and watched, each resource once, in discovery order.
    pub types: Vec<PresentType>,
    /// API groups whose discovery failed, as `group/version`.
    pub failed_groups: Vec<String>,
    /// Types that are missing from `types` because the broker takes no message as long as that.
    #[serde(default, skip_serializing_if = "is_none_omitted")]
    pub omitted_types: usize,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_none_omitted(omitted: &usize) -> bool {
    *omitted == 0
}

impl Presence {
    /// The message, no longer than `limit`: without the types that have no room, of which those that are not watched go first.
    ///
    /// # Errors
    /// It cannot be written, or is too long without any type.
    pub fn message(mut self, limit: usize) -> Result<Vec<u8>, PresenceError> {
        let whole = serde_json::to_vec(&self)?;
        if whole.len() <= limit {
            return Ok(whole);
        }
        let mut types = std::mem::take(&mut self.types);
        self.omitted_types = types.len();
        let frame = serde_json::to_vec(&self)?.len();
        let room = limit.checked_sub(frame).ok_or(PresenceError::TooLarge { limit, frame })?;
        types.sort_by_key(|present| !present.watched);
        let mut used = 0;
        for present in types {
            used += serde_json::to_vec(&present)?.len() + 1;
            if used > room {
                break;
            }
            self.types.push(present);
        }
        self.omitted_types -= self.types.len();
        tracing::warn!(limit, omitted = self.omitted_types, "presence is too large for the broker: types are left out");
        Ok(serde_json::to_vec(&self)?)
    }
}

/// There is no message that tells what exists.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// It cannot be written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Too long even without types.
    #[error("it has {frame} bytes without any type, and the broker takes {limit}")]
    TooLarge {
        /// Most bytes of a message.
        limit: usize,
        /// Bytes without types.
        frame: usize,
    },
}

/// One served type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresentType {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural resource name.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether the agent watches the type.
    pub watched: bool,
    /// Number of objects; `null` when it is not known, e.g. for lack of rights.
    pub objects: Option<u64>,
}

/// What was counted. A type is counted once, when it is new: while types come and go all others would be counted again and
/// again, at a list each (1,337 lists for five new types in 15 s, in a cluster of 265).
#[derive(Debug, Default)]
pub struct Counts {
    /// By path of the collection. Those that the server refused to list are there, too.
    counted: BTreeMap<String, Option<u64>>,
}

impl Counts {
    /// Finds out what exists. Never fails: what cannot be found out is left open.
    pub async fn observe(
        &mut self,
        client: &Client,
        cluster_id: &str,
        served: &[ServedType],
        watched: &BTreeSet<String>,
        failed_groups: Vec<String>,
    ) -> Presence {
        let types: Vec<&ServedType> = served.iter().filter(|t| t.preferred && t.is_watchable()).collect();
        let paths: BTreeSet<String> = types.iter().map(|t| t.collection_path()).collect();
        self.counted.retain(|path, _| paths.contains(path));
        let new: Vec<String> = paths.into_iter().filter(|path| !self.counted.contains_key(path)).collect();
        let counting = async {
            let count = |path: String| async move { (count(client, &path).await, path) };
            let mut counting = stream::iter(new).map(count).buffer_unordered(CONCURRENCY);
            while let Some((count, path)) = counting.next().await {
                self.counted.insert(path, count);
            }
        };
        // Objects wait for presence: nothing in here may take long.
        let version = tokio::time::timeout(COUNT_WITHIN, client.apiserver_version());
        let (_, version) = tokio::join!(tokio::time::timeout(COUNT_WITHIN, counting), version);
        let server_version = version.ok().and_then(Result::ok).map(|info| info.git_version).unwrap_or_default();
        let present = |t: &ServedType| PresentType {
            group: t.group.clone(),
            version: t.version.clone(),
            kind: t.kind.clone(),
            plural: t.plural.clone(),
            namespaced: t.namespaced,
            watched: watched.contains(&t.name()),
            objects: self.counted.get(&t.collection_path()).copied().flatten(),
        };
        Presence {
            cluster_id: cluster_id.to_owned(),
            server_version,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            observed_at: Timestamp::now(),
            types: types.into_iter().map(present).collect(),
            failed_groups,
            omitted_types: 0,
        }
    }
}

/// A list of one object, without resourceVersion: with `resourceVersion=0` the server ignores the limit.
async fn count(client: &Client, path: &str) -> Option<u64> {
    let uri = format!("{path}?limit=1");
    let request = Request::get(uri).header(http::header::ACCEPT, ACCEPT).body(Vec::new()).ok()?;
    let text = client.request_text(request).await.ok()?;
    count_of(&ListPage::parse(text.as_bytes()).ok()?)
}

/// No continue token: the page is all there is. A token without a count: the server does not tell.
fn count_of(page: &ListPage<'_>) -> Option<u64> {
    let here = page.items.len() as u64;
    match (&page.continue_token, page.remaining_item_count) {
        (None, _) => Some(here),
        (Some(_), remaining) => remaining.map(|remaining| remaining + here),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "answers come from a script")]
mod tests {
    use http::Response;
    use kube::client::Body;
    use tower_test::mock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_type_does_not_have_all_others_counted_again() {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let server = tokio::spawn(async move {
            let mut counted = Vec::new();
            while let Some((request, send)) = handle.next_request().await {
                let path = request.uri().path().to_owned();
                let (status, body) = match path.as_str() {
                    "/version" => (200, r#"{"major":"1","minor":"37","gitVersion":"v1.37.2"}"#),
                    "/api/v1/secrets" => (403, r#"{"kind":"Status","code":403}"#),
                    _ => (200, r#"{"metadata":{},"items":[{}]}"#),
                };
                counted.push(path);
                let answer = Response::builder().status(status).body(Body::from(body.as_bytes().to_vec()));
                send.send_response(answer.unwrap());
            }
            counted.retain(|path| path != "/version");
            counted
        });
        let served = |plural: &&str| ServedType {
            verbs: vec!["list".into(), "watch".into()],
            ..ServedType::named("", "v1", "Kind", *plural)
        };
        let client = Client::new(service, "default");
        let mut counts = Counts::default();
        let mut observed = Vec::new();
        for plurals in [vec!["pods", "secrets"], vec!["pods", "secrets", "widgets"], vec!["secrets", "widgets"]] {
            let types: Vec<ServedType> = plurals.iter().map(served).collect();
            let presence = counts.observe(&client, "id", &types, &BTreeSet::new(), vec![]).await;
            observed.push(presence.types.into_iter().map(|t| t.objects).collect::<Vec<_>>());
        }
        drop(client);
        assert_eq!(observed, [vec![Some(1), None], vec![Some(1), None, Some(1)], vec![None, Some(1)]]);
        assert_eq!(server.await.unwrap(), ["/api/v1/pods", "/api/v1/secrets", "/api/v1/widgets"]);
    }

    #[test]
    fn presence_leaves_out_what_has_no_room_and_says_how_much() {
        let present = |at: usize| PresentType {
            group: "g".into(),
            version: "v1".into(),
            kind: format!("Kind{at}"),
            plural: format!("kinds{at}"),
            namespaced: true,
            watched: at % 2 == 1,
            objects: Some(3),
        };
        let presence = Presence {
            cluster_id: "c-1".into(),
            server_version: "v1.37.2".into(),
            agent_version: "0.1.0".into(),
            observed_at: Timestamp::UNIX_EPOCH,
            types: (0..100).map(present).collect(),
            failed_groups: vec!["late/v1".into()],
            omitted_types: 0,
        };
        let read = |limit| -> Presence {
            let message = presence.clone().message(limit).unwrap();
            assert!(message.len() <= limit, "{} > {limit}", message.len());
            serde_json::from_slice(&message).unwrap()
        };
        assert_eq!(read(100_000), presence);
        let short = read(3_000);
        assert_eq!(short.types.len() + short.omitted_types, 100);
        assert!(short.types.len() > 10 && short.types.iter().all(|present| present.watched), "watched ones come first");
        assert_eq!(short.failed_groups, ["late/v1"]);
        assert!(presence.message(100).is_err());
    }

    #[test]
    fn a_count_is_what_is_here_and_what_remains() {
        let count = |json: &str| count_of(&ListPage::parse(json.as_bytes()).unwrap());
        assert_eq!(count(r#"{"metadata":{},"items":[]}"#), Some(0));
        assert_eq!(count(r#"{"metadata":{},"items":[{}]}"#), Some(1));
        assert_eq!(count(r#"{"metadata":{"continue":"t","remainingItemCount":41},"items":[{}]}"#), Some(42));
        assert_eq!(count(r#"{"metadata":{"continue":"t"},"items":[{}]}"#), None);
    }
}
