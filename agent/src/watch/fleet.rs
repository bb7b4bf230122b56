//! All loops together: starts, leaves alone and stops them as the plan changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kube::Client;
use meshsync_crds::discovery::ServedType;
use meshsync_runtime::readiness::{Gate, Readiness};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Phase};
use super::common::Shared;
use super::initial::Streaming;
use super::intake::Sink;
use super::places::ListPlaces;
use super::standing::gate_name;
use super::successor::Successor;
use super::type_loop::run;
use crate::outbox::Outbox;
use crate::plan::Served;
use crate::plan::WatchSpec;
use crate::snapshot::{Store, TypeId};
use crate::stream::Progress;

/// Wait before a loop that panicked begins again.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// What the loops need from outside.
pub struct FleetDeps {
    /// Client without retries of its own.
    pub client: Client,
    /// Where objects are kept.
    pub store: Arc<Store>,
    /// Where changes wait for the broker.
    pub queue: Arc<Outbox>,
    /// Where the loops report.
    pub board: Arc<Board>,
    /// Gates of the types whose first list is not complete.
    pub readiness: Readiness,
    /// Changes when rights may have.
    pub retry: watch::Receiver<u64>,
    /// Told when the server does not know a type any more.
    pub rediscover: Arc<Notify>,
    /// Told when a plan can be followed further than it could.
    pub replan: Arc<Notify>,
    /// How far each watch is, and where it may begin.
    pub progress: Arc<Progress>,
    /// Whether to list by watches that begin with everything there is, where the server serves them.
    pub streamed_lists: bool,
}

/// The loops that run.
pub struct Fleet {
    deps: FleetDeps,
    shared: Arc<Shared>,
    running: BTreeMap<String, Running>,
    /// Whether there was a plan before.
    is_applied: bool,
    /// Versions of types that are to take the place of those that run, while it is found out whether they can be listed.
    successors: BTreeMap<String, Successor>,
}

struct Running {
    spec: WatchSpec,
    type_id: TypeId,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What [`Fleet::apply`] did, by type name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Loops that are new.
    pub started: Vec<String>,
    /// Loops that run differently from now on; their objects stay.
    pub restarted: Vec<String>,
    /// Loops that ended; their objects left.
    pub stopped: Vec<String>,
    /// Objects that left with them.
    pub removed: usize,
}

impl Fleet {
    /// A fleet without loops.
    #[must_use]
    pub fn new(deps: FleetDeps) -> Self {
        let shared = Arc::new(Shared {
            client: deps.client.clone(),
            places: ListPlaces::default(),
            streaming: Streaming::new(deps.streamed_lists),
            retry: deps.retry.clone(),
            rediscover: Arc::clone(&deps.rediscover),
            progress: Arc::clone(&deps.progress),
            readiness: deps.readiness.clone(),
            is_narrowed: AtomicBool::new(false),
        });
        Self { deps, shared, running: BTreeMap::new(), is_applied: false, successors: BTreeMap::new() }
    }

    /// Makes the loops be those of `plan`. Loops whose watch would be the same are not touched. A loop of a version that is
    /// `served` still goes on until its successor can be listed.
    pub async fn apply(&mut self, plan: Vec<WatchSpec>, discovery: &Served) -> Applied {
        let wanted: BTreeMap<String, WatchSpec> =
            plan.into_iter().map(|spec| (spec.selected.served.name(), spec)).collect();
        let mut applied = Applied::default();
        self.successors.retain(|name, successor| wanted.get(name).is_some_and(|spec| successor.is_for(spec)));
        let leaving: Vec<String> = self.running.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in leaving {
            applied.removed += self.drop_type(&name).await;
            applied.stopped.push(name);
        }
        for spec in in_list_order(wanted.into_values().collect()) {
            let name = spec.selected.served.name();
            let Some(running) = self.running.get(&name) else {
                self.start(spec);
                applied.started.push(name);
                continue;
            };
            if running.spec.is_same_watch(&spec) {
                self.successors.remove(&name);
                continue;
            }
            // Another version is another type to consumers: its key holds the apiVersion.
            if running.spec.selected.served.version == spec.selected.served.version {
                if let Some(running) = self.running.remove(&name) {
                    running.end().await;
                }
            } else if self.may_succeed(&name, &spec, &discovery.discovered.types) {
                applied.removed += self.drop_type(&name).await;
            } else {
                continue;
            }
            self.start(spec);
            applied.restarted.push(name);
        }
        applied.removed += self.drop_unwatched(discovery);
        self.is_applied = true;
        applied
    }

    /// Drops what was read back from the stream of types that are not watched, unless they may be there all the same.
    fn drop_unwatched(&self, discovery: &Served) -> usize {
        let watched: BTreeSet<TypeId> = self.running.values().map(|running| running.type_id).collect();
        let unwatched = self.deps.store.tables().into_iter().filter(|(type_id, ..)| !watched.contains(type_id));
        let gone = unwatched.filter(|(_, served, _)| !discovery.is_in_doubt(served));
        gone.map(|(type_id, ..)| self.drop_table(type_id)).sum()
    }

    /// Whether `spec` may take the place of another version: what that one holds is deleted then, so its successor must be
    /// one that can be listed, unless there is no way back.
    fn may_succeed(&mut self, name: &str, spec: &WatchSpec, served: &[ServedType]) -> bool {
        let Some(running) = self.running.get(name) else { return true };
        let is_served = served
            .iter()
            .any(|t| t.is_watchable() && t.name() == name && t.version == running.spec.selected.served.version);
        if !is_served {
            return true;
        }
        let Self { deps, successors, .. } = self;
        let begin = || Successor::new(deps.client.clone(), spec.clone(), deps.board.clone(), deps.replan.clone());
        successors.entry(name.to_owned()).or_insert_with(begin).is_listed()
    }

    /// Ends every loop; the snapshot stays.
    pub async fn stop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.end().await;
        }
    }

    fn start(&mut self, spec: WatchSpec) {
        let served = &spec.selected.served;
        let name = served.name();
        let (type_id, table) = self.deps.store.open(served);
        table.set_mode(spec.mode);
        self.deps.board.set_phase(&name, Phase::Pending);
        let (queue, board) = (Arc::clone(&self.deps.queue), Arc::clone(&self.deps.board));
        let (watched, reports) = (spec.clone(), Arc::clone(&board));
        let sink = move || Sink::new(&watched, (type_id, table.clone()), queue.clone(), board.clone());
        let (readiness, reason) = (&self.deps.readiness, "the first list is not complete");
        // An agent that is ready stays so when a type is added: its list may take long, and what it lists may be broken.
        let gate = if readiness.is_ready() && self.is_applied {
            readiness.gate_waived(gate_name(&name), reason)
        } else {
            readiness.gate(gate_name(&name), reason)
        };
        let stop = CancellationToken::new();
        let (watched, shared, ended) = (spec.clone(), Arc::clone(&self.shared), stop.clone());
        let begin = move |gate| run(watched.clone(), sink(), shared.clone(), gate, ended.clone());
        let task = tokio::spawn(survive(name.clone(), reports, stop.clone(), gate, begin));
        self.running.insert(name, Running { spec, type_id, stop, task });
    }

    /// Ends a loop and tells consumers that its objects are gone; gives their number.
    async fn drop_type(&mut self, name: &str) -> usize {
        self.successors.remove(name);
        let Some(running) = self.running.remove(name) else { return 0 };
        let type_id = running.type_id;
        running.end().await;
        self.deps.board.remove(name);
        self.deps.progress.forget(type_id);
        self.drop_table(type_id)
    }

    fn drop_table(&self, type_id: TypeId) -> usize {
        let removed = self.deps.store.drop_type(type_id);
        let count = removed.len();
        self.deps.queue.delete(type_id, removed);
        count
    }
}

/// Runs the loop of a type; one that panics is begun again, with a new list. Neither does it take the other types with
/// it, nor does its type stand still unseen.
async fn survive<L>(
    name: String,
    board: Arc<Board>,
    stop: CancellationToken,
    gate: Gate,
    begin: impl Fn(Option<Gate>) -> L,
) where
    L: Future<Output = ()> + Send + 'static,
{
    let mut gate = Some(gate);
    while let Err(error) = tokio::spawn(begin(gate.take())).await {
        tracing::error!(r#type = name, %error, retry_in = ?AFTER_PANIC, "the loop of a type died; this is a bug");
        let _ = board.failed(&name, jiff::Timestamp::now(), "Panicked", &error.to_string());
        board.set_phase(&name, Phase::Behind);
        tokio::select! {
            () = tokio::time::sleep(AFTER_PANIC) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(r#type = self.spec.selected.served.name(), %error, "the loop of a type died");
        }
    }
}

/// Cluster-scoped and small types first, what there are most of last: a consumer sees what exists before it sees all
/// of it. Nodes and namespaces are what everything else refers to.
fn in_list_order(mut specs: Vec<WatchSpec>) -> Vec<WatchSpec> {
    specs.sort_by_key(|spec| {
        let served = &spec.selected.served;
        match (served.group.as_str(), served.plural.as_str()) {
            ("", "namespaces" | "nodes") => 0,
            _ if !served.namespaced => 1,
            ("", "pods") | ("events.k8s.io", _) => 5,
            ("apps", "replicasets") | ("", "secrets" | "configmaps" | "events") => 4,
            ("discovery.k8s.io", _) => 3,
            _ => 2,
        }
    });
    specs
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_begun_again_and_seen() {
        let board = Arc::new(Board::default());
        let begun = Arc::new(AtomicU32::new(0));
        let counted = begun.clone();
        let gate = Readiness::default().gate("type/pods", "closed");
        let begin = move |gate: Option<Gate>| {
            let count = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_eq!(gate.is_some(), count == 0, "readiness does not wait a second time");
                assert!(count >= 2, "a bug");
            }
        };
        survive("pods".to_owned(), board.clone(), CancellationToken::new(), gate, begin).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        let report = board.snapshot().remove("pods").unwrap();
        assert_eq!((report.phase, report.failures), (Phase::Behind, 2));
    }
}
