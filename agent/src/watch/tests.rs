//! Lists and watches against a scripted API server: what arrives, what breaks off, and what may follow from it.

#![allow(clippy::disallowed_methods, reason = "answers come from a script")]

mod broken_watches;
mod loops;
mod namespaced;
mod paged;
mod repeated_uid;
mod resumed;
mod streamed;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use meshsync_crds::agent_config::{SecretPolicy, SnapshotMode};
use meshsync_crds::discovery::ServedType;
use meshsync_crds::informer_config::NamespaceSelection;
use meshsync_crds::selection::SelectedType;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_test::mock;

use super::intake::Sink;
use super::list::ListTask;
use super::pages::PageSize;
use super::places::Place;
use super::resume::{Provenance, Start};
use super::stream::{End, Watch};
use crate::apiserver::request::{Reason, RequestError, Source};
use crate::object::{ObjectName, ResourceVersion};
use crate::outbox::Outbox;
use crate::outbox::{Action, Next};
use crate::plan::WatchSpec;
use crate::snapshot::{Extent, Store, Table};
use crate::watch::Board;

pub(super) fn spec() -> WatchSpec {
    let served = ServedType {
        singular: "configmap".into(),
        verbs: vec!["list".into(), "watch".into()],
        ..ServedType::named("", "v1", "ConfigMap", "configmaps")
    };
    let namespaces = NamespaceSelection { include: vec![], exclude: vec!["hidden".into()] };
    let selected = SelectedType { served, metadata_only: false };
    WatchSpec { selected, mode: SnapshotMode::Full, secrets: SecretPolicy::Redact, namespaces }
}

/// A type's destination, and an API server that gives one answer a request, in order.
struct Scene {
    client: Client,
    table: Arc<Table>,
    queue: Arc<Outbox>,
    board: Arc<Board>,
    sink: Sink,
    asked: tokio::task::JoinHandle<Vec<String>>,
}

/// The body of an answer.
type Answer = UnsyncBoxBody<Bytes, Infallible>;

fn whole(body: String) -> Answer {
    Full::new(Bytes::from(body)).boxed_unsync()
}

impl Scene {
    fn new(answers: Vec<(u16, String)>) -> Self {
        let answers = answers.into_iter().map(|(status, body)| (status, whole(body))).collect();
        Self::with(&spec(), answers, None)
    }

    /// `over` is told of the first request that the script does not have, which otherwise fails the test.
    fn with(spec: &WatchSpec, answers: Vec<(u16, Answer)>, over: Option<CancellationToken>) -> Self {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Answer>>();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            let mut unanswered = Vec::new();
            let mut answers = answers.into_iter();
            while let Some((request, send)) = handle.next_request().await {
                asked.push(request.uri().to_string());
                match (answers.next(), &over) {
                    (Some((status, body)), _) => {
                        send.send_response(Response::builder().status(status).body(body).unwrap());
                    }
                    (None, Some(over)) => {
                        over.cancel();
                        // Left without an answer, which is no failure yet.
                        unanswered.push(send);
                    }
                    (None, None) => panic!("a request that the script does not have: {asked:?}"),
                }
            }
            assert!(answers.next().is_none(), "a request is missing");
            asked
        });
        let (store, queue, board) = (Store::new(), Arc::new(Outbox::default()), Arc::new(Board::default()));
        let (type_id, table) = store.open(&spec.selected.served);
        let sink = Sink::new(spec, (type_id, table.clone()), queue.clone(), board.clone());
        Self { client: Client::new(service, "default"), table, queue, board, sink, asked }
    }

    async fn list(&self) -> Result<ResourceVersion, RequestError> {
        self.list_after("").await
    }

    /// Lists after a version was seen.
    async fn list_after(&self, seen: &str) -> Result<ResourceVersion, RequestError> {
        let (source, place) = (Source::of(&spec()), &mut Place::unlimited());
        let (client, sink, extent) = (&self.client, &self.sink, Extent::All);
        let mut task = ListTask { client, source: &source, sink, place, extent, is_renewed: false };
        task.run(PageSize::of(SnapshotMode::Full), &ResourceVersion::new(seen)).await
    }

    /// Watches from version 10; gives the end and where the next watch would go on.
    async fn watch(&self) -> (Result<End, RequestError>, String) {
        let mut start = Start::new(ResourceVersion::new("10"), Provenance::List);
        let source = Source::of(&spec());
        let end = match Watch::open(&self.client, &source, &self.sink, &start).await {
            Ok(mut watch) => watch.follow(&self.sink, &mut start, &mut false, |_| {}).await,
            Err(error) => Err(error),
        };
        (end, start.version.to_string())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.keys().iter().map(|(_, name)| name.to_string()).collect();
        names.sort();
        names
    }

    /// What waits for consumers, as far as it can be taken at once.
    fn drain(&self) -> Vec<String> {
        let mut told = Vec::new();
        while let Next::Item(item) = self.queue.next() {
            let what = match &item.action {
                Action::Upsert { uid, .. } => {
                    // As the publisher does: from here on consumers know the object.
                    let _ = self.table.get_to_publish(&item.name, uid);
                    "upsert"
                }
                Action::Delete(_) => "delete",
            };
            told.push(format!("{what} {}", item.name));
            self.queue.confirm(item);
        }
        told.sort();
        told
    }

    async fn asked(self) -> Vec<String> {
        drop(self.client);
        self.asked.await.unwrap()
    }
}

fn object(namespace: &str, name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}, "data": {"v": version.to_string()}})
}

fn page(version: u64, token: &str, items: &[Value]) -> (u16, String) {
    let metadata = json!({"resourceVersion": version.to_string(), "continue": token});
    (200, json!({"kind": "ConfigMapList", "metadata": metadata, "items": items}).to_string())
}

fn event(kind: &str, object: Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn stream(lines: &[String]) -> Vec<(u16, String)> {
    vec![(200, lines.concat())]
}

/// A watch that ended after something had come, but long before its time.
const DONE: Result<End, RequestError> = Ok(End::Done { early: true });

fn older(server: &str, seen: &str) -> RequestError {
    let (server, seen) = (ResourceVersion::new(server), ResourceVersion::new(seen));
    RequestError::Relist(Reason::ServerIsOlder { server, seen })
}

fn expired() -> RequestError {
    RequestError::Relist(Reason::Expired { go_on: None })
}

#[tokio::test]
async fn a_second_list_tells_what_is_gone_and_nothing_that_is_unchanged() {
    let first = [object("n", "a", 1), object("n", "b", 2), object("hidden", "c", 3)];
    let second = [object("n", "a", 1), object("n", "d", 9)];
    let scene = Scene::new(vec![page(5, "more", &first[..1]), page(5, "", &first[1..]), page(12, "", &second)]);
    assert_eq!(scene.list().await, Ok(ResourceVersion::new("5")));
    assert_eq!(scene.names(), ["n/a", "n/b"], "an excluded namespace is not looked into");
    assert_eq!(scene.drain(), ["upsert n/a", "upsert n/b"]);
    assert_eq!(scene.list().await, Ok(ResourceVersion::new("12")));
    assert_eq!(scene.drain(), ["delete n/b", "upsert n/d"]);
    let asked = scene.asked().await;
    assert!(asked[1].ends_with("&continue=more"), "{asked:?}");
}

#[tokio::test]
async fn a_cluster_that_was_restored_from_a_backup_is_taken_as_it_is() {
    let again = |name, uid: &str, version| {
        let mut object = object("n", name, version);
        object["metadata"]["uid"] = uid.into();
        object
    };
    let before = [object("n", "changed", 8), again("created", "new", 9), object("n", "later", 9)];
    let restored = [object("n", "changed", 2), again("created", "old", 3)];
    let scene = Scene::new(vec![page(10, "", &before), page(5, "", &restored), page(5, "", &restored)]);
    scene.list().await.unwrap();
    scene.drain();
    assert_eq!(scene.list_after("10").await, Ok(ResourceVersion::new("5")));
    assert_eq!(scene.names(), ["n/changed", "n/created"]);
    let versions: Vec<_> = scene.table.keys().iter().map(|(uid, name)| scene.table.get(name, uid).unwrap()).collect();
    assert!(versions.iter().all(|object| object.resource_version.is_older_than(&ResourceVersion::new("5"))));
    assert!(scene.drain().contains(&"delete n/later".to_owned()));
}

#[tokio::test]
async fn a_watch_whose_server_is_older_than_it_lists_again() {
    let bookmark =
        |version: &str| event("BOOKMARK", json!({"kind": "ConfigMap", "metadata": {"resourceVersion": version}}));
    let scene = Scene::new(stream(&[bookmark("12"), bookmark("11")]));
    assert_eq!(scene.watch().await, (Err(older("11", "12")), "12".to_owned()));
}

#[tokio::test]
async fn a_list_that_breaks_off_takes_nothing_out() {
    let all = [object("n", "a", 1), object("n", "b", 2)];
    let failure = json!({"kind": "Status", "code": 500, "message": "etcd"}).to_string();
    let scene = Scene::new(vec![page(5, "", &all), page(7, "more", &all[..1]), (500, failure)]);
    scene.list().await.unwrap();
    scene.drain();
    assert!(matches!(scene.list().await, Err(RequestError::Unavailable { status: 500, .. })));
    assert_eq!(scene.names(), ["n/a", "n/b"]);
    assert_eq!(scene.drain(), Vec::<String>::new());
}

#[tokio::test]
async fn what_arrived_of_a_page_that_breaks_off_is_kept() {
    // As a server orders it.
    let mut body = r#"{"kind":"ConfigMapList","metadata":{"resourceVersion":"9"},"items":["#.to_owned();
    (0..4_000).for_each(|number| body += &format!("{},", object("n", &format!("a{number}"), number)));
    let scene = Scene::new(vec![(200, body)]);
    assert!(matches!(scene.list().await, Err(RequestError::Transient(_))));
    // All but the last, which is the first of what is left.
    assert_eq!((scene.names().len(), scene.drain().len()), (3_999, 3_999));
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_not_an_empty_list() {
    for body in ["{}", "<html>login</html>", r#"{"kind":"Status","status":"Success"}"#, ""] {
        let scene = Scene::new(vec![page(5, "", &[object("n", "a", 1)]), (200, body.into())]);
        scene.list().await.unwrap();
        assert!(matches!(scene.list().await, Err(RequestError::Transient(_))), "{body}");
        assert_eq!(scene.names(), ["n/a"]);
    }
}

#[tokio::test]
async fn refusals_carry_the_servers_words() {
    let message = "configmaps is forbidden: User \"x\" cannot list";
    let body = json!({"kind": "Status", "code": 403, "message": message}).to_string();
    let scene = Scene::new(vec![(403, body)]);
    assert_eq!(scene.list().await, Err(RequestError::Refused { status: 403, message: message.into() }));
}

#[tokio::test]
async fn a_watch_follows_events_and_bookmarks() {
    let bookmark = json!({"kind": "ConfigMap", "metadata": {"resourceVersion": "40"}});
    let scene = Scene::new(stream(&[
        event("ADDED", object("n", "a", 20)),
        event("ADDED", object("n", "b", 21)),
        event("MODIFIED", object("n", "a", 22)),
        event("DELETED", object("n", "b", 23)),
        event("BOOKMARK", bookmark),
    ]));
    let (end, version) = scene.watch().await;
    assert_eq!((end, version.as_str()), (DONE, "40"));
    assert_eq!(scene.names(), ["n/a"]);
    // Added and deleted before anybody was told: nothing is said of it.
    assert_eq!(scene.drain(), ["upsert n/a"]);
    let asked = scene.asked().await;
    assert!(asked[0].contains("watch=true") && asked[0].ends_with("&resourceVersion=10"), "{asked:?}");
}

#[tokio::test]
async fn a_frame_that_is_cut_off_is_as_if_it_had_not_come() {
    let cut = event("ADDED", object("n", "b", 21));
    let scene = Scene::new(stream(&[event("ADDED", object("n", "a", 20)), cut[..cut.len() / 2].to_owned()]));
    let (end, version) = scene.watch().await;
    let cut_off = RequestError::Transient("the watch ended in the middle of an event".to_owned());
    assert_eq!((end, version.as_str()), (Err(cut_off), "20"));
    assert_eq!(scene.names(), ["n/a"]);
    assert_eq!(scene.board.snapshot()["configmaps"].unreadable, 0);
}

#[tokio::test]
async fn garbage_in_the_stream_means_listing_again() {
    let scene = Scene::new(stream(&[event("ADDED", object("n", "a", 20)), "not an event\n".into()]));
    let (end, version) = scene.watch().await;
    let garbage = RequestError::Relist(Reason::NoEvents("12 bytes that are no event".to_owned()));
    assert_eq!((end, version.as_str()), (Err(garbage), "20"));
    assert_eq!(scene.board.snapshot()["configmaps"].unreadable, 1);
}

#[tokio::test]
async fn one_bad_object_does_not_stop_the_next() {
    let scene = Scene::new(stream(&[event("ADDED", json!({"metadata": {}})), event("ADDED", object("n", "a", 20))]));
    let (end, version) = scene.watch().await;
    assert_eq!((end, version.as_str()), (DONE, "20"));
    assert_eq!(scene.names(), ["n/a"]);
    assert_eq!(scene.board.snapshot()["configmaps"].unreadable, 1);
}

#[tokio::test]
async fn error_events_are_told_apart() {
    let odd = RequestError::Unavailable { status: 599, message: "odd".into(), retry_after: None };
    let unexplained = RequestError::Relist(Reason::Unexplained("no code".into()));
    let refused = RequestError::Relist(Reason::WatchRefused { status: 400, message: "bad version".into() });
    for (status, expected) in [
        (json!({"code": 410, "reason": "Expired", "message": "too old"}), Err(expired())),
        (json!({"code": 400, "message": "bad version"}), Err(refused)),
        (json!({"code": 599, "message": "odd"}), Err(odd)),
        // Nothing is known of what was missed before it.
        (json!({"message": "no code"}), Err(unexplained)),
    ] {
        let scene = Scene::new(stream(&[event("ADDED", object("n", "a", 20)), event("ERROR", status)]));
        assert_eq!(scene.watch().await, (expected, "20".to_owned()));
        assert_eq!(scene.names(), ["n/a"]);
    }
}
