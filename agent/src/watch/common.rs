//! What the collections of a type share, and what all types share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kube::Client;
use meshsync_runtime::readiness::{Gate, Readiness};
use tokio::sync::{Mutex, Notify, watch};

use super::initial::Streaming;
use super::intake::Sink;
use super::places::ListPlaces;
use super::resume::Start;
use super::scope::Scope;
use super::standing::Standing;
use crate::object::ResourceVersion;
use crate::plan::WatchSpec;
use crate::stream::Progress;

/// What all loops share.
pub(super) struct Shared {
    pub(super) client: Client,
    /// Lists that run at the same time.
    pub(super) places: ListPlaces,
    /// What is listed by a stream.
    pub(super) streaming: Streaming,
    /// Changes when rights may have: refused types are tried again at once.
    pub(super) retry: watch::Receiver<u64>,
    /// Told when the server does not know a type any more.
    pub(super) rediscover: Arc<Notify>,
    /// How far each watch is, and where it may begin.
    pub(super) progress: Arc<Progress>,
    /// Shows what fails.
    pub(super) readiness: Readiness,
    /// Whether the log said last that types are read in some namespaces only.
    pub(super) is_narrowed: AtomicBool,
}

/// What the collections of one type share.
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) sink: Sink,
    pub(super) standing: Standing,
    /// What is read where not all may be.
    pub(super) fallback: Option<Scope>,
    /// Held by the one that lists.
    pub(super) listing: Mutex<()>,
    /// Changes when all are to be listed again.
    pub(super) list_wanted: watch::Sender<u64>,
}

impl Common {
    pub(super) fn new(spec: &WatchSpec, sink: Sink, shared: Arc<Shared>, gate: Option<Gate>) -> Self {
        let standing = Standing::new(&sink.name, Arc::clone(&sink.board), shared.readiness.clone(), gate);
        let fallback = Scope::fallback(spec, shared.client.default_namespace());
        let list_wanted = watch::Sender::new(0);
        Self { shared, sink, standing, fallback, listing: Mutex::new(()), list_wanted }
    }

    pub(super) fn spec(&self) -> &WatchSpec {
        self.sink.spec()
    }

    /// A watch came to `start`. That of a namespace says nothing of the type.
    pub(super) fn advance(&self, is_whole: bool, start: &Start) {
        if is_whole && start.has_version() {
            self.shared.progress.advance(self.sink.type_id, self.sink.position(&start.version));
        }
    }

    /// The newest version of the type that anybody saw, an earlier process included: a list that is older is one of a server
    /// that was restored from a backup.
    pub(super) fn seen(&self) -> ResourceVersion {
        let held = self.sink.table.newest_version();
        match self.shared.progress.position(self.sink.type_id) {
            Some(position) if !position.version.is_older_than(&held) => position.version,
            _ => held,
        }
    }

    /// Has every collection hear that a list is wanted.
    pub(super) async fn pass_on_wanted_lists(&self) {
        loop {
            self.sink.table.list_wanted().await;
            self.list_wanted.send_modify(|count| *count += 1);
        }
    }
}
