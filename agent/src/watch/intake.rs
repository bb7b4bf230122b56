//! Where the objects of one type go: into the snapshot, and to those who are told.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use meshsync_crds::agent_config::SnapshotMode;

use super::board::Board;
use crate::object::{ObjectError, Outline, Prepared, ResourceVersion, TypeContext, WatchEvent, prepare_outline};
use crate::outbox::Outbox;
use crate::plan::WatchSpec;
use crate::snapshot::{Table, TypeId};
use crate::stream::{Position, TypeKey};

/// Objects that may wait for the broker before lists do.
const WAITING: usize = 4_000;
/// The same where bodies are held only for as long as they wait.
const WAITING_WITH_BODIES: usize = 500;
/// How long a page waits at most for that, where bodies are kept.
const PAGE_WAITS: Duration = Duration::from_millis(100);

/// Where the objects of one type go.
pub(super) struct Sink {
    pub(super) name: String,
    pub(super) type_id: TypeId,
    pub(super) table: Arc<Table>,
    pub(super) queue: Arc<Outbox>,
    pub(super) board: Arc<Board>,
    pub(super) key: TypeKey,
    pub(super) fingerprint: u64,
    context: TypeContext,
    spec: WatchSpec,
}

impl Sink {
    pub(super) fn new(
        spec: &WatchSpec,
        (type_id, table): (TypeId, Arc<Table>),
        queue: Arc<Outbox>,
        board: Arc<Board>,
    ) -> Self {
        let served = &spec.selected.served;
        Self {
            name: served.name(),
            type_id,
            table,
            queue,
            board,
            key: TypeKey::from(served),
            fingerprint: spec.fingerprint(),
            context: spec.context(),
            spec: spec.clone(),
        }
    }

    pub(super) fn spec(&self) -> &WatchSpec {
        &self.spec
    }

    pub(super) fn mode(&self) -> SnapshotMode {
        self.spec.mode
    }

    /// To be waited for between two pages.
    pub(super) async fn make_room(&self) {
        match self.spec.mode {
            // Publishing keeps up, or the broker is away: then the snapshot gets complete without it, a little slower.
            SnapshotMode::Full => {
                let _keeps_up = tokio::time::timeout(PAGE_WAITS, self.queue.shorter_than(WAITING)).await;
            }
            // Bodies are held until they are published: a whole cluster of them must not gather.
            SnapshotMode::HashOnly => self.queue.shorter_than(WAITING_WITH_BODIES).await,
        }
    }

    pub(super) fn position(&self, version: &ResourceVersion) -> Position {
        Position { key: self.key.clone(), version: version.clone(), fingerprint: self.fingerprint }
    }

    /// Takes in an object of a list.
    pub(super) fn take_in(&self, object: &Outline<'_>) {
        self.prepared(prepare_outline(object, &self.context), |prepared| self.upsert_prepared(prepared));
    }

    /// Takes in the state of an object that came with an event; gives its version.
    pub(super) fn upsert(&self, event: &WatchEvent<'_>) -> Option<ResourceVersion> {
        self.prepared(event.prepare(&self.context), |prepared| self.upsert_prepared(prepared))
    }

    fn upsert_prepared(&self, prepared: &Prepared) {
        let outcome = self.table.upsert(prepared);
        self.queue.record(self.type_id, prepared, outcome);
    }

    /// Takes out an object whose last state came with an event. Gives the version of the delete.
    pub(super) fn delete(&self, event: &WatchEvent<'_>) -> Option<ResourceVersion> {
        let prepared = event.prepare(&self.context);
        self.prepared(prepared, |prepared| self.queue.delete(self.type_id, self.table.delete(prepared)))
    }

    fn prepared(
        &self,
        prepared: Result<Prepared, ObjectError>,
        take: impl FnOnce(&Prepared),
    ) -> Option<ResourceVersion> {
        self.board.update(&self.name, |report| report.events += 1);
        match prepared {
            Ok(prepared) => {
                if self.spec.wants(&prepared.name) {
                    take(&prepared);
                }
                Some(prepared.resource_version)
            }
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    /// One bad object never stops another: it is counted, named as far as possible, and passed over.
    pub(super) fn unreadable(&self, error: &dyn Display) {
        self.board.update(&self.name, |report| {
            report.unreadable += 1;
            report.last_error = error.to_string();
        });
        tracing::warn!(r#type = self.name, %error, "passed over something unreadable");
    }
}
