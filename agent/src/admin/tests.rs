//! The pages against a scripted API server.

#![allow(clippy::disallowed_methods, reason = "answers come from a script")]

use http::{Request, Response};
use kube::client::Body as RequestBody;
use meshsync_crds::agent_config::{AgentConfig, SnapshotMode};
use meshsync_crds::selection::SelectedType;
use tower_test::mock;

use super::*;
use crate::plan::WatchSpec;
use crate::snapshot::Confirmation;
use crate::snapshot::tests::{object, served};

/// A page of a list: its path, status and body.
type Answer = (&'static str, u16, String);

fn list(names: &[&str]) -> String {
    let item = |name: &&str| format!(r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"u-{name}"}}}}"#);
    let items: Vec<String> = names.iter().map(item).collect();
    format!(r#"{{"kind":"ThingList","metadata":{{"resourceVersion":"9"}},"items":[{}]}}"#, items.join(","))
}

fn spec(plural: &str, short_name: Option<&str>) -> WatchSpec {
    let mut served = served(plural, &["list", "watch"]);
    served.short_names.extend(short_name.map(str::to_owned));
    WatchSpec::new(SelectedType { served, metadata_only: false }, &AgentConfig::built_in())
}

/// Opens a table with one object whose body is not held.
fn resumed(store: &Store, plural: &str) {
    let (_, table) = store.open(&served(plural, &["list", "watch"]));
    table.set_mode(SnapshotMode::HashOnly);
    let prepared = object("a", "u-a", 5, "one");
    table.upsert(&prepared);
    table.confirm(&prepared.name, &prepared.uid, Confirmation { hash: prepared.hash, sequence: 1 });
    assert!(table.lacks_bodies());
}

/// The lines of `/snapshot`, and why it broke off.
async fn lines(store: Arc<Store>, plan: Vec<WatchSpec>, answers: Vec<Answer>) -> (usize, Option<String>) {
    let (service, mut handle) = mock::pair::<Request<RequestBody>, Response<RequestBody>>();
    let server = tokio::spawn(async move {
        for (path, status, body) in answers {
            let (request, send) = handle.next_request().await.expect("a request");
            assert_eq!(request.uri().path(), path);
            send.send_response(Response::builder().status(status).body(body.into_bytes().into()).unwrap());
        }
    });
    let (_, active_plan) = watch::channel(ActivePlan { plan: Arc::new(plan), ..ActivePlan::default() });
    let admin = Admin { client: Client::new(service, "default"), active_plan, store, board: Arc::default() };
    let (sender, mut receiver) = mpsc::channel(LINES_AHEAD);
    let written = write_snapshot(&admin, &sender).await;
    // A request that does not come would be waited for otherwise.
    drop((sender, admin));
    server.await.unwrap();
    let mut count = 0;
    while let Some(line) = receiver.recv().await {
        assert!(line.unwrap().ends_with(b"\n"));
        count += 1;
    }
    let why = match written {
        Ok(()) => None,
        Err(Stopped::Failed(why)) => Some(why),
        Err(Stopped::Unread) => panic!("nobody stopped reading"),
    };
    (count, why)
}

#[tokio::test]
async fn a_type_whose_definition_got_a_short_name_is_not_left_out() {
    let store = Store::new();
    resumed(&store, "things");
    let path = "/apis/example.com/v1/things";
    let found = lines(store, vec![spec("things", Some("th"))], vec![(path, 200, list(&["a", "b"]))]).await;
    assert_eq!(found, (2, None));
}

#[tokio::test]
async fn what_cannot_be_read_is_named_after_all_that_can() {
    let store = Store::new();
    resumed(&store, "broken");
    resumed(&store, "leaving");
    resumed(&store, "things");
    let plan = vec![spec("broken", None), spec("things", None)];
    let answers = vec![
        ("/apis/example.com/v1/broken", 500, "no conversion".to_owned()),
        ("/apis/example.com/v1/things", 200, list(&["a"])),
    ];
    let (count, why) = lines(store, plan, answers).await;
    let why = why.unwrap();
    assert_eq!(count, 1);
    assert!(why.contains("broken.example.com: status 500: no conversion"), "{why}");
    assert!(why.contains("leaving.example.com: it is not watched any more"), "{why}");
}
