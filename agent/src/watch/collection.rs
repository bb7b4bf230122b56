//! The loop of one collection: a whole type, or what of it is in one namespace.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use meshsync_crds::agent_config::SnapshotMode;
use tokio::sync::watch;

use super::board::Phase;
use super::common::Common;
use super::initial::{NotListed, list_and_watch};
use super::list::{ListTask, current_version};
use super::pages::PageSize;
use super::places::Place;
use super::resume::{Provenance, Start, Verdict, may_resume};
use super::stream::{End, Watch};
use crate::apiserver::backoff::{Backoff, LONGEST, jitter};
use crate::apiserver::request::{Reason, RequestError, Source};
use crate::object::ResourceVersion;
use crate::snapshot::Extent;

/// Shortest time between two openings of one watch: a server that ends each at once must not be asked thousands of
/// times a second. It doubles while watches end early, up to [`MAX_GAP`].
const MIN_GAP: Duration = Duration::from_secs(1);
/// See [`MIN_GAP`].
const MAX_GAP: Duration = Duration::from_secs(30);
/// Watches in a row that may end at once before what they may have hidden is looked for by a list.
const ENDS_AT_ONCE: u32 = 3;
/// Refusals in a row after which a type that was read as a whole is read in some namespaces: a server that is just starting
/// refuses for a moment.
const BELIEVED_REFUSALS: u32 = 4;
/// How often one type is asked for at most in namespaces that are refused.
const REFUSED_EVERY: Duration = Duration::from_secs(5);

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

/// See the module.
pub(super) struct Collection {
    source: Source,
    /// None where it is the whole type.
    namespace: Option<String>,
    retry: watch::Receiver<u64>,
    list_wanted: watch::Receiver<u64>,
    backoff: Backoff,
    /// That of a namespace that is refused while others may be read.
    refused_backoff: Backoff,
    /// Refusals in a row.
    refusals: u32,
    /// Where the watch goes on; none if a list is needed.
    start: Option<Start>,
    /// Whether there was a complete list, or its like from the broker.
    is_listed: bool,
    next_list: NextList,
    /// Whether the server tells of this collection that it has nothing to tell.
    sends_bookmarks: bool,
    /// Watches in a row that ended long before their time.
    early_ends: u32,
    /// Those of them that brought nothing.
    ends_at_once: u32,
    /// Since when a list or a watch is under way that has not succeeded; none while the watch is open.
    trying_since: Option<Timestamp>,
    /// The failure that the log has already.
    logged: String,
}

impl Collection {
    /// A whole type.
    pub(super) fn whole(common: &Common) -> Self {
        Self::new(common, Source::of(common.spec()), None, Backoff::default())
    }

    /// What of a type is in one of `count` namespaces.
    pub(super) fn in_namespace(common: &Common, namespace: &str, count: usize) -> Self {
        // Rights in many namespaces may be missing for many types.
        let longest = REFUSED_EVERY.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).max(LONGEST);
        let source = Source::in_namespace(common.spec(), namespace);
        Self::new(common, source, Some(namespace.to_owned()), Backoff::up_to(longest))
    }

    fn new(common: &Common, source: Source, namespace: Option<String>, refused_backoff: Backoff) -> Self {
        Self {
            source,
            namespace,
            retry: common.shared.retry.clone(),
            list_wanted: common.list_wanted.subscribe(),
            backoff: Backoff::default(),
            refused_backoff,
            refusals: 0,
            start: None,
            is_listed: false,
            next_list: NextList::default(),
            sends_bookmarks: false,
            early_ends: 0,
            ends_at_once: 0,
            trying_since: None,
            logged: String::new(),
        }
    }

    /// Whether there was a complete list.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Lists anew when it is begun again.
    pub(super) fn set_listed(&mut self, is_listed: bool) {
        self.is_listed = is_listed;
        self.start = None;
        self.refusals = 0;
    }

    /// Begins where an earlier process left off, if what it stored was read back.
    pub(super) fn go_on_from_checkpoint(&mut self, common: &Common) {
        let sink = &common.sink;
        let Some(version) = common.shared.progress.take_checkpoint(&sink.key, sink.fingerprint) else { return };
        tracing::debug!(r#type = sink.name, %version, objects = sink.table.len(), "going on from a checkpoint");
        self.start = Some(Start::new(version, Provenance::Checkpoint));
    }

    /// Keeps the snapshot equal to the collection until it is refused as a whole and there is another way to read the type.
    pub(super) async fn follow(&mut self, common: &Common) -> RequestError {
        loop {
            let opened = Instant::now();
            match self.once(common).await {
                Ok(()) => {
                    let gap = MIN_GAP.saturating_mul(1 << self.early_ends.saturating_sub(1).min(5)).min(MAX_GAP);
                    tokio::time::sleep(gap.saturating_sub(opened.elapsed())).await;
                }
                Err(error) if self.gives_way(common, &error) => return error,
                Err(error) => self.recover(common, error).await,
            }
        }
    }

    /// Whether the type is to be read in some namespaces from now on. One that was never read has nothing to lose by that.
    fn gives_way(&mut self, common: &Common, error: &RequestError) -> bool {
        self.refusals = if error.is_forbidden() { self.refusals + 1 } else { 0 };
        let is_believed = self.refusals >= BELIEVED_REFUSALS || (self.refusals > 0 && self.start.is_none());
        self.namespace.is_none() && is_believed && common.fallback.is_some()
    }

    /// A list if one is needed, then one watch to its end, or until somebody wants a list.
    async fn once(&mut self, common: &Common) -> Result<(), RequestError> {
        self.trying_since = Some(Timestamp::now());
        let (mut start, watch) = match self.may_resume(common).await? {
            Some(start) => (start, None),
            None => self.list(common).await?,
        };
        let (shared, sink) = (&common.shared, &common.sink);
        let mut watch = match watch {
            Some(watch) => watch,
            None => Watch::open(&shared.client, &self.source, sink, &start).await?,
        };
        self.is_live(common, &start);
        let is_whole = self.namespace.is_none();
        let advanced = |start: &Start| common.advance(is_whole, start);
        let end = tokio::select! {
            end = watch.follow(sink, &mut start, &mut self.sends_bookmarks, advanced) => end,
            Ok(()) = self.list_wanted.changed() => {
                tracing::debug!(r#type = sink.name, "listing again: objects are to be sent that are not held");
                self.start = None;
                return Ok(());
            }
        };
        self.start = Some(start);
        self.ended(common, end?)
    }

    /// From where the watch may go on; none if a list is needed.
    async fn may_resume(&mut self, common: &Common) -> Result<Option<Start>, RequestError> {
        let Some(start) = &mut self.start else { return Ok(None) };
        let mut verdict = may_resume(start, None);
        if verdict == Verdict::AskServer {
            let server = current_version(&common.shared.client, &self.source).await?;
            verdict = may_resume(start, Some(&server));
        }
        match verdict {
            Verdict::Relist(Reason::NoVersion) => {
                tracing::debug!(r#type = common.sink.name, "listing again: {}", Reason::NoVersion);
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
    fn is_live(&mut self, common: &Common, start: &Start) {
        if start.provenance == Provenance::Checkpoint {
            // What was read back is all that there was; the rest comes with the watch.
            common.sink.table.resume();
        }
        self.trying_since = None;
        self.is_listed = true;
        common.standing.live(self.namespace.as_deref());
        self.backoff.healthy(Instant::now());
        self.refused_backoff.healthy(Instant::now());
        self.refusals = 0;
        self.logged.clear();
    }

    /// Judges how a watch ended.
    fn ended(&mut self, common: &Common, end: End) -> Result<(), RequestError> {
        let (early, at_once) = match end {
            End::Done { early } => (early, false),
            End::AtOnce => (true, true),
            End::Overdue => {
                let name = &common.sink.name;
                tracing::debug!(r#type = name, "the server did not end the watch in time; opening a new one");
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
    async fn list(&mut self, common: &Common) -> Result<(Start, Option<Watch>), RequestError> {
        // A type has one re-list at a time; other collections of it wait for theirs.
        let _turn = common.listing.lock().await;
        let sink = &common.sink;
        // Watches all run at once.
        let mut place = common.shared.places.take(sink.mode(), self.next_list.failed).await;
        sink.board.update(&sink.name, |report| report.lists += 1);
        self.next_list.failed = true;
        let seen = common.seen();
        let streamed = if self.may_stream(common) { self.list_by_stream(common, &seen).await? } else { None };
        let (version, watch) = match streamed {
            Some((watch, version)) => (version, Some(watch)),
            None => (self.list_by_pages(common, &mut place, &seen).await?, None),
        };
        self.next_list.failed = false;
        self.is_listed = true;
        common.standing.listed(self.namespace.as_deref());
        let start = Start::new(version, Provenance::List);
        self.start = Some(start.clone());
        common.advance(self.namespace.is_none(), &start);
        Ok((start, watch))
    }

    /// What of the type is in this collection.
    fn extent(&self, common: &Common) -> Extent {
        match &self.namespace {
            Some(namespace) => Extent::namespace(namespace, &common.spec().namespaces),
            None => Extent::All,
        }
    }

    async fn list_by_pages(
        &mut self,
        common: &Common,
        place: &mut Place<'_>,
        seen: &ResourceVersion,
    ) -> Result<ResourceVersion, RequestError> {
        let (client, sink) = (&common.shared.client, &common.sink);
        let mode = sink.mode();
        let size = match &self.next_list {
            NextList { broke_off: true, .. } => PageSize::small(mode),
            // Bodies that wait to be published would gather.
            NextList { was_renewed: true, .. } if mode == SnapshotMode::Full => PageSize::WHOLE,
            NextList { .. } => PageSize::of(mode),
        };
        let extent = self.extent(common);
        let mut task = ListTask { client, source: &self.source, sink, place, extent, is_renewed: false };
        let listed = task.run(size, seen).await;
        self.next_list.was_renewed = task.is_renewed;
        self.next_list.broke_off = matches!(listed, Err(RequestError::Transient(_)));
        listed
    }

    /// A watch must be read as fast as it comes, or its server ends it. Where bodies are held until they are published, a
    /// list must be able to wait. Namespaces are listed one after another, and watched only then.
    fn may_stream(&self, common: &Common) -> bool {
        let may_wait = self.next_list.broke_off || self.namespace.is_some();
        common.sink.mode() == SnapshotMode::Full && !may_wait && common.shared.streaming.is_worth_asking(&self.source)
    }

    /// None where the server does not serve it, which is no failure, and where it is older than what was `seen`: what it says
    /// then is taken in by pages, which may replace newer states.
    async fn list_by_stream(
        &mut self,
        common: &Common,
        seen: &ResourceVersion,
    ) -> Result<Option<(Watch, ResourceVersion)>, RequestError> {
        let shared = &common.shared;
        match list_and_watch(&shared.streaming, &shared.client, &self.source, &common.sink).await {
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

    async fn recover(&mut self, common: &Common, error: RequestError) {
        let phase = self.phase_after(common, &error);
        let since = self.trying_since.unwrap_or_else(Timestamp::now);
        let retry_after = match error {
            RequestError::Unavailable { retry_after, .. } => retry_after,
            _ => None,
        };
        let delay = match &error {
            RequestError::Relist(reason) if reason.is_cured_by_a_list() => {
                self.backoff.expired(Instant::now(), jitter())
            }
            error if error.is_forbidden() && self.namespace.is_some() => {
                self.refused_backoff.failed(Instant::now(), None, jitter())
            }
            _ => self.backoff.failed(Instant::now(), retry_after, jitter()),
        };
        common.standing.failed(self.namespace.as_deref(), since, &error, phase);
        self.log(common, &error, delay);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            Ok(()) = self.retry.changed() => {
                self.backoff.reset();
                self.refused_backoff.reset();
            }
        }
    }

    /// What repeats is no news: a type that is refused is asked for for ever.
    fn log(&mut self, common: &Common, error: &RequestError, retry_in: Duration) {
        let (name, namespace, text) = (&common.sink.name, self.namespace.as_deref(), error.to_string());
        // That a namespace is refused was said when the type came to be read in namespaces.
        let is_known = text == self.logged || (namespace.is_some() && error.is_forbidden());
        if is_known {
            tracing::debug!(r#type = name, namespace, %error, ?retry_in, "listing or watching failed as before");
        } else {
            tracing::warn!(r#type = name, namespace, %error, ?retry_in, "listing or watching failed");
        }
        self.logged = text;
    }

    /// Draws the consequences of a failure.
    fn phase_after(&mut self, common: &Common, error: &RequestError) -> Phase {
        match error {
            RequestError::Relist(reason) => {
                self.start = None;
                if matches!(reason, Reason::WatchRefused { .. }) {
                    // A version that is not taken must not outlive this process.
                    common.shared.progress.forget(common.sink.type_id);
                }
            }
            RequestError::Refused { .. } => return Phase::Refused,
            RequestError::Gone(_) => {
                common.shared.rediscover.notify_one();
                return Phase::Gone;
            }
            RequestError::Invalid { .. } => {}
            RequestError::Unavailable { .. } | RequestError::Transient(_) => self.doubt(),
        }
        if self.is_listed { Phase::Behind } else { Phase::Pending }
    }
}
