//! The agent's ConfigMap, followed with the one right that the agent has to it: `watch`.
//!
//! A watch without resourceVersion begins with the object as it is, so neither `get` nor `list` is needed.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use meshsync_crds::names::AGENT_CONFIG_KEY;

use super::candidate::{Candidate, Candidates, read};
use crate::apiserver::backoff::{Backoff, jitter};
use crate::apiserver::request::{Reason, RequestError, chunks, send};
use crate::object::event::WatchStatus;
use crate::object::{EventKind, FrameSplitter, WatchEvent};

/// How long one connection is kept; a short one, since an answer of one object costs nothing.
const TIMEOUT: Duration = Duration::from_secs(240);

pub(super) async fn follow(client: &Client, namespace: &str, name: &str, candidates: &Candidates<'_>) {
    let mut backoff = Backoff::default();
    loop {
        let opened = Instant::now();
        let end = watch_once(client, namespace, name, candidates).await;
        let delay = match end {
            Ok(()) => Duration::from_secs(1).saturating_sub(opened.elapsed()),
            Err(error) => {
                if opened.elapsed() > TIMEOUT / 4 {
                    backoff.reset();
                }
                let delay = backoff.failed(Instant::now(), None, jitter());
                tracing::warn!(%error, retry_in = ?delay, "cannot watch the ConfigMap {namespace}/{name}");
                delay
            }
        };
        tokio::time::sleep(delay).await;
    }
}

async fn watch_once(
    client: &Client,
    namespace: &str,
    name: &str,
    candidates: &Candidates<'_>,
) -> Result<(), RequestError> {
    let uri = format!(
        "/api/v1/namespaces/{namespace}/configmaps?watch=true&allowWatchBookmarks=true&timeoutSeconds={}\
         &fieldSelector=metadata.name%3D{name}",
        TIMEOUT.as_secs()
    );
    let request = Request::get(uri).body(Vec::new()).map_err(|error| RequestError::transient(&error))?;
    let mut chunks = chunks(send(client, request).await?);
    let mut frames = FrameSplitter::default();
    // A connection that outlives its time is dead at the other end.
    let ends = tokio::time::Instant::now() + TIMEOUT + Duration::from_secs(30);
    while let Ok(chunk) = tokio::time::timeout_at(ends, chunks.try_next()).await {
        let Some(chunk) = chunk? else { return Ok(()) };
        frames.push(&chunk);
        while let Ok(Some(frame)) = frames.next_frame() {
            let event = WatchEvent::parse(frame)?;
            match event.kind {
                EventKind::Added | EventKind::Modified => take(namespace, name, event.object, candidates),
                EventKind::Deleted => {
                    candidates.offer(Candidate::Unreadable(format!("the ConfigMap {namespace}/{name} was deleted")))
                }
                EventKind::Error => {
                    let status = WatchStatus::parse(event.object);
                    return Err(RequestError::Relist(Reason::Unexplained(status.message)));
                }
                EventKind::Bookmark | EventKind::Unknown(_) => {}
            }
        }
    }
    Ok(())
}

fn take(namespace: &str, name: &str, object: &str, candidates: &Candidates<'_>) {
    let place = format!("ConfigMap {namespace}/{name}, key {AGENT_CONFIG_KEY}");
    let candidate = match serde_json::from_str::<ConfigMap>(object) {
        Ok(map) => match map.data.as_ref().and_then(|data| data.get(AGENT_CONFIG_KEY)) {
            Some(text) => read(&place, text),
            None => Candidate::Unreadable(format!("{place}: there is no such key")),
        },
        Err(error) => Candidate::Unreadable(format!("{place}: {error}")),
    };
    candidates.offer(candidate);
}
