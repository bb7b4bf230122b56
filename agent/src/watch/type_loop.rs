//! The loop of one type.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use meshsync_crds::agent_config::SnapshotMode;
use meshsync_runtime::readiness::{Gate, Readiness};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::board::Phase;
use super::initial::{NotListed, Streaming, list_and_watch};
use super::intake::Sink;
use super::list::{ListTask, current_version};
use super::pace::{Pace, jitter};
use super::pages::PageSize;
use super::places::{ListPlaces, Place};
use super::request::{Reason, RequestError, Source};
use super::resume::{Provenance, Start, Verdict, may_resume};
use super::spec::WatchSpec;
use super::stream::{End, Watch};
use crate::object::ResourceVersion;
use crate::stream::Progress;

/// Shortest time between two openings of one watch: a server that ends each at once must not be asked thousands of
/// times a second. It doubles while watches end early, up to [`MAX_GAP`].
const MIN_GAP: Duration = Duration::from_secs(1);
/// See [`MIN_GAP`].
const MAX_GAP: Duration = Duration::from_secs(30);
/// Watches in a row that may end at once before what they may have hidden is looked for by a list.
const ENDS_AT_ONCE: u32 = 3;
/// How long a type that fails holds up readiness.
const GATES_FOR: Duration = Duration::from_secs(30);

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
}

/// Name of the gate of a type.
pub(super) fn gate_name(name: &str) -> String {
    format!("type/{name}")
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
        start: None,
        is_listed: false,
        next_list: NextList::default(),
        sends_bookmarks: false,
        early_ends: 0,
        ends_at_once: 0,
        trying_since: None,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = this.forever() => {}
    }
}

/// What the last list was like decides how the next one is read.
#[derive(Default)]
struct NextList {
    /// The last one failed.
    failed: bool,
    /// It did not reach its end. The next one is read in small pages, which get done however slow they come: a stream or a
    /// page that its server ends for being too slow would be ended again.
    broke_off: bool,
    /// Its server forgot its state before the end. If no watch can begin from it, pages would bring another one of that kind.
    was_renewed: bool,
}

struct TypeLoop {
    source: Source,
    sink: Sink,
    shared: Arc<Shared>,
    /// Holds up readiness until the first list is complete or has failed for long; then it shows what fails.
    gate: Option<Gate>,
    retry: watch::Receiver<u64>,
    pace: Pace,
    /// Where the watch goes on; none if a list is needed.
    start: Option<Start>,
    /// Whether there was a complete list, or its like from the broker.
    is_listed: bool,
    next_list: NextList,
    /// Whether the server tells of this type that it has nothing to tell.
    sends_bookmarks: bool,
    /// Watches in a row that ended long before their time.
    early_ends: u32,
    /// Those of them that brought nothing.
    ends_at_once: u32,
    /// Since when a list or a watch is under way that has not succeeded; none while the watch is open.
    trying_since: Option<Timestamp>,
}

impl TypeLoop {
    async fn forever(&mut self) {
        self.shared.progress.begin().await;
        self.go_on_from_checkpoint();
        loop {
            let opened = Instant::now();
            match self.once().await {
                Ok(()) => {
                    let gap = MIN_GAP.saturating_mul(1 << self.early_ends.saturating_sub(1).min(5)).min(MAX_GAP);
                    tokio::time::sleep(gap.saturating_sub(opened.elapsed())).await;
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
        self.start = Some(Start::new(version, Provenance::Checkpoint));
    }

    /// A list if one is needed, then one watch to its end, or until somebody wants a list.
    async fn once(&mut self) -> Result<(), RequestError> {
        self.trying_since = Some(Timestamp::now());
        let (mut start, watch) = match self.may_resume().await? {
            Some(start) => (start, None),
            None => self.list().await?,
        };
        let mut watch = match watch {
            Some(watch) => watch,
            None => Watch::open(&self.shared.client, &self.source, &self.sink, &start).await?,
        };
        self.is_live(&start);
        let Self { shared, sink, sends_bookmarks, .. } = self;
        let advanced = |start: &Start| {
            if start.has_version() {
                shared.progress.advance(sink.type_id, sink.position(&start.version));
            }
        };
        let end = tokio::select! {
            end = watch.follow(sink, &mut start, sends_bookmarks, advanced) => end,
            () = sink.table.list_wanted() => {
                tracing::debug!(r#type = sink.name, "listing again: objects are to be sent that are not held");
                self.start = None;
                return Ok(());
            }
        };
        self.start = Some(start);
        self.ended(end?)
    }

    /// From where the watch may go on; none if a list is needed.
    async fn may_resume(&mut self) -> Result<Option<Start>, RequestError> {
        let Some(start) = &mut self.start else { return Ok(None) };
        let mut verdict = may_resume(start, None);
        if verdict == Verdict::AskServer {
            let server = current_version(&self.shared.client, &self.source).await?;
            verdict = may_resume(start, Some(&server));
        }
        match verdict {
            Verdict::Relist(Reason::NoVersion) => {
                tracing::debug!(r#type = self.sink.name, "listing again: {}", Reason::NoVersion);
                Ok(None)
            }
            Verdict::Relist(reason) => Err(RequestError::Relist(reason)),
            Verdict::Resume | Verdict::AskServer => {
                start.is_in_doubt = false;
                Ok(Some(start.clone()))
            }
        }
    }

    /// The watch is open.
    fn is_live(&mut self, start: &Start) {
        if start.provenance == Provenance::Checkpoint {
            // What was read back is all that there was; the rest comes with the watch.
            self.sink.table.resume();
        }
        self.trying_since = None;
        self.is_listed = true;
        self.open_gate();
        self.sink.board.set_phase(&self.sink.name, Phase::Live);
        self.pace.healthy(Instant::now());
    }

    fn open_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
    }

    /// Judges how a watch ended.
    fn ended(&mut self, end: End) -> Result<(), RequestError> {
        let (early, at_once) = match end {
            End::Done { early } => (early, false),
            End::AtOnce => (true, true),
            End::Overdue => {
                tracing::debug!(r#type = self.sink.name, "the server did not end the watch in time; opening a new one");
                self.doubt();
                (false, false)
            }
        };
        self.early_ends = if early { self.early_ends + 1 } else { 0 };
        self.ends_at_once = if at_once { self.ends_at_once + 1 } else { 0 };
        match self.ends_at_once {
            0 => Ok(()),
            count if count % ENDS_AT_ONCE == 0 => Err(RequestError::Relist(Reason::EndsAtOnce(count))),
            _ => Err(RequestError::Transient("the watch was ended at once, and nothing had come".to_owned())),
        }
    }

    /// The server may be another one from now on.
    fn doubt(&mut self) {
        if let Some(start) = &mut self.start {
            start.is_in_doubt = true;
        }
    }

    /// Reads everything; gives where the watch goes on from, and the watch if it is open already.
    async fn list(&mut self) -> Result<(Start, Option<Watch>), RequestError> {
        let shared = Arc::clone(&self.shared);
        // Watches all run at once.
        let mut place = shared.places.take(self.sink.mode(), self.next_list.failed).await;
        self.sink.board.update(&self.sink.name, |report| report.lists += 1);
        self.next_list.failed = true;
        let seen = self.seen();
        let streamed = if self.may_stream() { self.list_by_stream(&seen).await? } else { None };
        let (version, watch) = match streamed {
            Some((watch, version)) => (version, Some(watch)),
            None => (self.list_by_pages(&mut place, &seen).await?, None),
        };
        self.next_list.failed = false;
        self.is_listed = true;
        self.open_gate();
        let start = Start::new(version, Provenance::List);
        self.start = Some(start.clone());
        if start.has_version() {
            self.shared.progress.advance(self.sink.type_id, self.sink.position(&start.version));
        }
        Ok((start, watch))
    }

    /// The newest version of the type that anybody saw, an earlier process included: a list that is older is one of a server
    /// that was restored from a backup.
    fn seen(&self) -> ResourceVersion {
        let held = self.sink.table.newest_version();
        match self.shared.progress.position(self.sink.type_id) {
            Some(position) if !position.version.is_older_than(&held) => position.version,
            _ => held,
        }
    }

    async fn list_by_pages(
        &mut self,
        place: &mut Place<'_>,
        seen: &ResourceVersion,
    ) -> Result<ResourceVersion, RequestError> {
        let mode = self.sink.mode();
        let size = match &self.next_list {
            NextList { broke_off: true, .. } => PageSize::small(mode),
            // Bodies that wait to be published would gather.
            NextList { was_renewed: true, .. } if mode == SnapshotMode::Full => PageSize::WHOLE,
            NextList { .. } => PageSize::of(mode),
        };
        let mut task =
            ListTask { client: &self.shared.client, source: &self.source, sink: &self.sink, place, is_renewed: false };
        let listed = task.run(size, seen).await;
        self.next_list.was_renewed = task.is_renewed;
        self.next_list.broke_off = matches!(listed, Err(RequestError::Transient(_)));
        listed
    }

    /// A watch must be read as fast as it comes, or its server ends it. Where bodies are held until they are published, a
    /// list must be able to wait.
    fn may_stream(&self) -> bool {
        let is_slow = self.next_list.broke_off;
        self.sink.mode() == SnapshotMode::Full && !is_slow && self.shared.streaming.is_worth_asking(&self.source)
    }

    /// None where the server does not serve it, which is no failure, and where it is older than what was `seen`: what it says
    /// then is taken in by pages, which may replace newer states.
    async fn list_by_stream(
        &mut self,
        seen: &ResourceVersion,
    ) -> Result<Option<(Watch, ResourceVersion)>, RequestError> {
        let Self { shared, source, sink, .. } = self;
        match list_and_watch(&shared.streaming, &shared.client, source, sink).await {
            Ok((_, version)) if version.is_older_than(seen) => Ok(None),
            Ok(listed) => Ok(Some(listed)),
            Err(NotListed::NotServed) => Ok(None),
            Err(NotListed::NotBegun(error)) => Err(error),
            Err(NotListed::BrokeOff(error)) => {
                self.next_list.broke_off = true;
                Err(error)
            }
        }
    }

    async fn recover(&mut self, error: RequestError) {
        let phase = self.phase_after(&error);
        let name = self.sink.name.clone();
        let name = name.as_str();
        let since = self.trying_since.unwrap_or_else(Timestamp::now);
        let failing_for = self.sink.board.failed(name, since, error.word(), &error.to_string());
        self.sink.board.set_phase(name, phase);
        self.show_at_gate(&error, phase, failing_for);
        let retry_after = match error {
            RequestError::Unavailable { retry_after, .. } => retry_after,
            _ => None,
        };
        let delay = match &error {
            RequestError::Relist(reason) if reason.is_cured_by_a_list() => self.pace.expired(Instant::now(), jitter()),
            _ => self.pace.failed(Instant::now(), retry_after, jitter()),
        };
        tracing::warn!(r#type = name, %error, retry_in = ?delay, "listing or watching failed");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            Ok(()) = self.retry.changed() => self.pace.reset(),
        }
    }

    /// Draws the consequences of a failure.
    fn phase_after(&mut self, error: &RequestError) -> Phase {
        match error {
            RequestError::Relist(reason) => {
                self.start = None;
                if matches!(reason, Reason::WatchRefused { .. }) {
                    // A version that is not taken must not outlive this process.
                    self.shared.progress.forget(self.sink.type_id);
                }
            }
            RequestError::Refused { .. } => return Phase::Refused,
            RequestError::Gone(_) => {
                self.shared.rediscover.notify_one();
                return Phase::Gone;
            }
            RequestError::Invalid { .. } => {}
            RequestError::Unavailable { .. } | RequestError::Transient(_) => self.doubt(),
        }
        if self.is_listed { Phase::Behind } else { Phase::Pending }
    }

    /// What fails is seen at `/readyz`, and does not keep everything else from being ready for ever.
    fn show_at_gate(&mut self, error: &RequestError, phase: Phase, failing_for: Duration) {
        let reason = error.to_string();
        let gate = self
            .gate
            .get_or_insert_with(|| self.shared.readiness.gate_waived(gate_name(&self.sink.name), reason.clone()));
        gate.close(reason);
        match phase {
            Phase::Pending => gate.waive_after(GATES_FOR.saturating_sub(failing_for)),
            Phase::Live | Phase::Behind | Phase::Refused | Phase::Gone => gate.waive_after(Duration::ZERO),
        }
    }
}
