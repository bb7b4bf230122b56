//! Types that may be read in some namespaces only, against a scripted API server with rights.

mod server;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use meshsync_runtime::readiness::Readiness;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use self::server::{EVERYWHERE, Server};
use super::super::common::Shared;
use super::super::initial::Streaming;
use super::super::places::ListPlaces;
use super::super::type_loop::run;
use super::*;
use crate::object::Uid;
use crate::snapshot::{Restored, Stored};
use crate::stream::{Checkpoint, Progress, TypeKey};
use crate::watch::{Phase, TypeReport};

/// Lets the paused clock of a test go on, with everything that happens meanwhile. Takes no real time.
async fn time_passes(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// A loop that runs, and its server.
struct Play {
    server: Server,
    table: Arc<Table>,
    queue: Arc<Outbox>,
    board: Arc<Board>,
    readiness: Readiness,
    progress: Arc<Progress>,
    retry: watch::Sender<u64>,
    _running: AbortOnDropHandle<()>,
}

impl Play {
    /// Wants the namespaces `include`; all, if it is empty. The account's own namespace is `own`.
    fn new(server: Server, include: &[&str]) -> Self {
        Self::over(server, &wanting(include), Store::new(), Arc::default())
    }

    fn over(server: Server, spec: &WatchSpec, store: Arc<Store>, queue: Arc<Outbox>) -> Self {
        let progress = Progress::default();
        progress.done(HashMap::new());
        Self::from(progress, server, spec, store, queue)
    }

    fn from(progress: Progress, server: Server, spec: &WatchSpec, store: Arc<Store>, queue: Arc<Outbox>) -> Self {
        let (board, readiness, progress) = (Arc::new(Board::default()), Readiness::default(), Arc::new(progress));
        let (retry, retried) = watch::channel(0);
        let (type_id, table) = store.open(&spec.selected.served);
        let sink = Sink::new(spec, (type_id, table.clone()), queue.clone(), board.clone());
        let shared = Arc::new(Shared {
            client: server.client(),
            places: ListPlaces::default(),
            streaming: Streaming::new(false),
            retry: retried,
            rediscover: Arc::new(Notify::new()),
            progress: progress.clone(),
            readiness: readiness.clone(),
            is_narrowed: AtomicBool::new(false),
        });
        let gate = readiness.gate("type/configmaps", "not yet");
        let running = tokio::spawn(run(spec.clone(), sink, shared, Some(gate), CancellationToken::new()));
        let _running = AbortOnDropHandle::new(running);
        Self { server, table, queue, board, readiness, progress, retry, _running }
    }

    fn report(&self) -> TypeReport {
        self.board.report("configmaps").unwrap_or_default()
    }

    /// Phases by namespace, as `a=Live`.
    fn namespaces(&self) -> Vec<String> {
        let parts = self.report().narrowed.map(|narrowed| narrowed.namespaces).unwrap_or_default();
        parts.iter().map(|(name, part)| format!("{name}={:?}", part.phase)).collect()
    }

    fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.table.keys().iter().map(|(_, name)| name.to_string()).collect();
        names.into_iter().collect()
    }

    fn gate(&self) -> Option<(bool, String)> {
        let gates = self.readiness.report().gates;
        gates.into_iter().next().map(|gate| (gate.ready, gate.reason.unwrap_or_default()))
    }

    /// Waits until `what` holds, in the time of the test; gives how long that took.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = tokio::time::Instant::now();
        while !holds(self) {
            time_passes(Duration::from_millis(10)).await;
            assert!(
                began.elapsed() < Duration::from_secs(3600),
                "never: {what}; {:?} {:?} {:?} {:?}",
                self.namespaces(),
                self.names(),
                self.report(),
                self.server.asked()
            );
        }
        began.elapsed()
    }

    async fn until_live(&self, namespaces: &[&str]) {
        let live: Vec<String> = namespaces.iter().map(|name| format!("{name}=Live")).collect();
        let is_so = |this: &Self| this.report().phase == Phase::Live && this.namespaces() == live;
        self.until(&format!("live in {live:?}"), is_so).await;
    }

    /// What waits for consumers, as far as it can be taken at once.
    fn told(&self) -> Vec<String> {
        told(&self.queue, &self.table)
    }
}

fn wanting(include: &[&str]) -> WatchSpec {
    let mut spec = spec();
    spec.namespaces.include = include.iter().map(|name| (*name).to_owned()).collect();
    spec
}

fn told(queue: &Outbox, table: &Arc<Table>) -> Vec<String> {
    let mut told = Vec::new();
    while let Next::Item(item) = queue.next() {
        match &item.action {
            Action::Upsert { uid, .. } => {
                let _ = table.get_to_publish(&item.name, uid);
                told.push(format!("upsert {}", item.name));
            }
            Action::Delete(_) => told.push(format!("delete {}", item.name)),
        }
        queue.confirm(item);
    }
    told.sort();
    told
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_everywhere_is_followed_in_the_namespaces_that_are_wanted() {
    let server = Server::new(&["a", "b"]);
    server.create(&[("a", "one"), ("b", "two"), ("c", "three")]);
    let play = Play::new(server, &["a", "b"]);
    play.until_live(&["a", "b"]).await;
    assert_eq!(play.told(), ["upsert a/one", "upsert b/two"]);
    play.server.create(&[("a", "four"), ("c", "five")]);
    play.server.delete("b", "two");
    play.until("followed", |play| play.names() == ["a/four", "a/one"]).await;
    assert_eq!(play.told(), ["delete b/two", "upsert a/four"]);
    let (ready, said) = play.gate().unwrap();
    assert!(ready && said.contains("watched in a, b only"), "{said}");
    assert!(play.progress.positions().is_empty(), "a position is one of the whole type");
    let own = Play::new(Server::new(&["own"]), &[]);
    own.until_live(&["own"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_of_one_namespace_takes_nothing_out_of_another() {
    let server = Server::new(&["a", "b"]);
    server.create(&[("a", "one"), ("a", "two"), ("b", "three"), ("b", "four")]);
    let play = Play::new(server, &["a", "b"]);
    play.until_live(&["a", "b"]).await;
    play.told();
    // The watch of `a` ends without a word of what was deleted, and its version is too old.
    let lists = play.report().lists;
    play.server.silently(|server| server.delete("a", "one"));
    play.server.expire("a");
    play.until("listed again", |play| play.names() == ["a/two", "b/four", "b/three"]).await;
    assert_eq!(play.told(), ["delete a/one"]);
    assert_eq!(play.report().lists, lists + 1, "of that namespace alone");
    play.until_live(&["a", "b"]).await;
    // Somebody wants what is not held: of all of it.
    let (uid, name) = play.table.keys().remove(0);
    play.table.want_body(&name, &uid);
    play.until("all listed again", |play| play.report().lists == lists + 3).await;
    play.until_live(&["a", "b"]).await;
    assert_eq!(play.names(), ["a/two", "b/four", "b/three"]);
    assert_eq!(play.server.most_lists_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_refused_keeps_its_objects_and_is_asked_for_ever_more_seldom() {
    let server = Server::new(&["a", "b"]);
    server.create(&[("a", "one"), ("b", "two")]);
    let play = Play::new(server, &["a", "b"]);
    play.until_live(&["a", "b"]).await;
    play.told();
    play.server.forbid("b");
    play.server.delete("a", "one");
    play.server.cut();
    let refused = ["a=Live", "b=Refused"];
    play.until("refused", |play| play.namespaces() == refused && play.report().phase == Phase::Live).await;
    play.until("gone", |play| play.names() == ["b/two"]).await;
    assert_eq!(play.told(), ["delete a/one"]);
    let (ready, said) = play.gate().unwrap();
    assert!(ready && said.contains("watched in a only") && said.contains("refused in b"), "{said}");
    let narrowed = play.report().narrowed.unwrap();
    assert!(narrowed.refusal.contains("at the cluster scope"), "{narrowed:?}");
    assert!(narrowed.namespaces["b"].last_error.contains("in the namespace b"), "{narrowed:?}");
    let asked = play.server.asked().len();
    time_passes(Duration::from_secs(1800)).await;
    let per_hour = (play.server.asked().len() - asked) * 2;
    assert!(per_hour < 200, "{per_hour} requests an hour");
    play.server.allow("b");
    play.server.create(&[("b", "three")]);
    play.retry.send_modify(|count| *count += 1);
    let took = play.until("back", |play| play.names() == ["b/three", "b/two"]).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    play.until_live(&["a", "b"]).await;
}

#[tokio::test(start_paused = true)]
async fn rights_that_shrink_and_grow_again_delete_nothing() {
    let server = Server::new(&[EVERYWHERE, "a"]);
    server.create(&[("a", "one"), ("b", "two"), ("hidden", "never")]);
    let play = Play::new(server, &[]);
    play.until("live", |play| play.report().phase == Phase::Live).await;
    assert!(play.report().narrowed.is_none() && play.gate().is_none());
    play.told();
    play.server.forbid(EVERYWHERE);
    play.server.allow("own");
    play.server.create(&[("own", "three")]);
    play.server.cut();
    play.until_live(&["own"]).await;
    assert_eq!(play.names(), ["a/one", "b/two", "own/three"], "what may not be read is not gone");
    assert_eq!(play.told(), ["upsert own/three"]);
    assert!(play.progress.positions().is_empty());

    play.server.silently(|server| server.delete("b", "two"));
    play.server.allow(EVERYWHERE);
    play.retry.send_modify(|count| *count += 1);
    let whole = |play: &Play| play.report().narrowed.is_none() && play.names() == ["a/one", "own/three"];
    let took = play.until("whole again", whole).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(play.told(), ["delete b/two"], "what is gone, and nothing else");
    assert!(play.gate().is_none() && !play.progress.positions().is_empty());
    assert!(play.report().last_error.is_empty(), "{:?}", play.report());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_moment_is_over_in_a_moment_and_nobody_need_tell() {
    // As of a server whose authorizer is still starting.
    let server = Server::new(&[]);
    server.create(&[("a", "one"), ("own", "two")]);
    let play = Play::new(server, &[]);
    play.until("refused", |play| play.report().phase == Phase::Refused).await;
    let (ready, said) = play.gate().unwrap();
    assert!(!ready && said.contains("at the cluster scope"), "{said}");
    play.server.allow(EVERYWHERE);
    let took = play.until("live", |play| play.names() == ["a/one", "own/two"]).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    play.until("whole", |play| play.report().narrowed.is_none() && play.report().phase == Phase::Live).await;
}

#[tokio::test(start_paused = true)]
async fn a_type_that_was_read_and_is_refused_for_a_moment_goes_on_from_where_it_was() {
    let server = Server::new(&[EVERYWHERE, "own"]);
    server.create(&[("a", "one")]);
    let play = Play::new(server, &[]);
    play.until("live", |play| play.report().phase == Phase::Live).await;
    let positions = play.progress.positions();
    play.server.forbid(EVERYWHERE);
    play.server.cut();
    play.until("refused", |play| play.report().phase == Phase::Refused).await;
    time_passes(Duration::from_secs(2)).await;
    assert_eq!(play.progress.positions(), positions);
    play.server.allow(EVERYWHERE);
    play.server.create(&[("b", "two")]);
    play.until("followed", |play| play.names() == ["a/one", "b/two"]).await;
    assert_eq!(play.report().lists, 1, "{:?}", play.server.asked());
    assert!(!play.server.asked().iter().any(|asked| asked.ends_with(" own")), "{:?}", play.server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_wanted_before_the_loop_begins_is_made() {
    let server = Server::new(&[EVERYWHERE]);
    server.create(&[("a", "one")]);
    let store = Store::new();
    let (_, table) = store.open(&spec().selected.served);
    let name = ObjectName::new(Some("a"), "one");
    let (uid, resource_version) = (Uid::new("a/one"), ResourceVersion::new("2"));
    let stored = Stored { uid: uid.clone(), name: name.clone(), resource_version, hash: Some(1), sequence: 1 };
    assert_eq!(table.restore(stored), Restored::Taken);
    table.want_body(&name, &uid);
    let play = Play::over(server, &spec(), store, Arc::default());
    play.until("listed twice", |play| play.report().lists == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_all_namespaces_is_no_place_to_go_on_from_in_some() {
    let server = Server::new(&["a"]);
    server.create(&[("a", "one"), ("b", "two")]);
    let (progress, spec) = (Progress::default(), wanting(&["a"]));
    let checkpoint = Checkpoint {
        resource_version: "3".into(),
        fingerprint: format!("{:016x}", spec.fingerprint()),
        objects: 2,
        digest: String::new(),
    };
    progress.done(HashMap::from([(TypeKey::from(&spec.selected.served), checkpoint)]));
    let play = Play::from(progress, server, &spec, Store::new(), Arc::default());
    play.until_live(&["a"]).await;
    assert_eq!(play.names(), ["a/one"], "what stands behind the checkpoint is listed");
    let asked: Vec<String> = play.server.asked().into_iter().filter(|asked| asked.ends_with(" a")).collect();
    assert_eq!(asked, ["list a", "watch a"]);
    assert!(play.progress.positions().is_empty(), "and what follows is none of all namespaces");
}

#[tokio::test(start_paused = true)]
async fn where_only_the_watch_of_everything_is_refused_the_type_does_not_go_back_and_forth() {
    let server = Server::new(&[EVERYWHERE, "a"]);
    server.forbid_watches(EVERYWHERE);
    server.create(&[("a", "one")]);
    let play = Play::new(server, &["a"]);
    play.until_live(&["a"]).await;
    time_passes(Duration::from_secs(3600)).await;
    assert_eq!(play.namespaces(), ["a=Live"]);
    assert_eq!(play.report().lists, 2, "of all, and of the namespace: {:?}", play.server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_type_that_is_in_no_namespace_stays_refused() {
    let mut cluster_scoped = spec();
    cluster_scoped.selected.served.namespaced = false;
    let status = json!({"kind": "Status", "code": 403, "message": "at the cluster scope"}).to_string();
    let refused = || super::loops::text((403, status.clone()));
    let ran = super::loops::run_loop(cluster_scoped, vec![refused(), refused()]).await;
    assert_eq!(ran.report.phase, Phase::Refused);
    assert!(ran.asked.iter().all(|uri| !uri.contains("/namespaces/")), "{:?}", ran.asked);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_leaves_even_where_nothing_may_be_read() {
    let (store, queue): (_, Arc<Outbox>) = (Store::new(), Arc::default());
    let server = Server::new(&[EVERYWHERE]);
    server.create(&[("a", "one"), ("b", "two")]);
    let before = Play::over(server, &spec(), store.clone(), queue.clone());
    before.until("live", |play| play.names() == ["a/one", "b/two"]).await;
    before.told();
    drop(before);
    let play = Play::over(Server::new(&[]), &wanting(&["b"]), store, queue);
    play.until("refused", |play| play.report().phase == Phase::Refused).await;
    assert_eq!(play.told(), ["delete a/one"]);
    assert_eq!(play.names(), ["b/two"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_holds_of_a_namespace_that_is_not_read_is_no_ghost() {
    let server = Server::new(&["a"]);
    let play = Play::new(server, &["a", "b"]);
    play.until("refused", |play| play.namespaces() == ["a=Live", "b=Refused"]).await;
    let restore = |namespace: &str| {
        let name = ObjectName::new(Some(namespace), "x");
        let (uid, resource_version) = (Uid::named(&name), ResourceVersion::new("3"));
        play.table.restore(Stored { uid, name, resource_version, hash: Some(1), sequence: 1 })
    };
    assert!(matches!(restore("a"), Restored::Ghost(_)));
    assert_eq!(restore("b"), Restored::Taken);
    assert!(matches!(restore("elsewhere"), Restored::Ghost(_)), "nobody wants it");
}
