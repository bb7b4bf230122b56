//! Discovery, planner and fleet against a scripted API server.

#![allow(clippy::disallowed_methods, reason = "answers come from a script")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::discovery::ServedType;
use meshsync_crds::selection::SelectedType;
use meshsync_runtime::discovery::{Discovered, FailedGroup};
use meshsync_runtime::readiness::Readiness;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tower_test::mock;

use super::*;
use crate::discover::{Discovery, DiscoveryDeps, Health};
use crate::object::{ObjectName, ResourceVersion, Uid};
use crate::outbox::Outbox;
use crate::plan::WatchSpec;
use crate::snapshot::{Store, Stored};
use crate::stream::Progress;
use crate::watch::{Board, Fleet, FleetDeps};

/// What the server answers to a path; none: nothing, for ever.
type Script = Arc<Mutex<HashMap<String, Option<(u16, Value)>>>>;

fn scripted(script: &Script) -> Client {
    let script = Arc::clone(script);
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let answer = script.lock().unwrap().get(request.uri().path()).cloned().flatten();
            let Some((status, body)) = answer else {
                unanswered.push(send);
                continue;
            };
            let body = Body::from(body.to_string().into_bytes());
            send.send_response(Response::builder().status(status).body(body).unwrap());
        }
    });
    Client::new(service, "default")
}

fn says(script: &Script, path: &str, answer: Option<(u16, Value)>) {
    script.lock().unwrap().insert(path.to_owned(), answer);
}

fn groups(plurals: &[&str]) -> Option<(u16, Value)> {
    let resources: Vec<Value> = plurals
        .iter()
        .map(|plural| {
            json!({"resource": plural, "responseKind": {"kind": "K"}, "scope": "Namespaced", "verbs": ["list", "watch"]})
        })
        .collect();
    let group = json!({"metadata": {"name": "a.io"}, "versions": [{"version": "v1", "resources": resources}]});
    Some((200, json!({"kind": "APIGroupDiscoveryList", "items": [group]})))
}

fn core() -> Option<(u16, Value)> {
    let pods = json!({"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced", "verbs": []});
    Some((
        200,
        json!({"kind": "APIGroupDiscoveryList", "items": [{"versions": [{"version": "v1", "resources": [pods]}]}]}),
    ))
}

fn a_server(plurals: &[&str]) -> Script {
    let script = Script::default();
    says(&script, "/readyz", Some((200, json!("ok"))));
    says(&script, "/api", core());
    says(&script, "/apis", groups(plurals));
    script
}

/// Discovery as a task, and what it tells.
struct Scene {
    served: watch::Receiver<Option<Served>>,
    readiness: Readiness,
    health: Arc<Health>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

fn discovery(script: &Script) -> Scene {
    let (served, receiver) = watch::channel(None);
    let (readiness, health) = (Readiness::default(), Arc::new(Health::default()));
    let discovery = Discovery::new(DiscoveryDeps {
        client: scripted(script),
        served,
        rediscover: Arc::default(),
        health: health.clone(),
        gate: readiness.gate("discovery", "not asked yet"),
    });
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(discovery.run()));
    Scene { served: receiver, readiness, health, _task: task }
}

impl Scene {
    fn names(&self) -> Vec<String> {
        let served = self.served.borrow();
        served.iter().flat_map(|served| served.discovered.types.iter().map(ServedType::name)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_type_is_believed_gone_when_a_ready_server_lacked_it_for_half_a_minute() {
    let script = a_server(&["as", "bs"]);
    let scene = discovery(&script);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.names(), ["pods", "as.a.io", "bs.a.io"]);
    // As after a kill -9: one answer, whole to all appearances, with a part of what there is.
    says(&script, "/apis", groups(&["as"]));
    says(&script, "/readyz", Some((500, json!("not yet"))));
    sleep(Duration::from_secs(300)).await;
    assert_eq!(scene.names().len(), 3, "the server is not ready");
    says(&script, "/readyz", Some((200, json!("ok"))));
    sleep(Duration::from_secs(29)).await;
    assert_eq!(scene.names().len(), 3);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.names(), ["pods", "as.a.io"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_names_before_it_is_ready_is_not_all_there_is() {
    let script = a_server(&["as"]);
    says(&script, "/readyz", Some((500, json!("not yet"))));
    let scene = discovery(&script);
    sleep(Duration::from_secs(5)).await;
    assert!(scene.served.borrow().is_none());
    says(&script, "/apis", groups(&["as", "bs"]));
    says(&script, "/readyz", Some((200, json!("ok"))));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.names().len(), 3);
    let is_settled = || scene.served.borrow().as_ref().unwrap().is_settled;
    assert!(!is_settled());
    sleep(Duration::from_secs(35)).await;
    assert!(is_settled());
}

#[tokio::test(start_paused = true)]
async fn discovery_that_fails_is_told_by_the_probe_and_makes_nothing_less_ready() {
    let script = a_server(&["as"]);
    let scene = discovery(&script);
    sleep(Duration::from_secs(60)).await;
    assert!(scene.readiness.is_ready() && scene.health.report().failing.is_none());
    says(&script, "/apis", Some((503, json!("overloaded"))));
    sleep(Duration::from_secs(60)).await;
    let (report, health) = (scene.readiness.report(), scene.health.report());
    assert!(report.ready, "what is known stays in force");
    let reason = report.gates[0].reason.clone().unwrap();
    assert!(reason.contains("failing since") && reason.contains("overloaded"), "{reason}");
    assert!(health.failures > 2 && health.failing.is_some() && health.last_success.is_some());
    says(&script, "/apis", groups(&["as"]));
    sleep(Duration::from_secs(60)).await;
    assert_eq!((scene.readiness.report().gates[0].reason.clone(), scene.health.report().failing), (None, None));
}

fn fleet(client: Client, store: Arc<Store>, queue: Arc<Outbox>, replan: Arc<Notify>) -> Fleet {
    let progress = Arc::new(Progress::default());
    progress.done(HashMap::new());
    Fleet::new(FleetDeps {
        client,
        store,
        queue,
        board: Arc::new(Board::default()),
        readiness: Readiness::default(),
        retry: watch::channel(0).1,
        rediscover: Arc::default(),
        replan,
        progress,
        streamed_lists: false,
    })
}

#[tokio::test(start_paused = true)]
async fn a_hanging_discovery_does_not_hold_up_a_configuration() {
    let script = a_server(&["as", "bs"]);
    let scene = discovery(&script);
    let revision =
        |name: &str| Candidate::Read(Arc::new(AgentConfig { revision: name.into(), ..AgentConfig::built_in() }));
    let (candidates, receiver) = watch::channel(revision("one"));
    let (active_plan, mut told) = watch::channel(ActivePlan::default());
    let replan = Arc::new(Notify::new());
    let mut planner = Planner::new(PlannerDeps {
        fleet: fleet(scripted(&script), Store::new(), Arc::default(), replan.clone()),
        candidates: receiver,
        served: scene.served.clone(),
        narrowing: meshsync_crds::narrowing::Narrowing::default(),
        active_plan,
        retry: watch::channel(0).0,
        replan,
        config_gate: Readiness::default().gate("configuration", "none"),
    });
    let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { planner.run().await }));
    let is =
        |name: &'static str| move |now: &ActivePlan| now.config.as_ref().is_some_and(|config| config.revision == name);
    timeout(Duration::from_secs(5), told.wait_for(is("one"))).await.unwrap().unwrap();
    says(&script, "/apis", None);
    sleep(Duration::from_secs(60)).await;
    candidates.send_replace(revision("two"));
    timeout(Duration::from_secs(5), told.wait_for(is("two"))).await.unwrap().unwrap();
}

fn served(version: &str, preferred: bool) -> ServedType {
    ServedType {
        preferred,
        verbs: vec!["list".into(), "watch".into()],
        ..ServedType::named("a.io", version, "A", "as")
    }
}

fn spec(served: ServedType) -> WatchSpec {
    WatchSpec::new(SelectedType { served, metadata_only: false }, &AgentConfig::built_in())
}

fn discovered(types: &[ServedType], is_settled: bool) -> Served {
    let discovered = Discovered { types: types.to_vec(), ..Discovered::default() };
    Served { discovered: Arc::new(discovered), is_settled }
}

#[tokio::test(start_paused = true)]
async fn a_version_goes_on_being_watched_until_its_successor_can_be_listed() {
    let script = Script::default();
    let (old, new) = ("/apis/a.io/v1/as", "/apis/a.io/v2/as");
    says(&script, old, None);
    says(&script, new, Some((500, json!({"kind": "Status", "code": 500, "message": "no conversion"}))));
    let replan = Arc::new(Notify::new());
    let mut fleet = fleet(scripted(&script), Store::new(), Arc::default(), replan.clone());
    let (v1, v2) = (served("v1", false), served("v2", true));
    fleet.apply(vec![spec(v1.clone())], &discovered(std::slice::from_ref(&v1), true)).await;

    let both = discovered(&[v2.clone(), v1], true);
    assert_eq!(fleet.apply(vec![spec(v2.clone())], &both).await, crate::watch::Applied::default());
    assert!(timeout(Duration::from_secs(600), replan.notified()).await.is_err(), "it cannot be listed");
    assert_eq!(fleet.apply(vec![spec(v2.clone())], &both).await, crate::watch::Applied::default());

    let list = json!({"kind": "AList", "apiVersion": "a.io/v2", "metadata": {"resourceVersion": "7"}, "items": []});
    says(&script, new, Some((200, list)));
    timeout(Duration::from_secs(60), replan.notified()).await.unwrap();
    assert_eq!(fleet.apply(vec![spec(v2)], &both).await.restarted, ["as.a.io"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_served_no_more_is_not_held_on_to() {
    let script = Script::default();
    let mut fleet = fleet(scripted(&script), Store::new(), Arc::default(), Arc::default());
    let (v1, v2) = (served("v1", true), served("v2", true));
    fleet.apply(vec![spec(v1.clone())], &discovered(&[v1], true)).await;
    assert_eq!(fleet.apply(vec![spec(v2.clone())], &discovered(&[v2], true)).await.restarted, ["as.a.io"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_back_of_a_type_stays_until_it_is_believed_gone() {
    let (store, queue) = (Store::new(), Arc::new(Outbox::default()));
    let mut fleet = fleet(scripted(&Script::default()), store.clone(), queue.clone(), Arc::default());
    let read_back = |store: &Store| {
        let (_, table) = store.open(&served("v1", true));
        let name = ObjectName::new(Some("n"), "x");
        let (uid, resource_version) = (Uid::named(&name), ResourceVersion::new("3"));
        let _taken = table.restore(Stored { uid, name, resource_version, hash: Some(1), sequence: 1 });
    };
    read_back(&store);
    let other = ServedType { plural: "bs".into(), ..served("v1", true) };
    assert_eq!(fleet.apply(vec![], &discovered(std::slice::from_ref(&other), false)).await.removed, 0);
    let failed = FailedGroup { group: "a.io".into(), version: "v1".into(), reason: "down".into() };
    let doubtful = Discovered { types: vec![other.clone()], failed: vec![failed], ..Discovered::default() };
    let doubtful = Served { discovered: Arc::new(doubtful), is_settled: true };
    assert_eq!(fleet.apply(vec![], &doubtful).await.removed, 0);
    assert_eq!(fleet.apply(vec![], &discovered(&[other], true)).await.removed, 1);
    assert_eq!((queue.len(), store.tables().len()), (1, 0));

    // What the configuration excludes leaves at once.
    read_back(&store);
    assert_eq!(fleet.apply(vec![], &discovered(&[served("v1", true)], false)).await.removed, 1);
}
