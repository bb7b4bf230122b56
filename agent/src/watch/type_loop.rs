//! The loop of one type.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use meshsync_crds::agent_config::SnapshotMode;
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::board::{Board, Phase};
use super::initial::{NotListed, Streaming, list_and_watch};
use super::list::{PageSize, current_version, list};
use super::pace::{Pace, jitter};
use super::request::{RequestError, Source};
use super::spec::WatchSpec;
use super::stream::Watch;
use crate::object::{ObjectError, Outline, Prepared, ResourceVersion, TypeContext, WatchEvent, prepare_outline};
use crate::publish::queue::Queue;
use crate::snapshot::{Table, TypeId};
use crate::stream::{Position, Progress, TypeKey};

/// Shortest time between two openings of one watch: a server that ends each at once must not be asked thousands of
/// times a second.
const MIN_GAP: Duration = Duration::from_secs(1);

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
    pub(super) queue: Arc<Queue>,
    pub(super) board: Arc<Board>,
    key: TypeKey,
    fingerprint: u64,
    context: TypeContext,
    spec: WatchSpec,
}

impl Sink {
    pub(super) fn new(
        spec: &WatchSpec,
        (type_id, table): (TypeId, Arc<Table>),
        queue: Arc<Queue>,
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

    fn position(&self, version: &ResourceVersion) -> Position {
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

impl From<ObjectError> for RequestError {
    fn from(error: ObjectError) -> Self {
        Self::transient(&error)
    }
}

/// Places that a list takes. Where only hashes are kept, what lists bring is a good part of all memory: fewer run at a time.
pub(super) fn places(mode: SnapshotMode) -> u32 {
    match mode {
        SnapshotMode::Full => 2,
        SnapshotMode::HashOnly => 3,
    }
}

/// What all loops share.
pub(super) struct Shared {
    pub(super) client: Client,
    /// Places for lists that run at the same time; see [`places`].
    pub(super) first_lists: Semaphore,
    /// What is listed by a stream.
    pub(super) streaming: Streaming,
    /// Changes when rights may have: refused types are tried again at once.
    pub(super) retry: watch::Receiver<u64>,
    /// Told when the server does not know a type any more.
    pub(super) rediscover: Arc<Notify>,
    /// How far each watch is, and where it may begin.
    pub(super) progress: Arc<Progress>,
}

/// Runs until `stop`. `gate` opens when the first list is complete.
pub(super) async fn run(spec: WatchSpec, sink: Sink, shared: Arc<Shared>, gate: Option<Gate>, stop: CancellationToken) {
    let mut this = TypeLoop {
        source: Source::of(&spec),
        retry: shared.retry.clone(),
        sink,
        shared,
        gate,
        pace: Pace::default(),
        version: None,
        broke_off: false,
        is_in_doubt: false,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = this.forever() => {}
    }
}

struct TypeLoop {
    source: Source,
    sink: Sink,
    shared: Arc<Shared>,
    /// Dropped once open or refused: from then on the type does not hold up readiness.
    gate: Option<Gate>,
    retry: watch::Receiver<u64>,
    pace: Pace,
    /// Where the watch goes on; none if a list is needed.
    version: Option<ResourceVersion>,
    /// Whether the last list did not reach its end. The next one is read in small pages, which get done however slow they
    /// come: a stream or a page that its server ends for being too slow would be ended again.
    broke_off: bool,
    /// Whether the server may be another one than before: one whose storage was restored from a backup.
    is_in_doubt: bool,
}

impl TypeLoop {
    async fn forever(&mut self) {
        self.shared.progress.begin().await;
        self.go_on_from_checkpoint();
        loop {
            let opened = Instant::now();
            match self.once().await {
                Ok(()) => {
                    let gap = MIN_GAP.saturating_sub(opened.elapsed());
                    tokio::time::sleep(gap).await;
                }
                Err(error) => self.recover(error).await,
            }
        }
    }

    /// Begins where an earlier process left off, if what it stored was read back.
    fn go_on_from_checkpoint(&mut self) {
        let Sink { key, fingerprint, table, name, .. } = &self.sink;
        let Some(version) = self.shared.progress.take_checkpoint(key, *fingerprint) else { return };
        tracing::debug!(r#type = name, %version, objects = table.len(), "going on from a checkpoint");
        table.resume();
        self.version = Some(version);
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
    }

    /// A list if one is needed, then one watch to its end, or until somebody wants a list.
    async fn once(&mut self) -> Result<(), RequestError> {
        let (mut version, watch) = match self.version.clone() {
            Some(version) => {
                self.check_server(&version).await?;
                (version, None)
            }
            None => self.list().await?,
        };
        self.sink.board.set_phase(&self.sink.name, Phase::Live);
        self.pace.healthy(Instant::now());
        let Self { shared, source, sink, .. } = self;
        shared.progress.advance(sink.type_id, sink.position(&version));
        let advanced = |version: &ResourceVersion| shared.progress.advance(sink.type_id, sink.position(version));
        let follow = async {
            let mut watch = match watch {
                Some(watch) => watch,
                None => Watch::open(&shared.client, source, sink, &version).await?,
            };
            watch.follow(sink, &mut version, advanced).await
        };
        let end = tokio::select! {
            end = follow => end,
            () = sink.table.list_wanted() => {
                tracing::debug!(r#type = sink.name, "listing again: objects are to be sent that are not held");
                self.version = None;
                return Ok(());
            }
        };
        self.version = Some(version);
        end
    }

    /// After a failure: whether the server is as far as it was. A watch from a version that it has yet to reach is silent until
    /// then, and misses everything before.
    async fn check_server(&mut self, version: &ResourceVersion) -> Result<(), RequestError> {
        if self.is_in_doubt {
            let current = current_version(&self.shared.client, &self.source).await?;
            self.is_in_doubt = false;
            if current.is_older_than(version) {
                return Err(RequestError::Expired);
            }
        }
        Ok(())
    }

    /// Reads everything; gives the version that the watch goes on from, and the watch if it is open already.
    async fn list(&mut self) -> Result<(ResourceVersion, Option<Watch>), RequestError> {
        // Only the memory and load of lists is worth holding back; watches all run at once.
        let shared = Arc::clone(&self.shared);
        let permit = shared.first_lists.acquire_many(places(self.sink.mode())).await;
        self.sink.board.update(&self.sink.name, |report| report.lists += 1);
        let streamed = if self.may_stream() { self.list_by_stream().await? } else { None };
        let listed = match streamed {
            Some((watch, version)) => (version, Some(watch)),
            None => (self.list_by_pages().await?, None),
        };
        drop(permit);
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
        self.version = Some(listed.0.clone());
        Ok(listed)
    }

    async fn list_by_pages(&mut self) -> Result<ResourceVersion, RequestError> {
        let size = if self.broke_off { PageSize::small(self.sink.mode()) } else { PageSize::of(self.sink.mode()) };
        let seen = self.shared.progress.position(self.sink.type_id);
        let seen = seen.as_ref().map(|position| &position.version);
        let listed = list(&self.shared.client, self.source.clone(), &self.sink, size, seen).await;
        self.broke_off = matches!(listed, Err(RequestError::Transient { .. }));
        listed
    }

    /// A watch must be read as fast as it comes, or its server ends it. Where bodies are held until they are published, a
    /// list must be able to wait.
    fn may_stream(&self) -> bool {
        self.sink.mode() == SnapshotMode::Full && !self.broke_off && self.shared.streaming.is_worth_asking(&self.source)
    }

    /// None where the server does not serve it, which is no failure.
    async fn list_by_stream(&mut self) -> Result<Option<(Watch, ResourceVersion)>, RequestError> {
        let Self { shared, source, sink, .. } = self;
        match list_and_watch(&shared.streaming, &shared.client, source, sink).await {
            Ok(listed) => Ok(Some(listed)),
            Err(NotListed::NotServed) => Ok(None),
            Err(NotListed::NotBegun(error)) => Err(error),
            Err(NotListed::BrokeOff(error)) => {
                self.broke_off = true;
                Err(error)
            }
        }
    }

    async fn recover(&mut self, error: RequestError) {
        let name = &self.sink.name;
        let mut phase = if self.version.is_some() { Phase::Behind } else { Phase::Pending };
        let mut retry_after = None;
        match &error {
            RequestError::Expired => {
                tracing::info!(r#type = name, "the watch is too old to go on; listing again");
                self.version = None;
            }
            RequestError::Refused { .. } => {
                phase = Phase::Refused;
                // Visible in status, but it must not keep everything else from being ready.
                self.gate = None;
            }
            RequestError::Gone(_) => {
                phase = Phase::Gone;
                self.gate = None;
                self.shared.rediscover.notify_one();
            }
            RequestError::Invalid { .. } => {}
            RequestError::Transient { retry_after: asked, .. } => {
                retry_after = *asked;
                self.is_in_doubt = true;
            }
        }
        self.sink.board.failed(name, &error.to_string());
        self.sink.board.set_phase(name, phase);
        let delay = match error {
            RequestError::Expired => self.pace.expired(Instant::now(), jitter()),
            _ => self.pace.failed(Instant::now(), retry_after, jitter()),
        };
        tracing::warn!(r#type = name, %error, retry_in = ?delay, "listing or watching failed");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            Ok(()) = self.retry.changed() => self.pace.reset(),
        }
    }
}
