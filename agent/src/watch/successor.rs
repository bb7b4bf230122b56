//! Whether a version of a type that is to take the place of another can be listed to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kube::Client;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{Board, Listing, Scope};
use crate::apiserver::backoff::{Backoff, jitter};
use crate::plan::WatchSpec;

/// See the module. It asks for as long as it lives, until there is an answer.
pub(super) struct Successor {
    spec: WatchSpec,
    is_listed: Arc<AtomicBool>,
    _asking: AbortOnDropHandle<()>,
}

impl Successor {
    /// Begins to ask; `done` is told once the whole list was read, as far as the `board` has the one before watched.
    pub(super) fn new(client: Client, spec: WatchSpec, board: Arc<Board>, done: Arc<Notify>) -> Self {
        let is_listed = Arc::new(AtomicBool::new(false));
        let asking = ask(client, spec.clone(), board, Arc::clone(&is_listed), done);
        Self { spec, is_listed, _asking: AbortOnDropHandle::new(tokio::spawn(asking)) }
    }

    /// Whether this is about the version that `spec` is of.
    pub(super) fn is_for(&self, spec: &WatchSpec) -> bool {
        self.spec.is_same_watch(spec)
    }

    /// Whether the whole list was read.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Acquire)
    }
}

async fn ask(client: Client, spec: WatchSpec, board: Arc<Board>, is_listed: Arc<AtomicBool>, done: Arc<Notify>) {
    let mut backoff = Backoff::default();
    while let Err(reason) = list(&client, &spec, &board).await {
        let delay = backoff.failed(Instant::now(), None, jitter());
        let (name, version) = (spec.selected.served.name(), &spec.selected.served.version);
        tracing::warn!(
            r#type = name, version, reason, retry_in = ?delay,
            "a version that is to be watched instead cannot be listed; the one before goes on being watched"
        );
        tokio::time::sleep(delay).await;
    }
    is_listed.store(true, Ordering::Release);
    done.notify_one();
}

async fn list(client: &Client, spec: &WatchSpec, board: &Board) -> Result<(), String> {
    let scope = board.report(&spec.selected.served.name()).unwrap_or_default().scope();
    let mut listing = Listing::within(client, spec, &scope);
    while listing.next_page().await.map_err(|error| error.to_string())?.is_some() {}
    // Where the one before is watched as a whole, objects would be deleted that still exist.
    match listing.only() {
        Some(namespaces) if scope == Scope::Cluster => {
            Err(format!("it may be listed in {} only", namespaces.join(", ")))
        }
        _ => Ok(()),
    }
}
