//! Watches that begin with everything there is.

use std::collections::HashMap;
use std::time::Duration;

use meshsync_runtime::readiness::Readiness;
use tokio::sync::{Notify, Semaphore, watch};

use super::super::initial::{NotListed, Streaming, list_and_watch};
use super::super::type_loop::{Shared, run};
use super::*;
use crate::stream::Progress;

fn bookmark(version: u64, annotations: Value) -> String {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    event("BOOKMARK", json!({"kind": "ConfigMap", "metadata": metadata}))
}

fn end(version: u64) -> String {
    bookmark(version, json!({"k8s.io/initial-events-end": "true"}))
}

fn added(name: &str, version: u64) -> String {
    event("ADDED", object("n", name, version))
}

fn text((status, body): (u16, String)) -> (u16, Answer) {
    (status, whole(body))
}

fn lines(lines: &[String]) -> (u16, Answer) {
    (200, whole(lines.concat()))
}

/// A stream that goes on without saying any more.
fn open_end(lines: &[String]) -> (u16, Answer) {
    let body = Full::new(Bytes::from(lines.concat()));
    (200, body.with_trailers(std::future::pending()).boxed_unsync())
}

impl Scene {
    fn answering(answers: Vec<(u16, Answer)>) -> Self {
        Self::with(&spec(), answers, None)
    }

    async fn stream(&self, streaming: &Streaming) -> Result<(Watch, ResourceVersion), NotListed> {
        list_and_watch(streaming, &self.client, &Source::of(&spec()), &self.sink).await
    }
}

/// What the loop of a type did until it asked for what the script does not have.
struct Ran {
    asked: Vec<String>,
    report: crate::watch::TypeReport,
    names: Vec<String>,
    is_ready: bool,
    position: Option<String>,
}

async fn run_loop(spec: WatchSpec, answers: Vec<(u16, Answer)>) -> Ran {
    let (over, stop) = (CancellationToken::new(), CancellationToken::new());
    let Scene { client, table, board, sink, asked, .. } = Scene::with(&spec, answers, Some(over.clone()));
    let (readiness, progress) = (Readiness::default(), Arc::new(Progress::default()));
    progress.done(HashMap::new());
    let (_retry, retried) = watch::channel(0);
    let shared = Arc::new(Shared {
        client,
        first_lists: Semaphore::new(3),
        streaming: Streaming::new(true),
        retry: retried,
        rediscover: Arc::new(Notify::new()),
        progress: progress.clone(),
    });
    let gate = readiness.gate("type/configmaps", "not yet");
    let running = tokio::spawn(run(spec, sink, shared, Some(gate), stop.clone()));
    over.cancelled().await;
    let is_ready = readiness.is_ready();
    stop.cancel();
    running.await.unwrap();
    let mut names: Vec<String> = table.keys().iter().map(|(_, name)| name.to_string()).collect();
    names.sort();
    Ran {
        asked: asked.await.unwrap(),
        report: board.snapshot().remove("configmaps").unwrap(),
        names,
        is_ready,
        position: progress.positions().into_values().next().map(|position| position.version.to_string()),
    }
}

/// The requests, by what they are.
fn kinds(asked: &[String]) -> Vec<String> {
    let kind = |uri: &String| match uri.split_once("&resourceVersion=") {
        _ if uri.contains("sendInitialEvents=true") => "stream".to_owned(),
        Some((_, version)) => format!("watch {version}"),
        None => "list".to_owned(),
    };
    asked.iter().map(kind).collect()
}

#[tokio::test]
async fn the_watch_that_listed_goes_on_as_the_watch() {
    let scene = Scene::answering(vec![lines(&[
        added("a", 25),
        added("b", 20),
        // Live already, although not everything has come.
        event("DELETED", object("n", "b", 29)),
        end(30),
        event("MODIFIED", object("n", "a", 31)),
        event("ADDED", object("n", "c", 32)),
    ])]);
    let (mut watch, mut version) = scene.stream(&Streaming::new(true)).await.unwrap();
    assert_eq!((version.to_string(), scene.names()), ("30".to_owned(), vec!["n/a".to_owned()]));
    assert_eq!(watch.follow(&scene.sink, &mut version, |_| {}).await, Ok(()));
    assert_eq!((version.to_string(), scene.names()), ("32".to_owned(), vec!["n/a".to_owned(), "n/c".to_owned()]));
    assert_eq!(scene.drain(), ["upsert n/a", "upsert n/c"]);
    let asked = scene.asked().await;
    for parameter in
        ["watch=true", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "allowWatchBookmarks=true"]
    {
        assert!(asked[0].contains(parameter), "{asked:?}");
    }
    assert!(!asked[0].contains("resourceVersion="), "{asked:?}");
}

#[tokio::test]
async fn what_a_streamed_list_does_not_show_is_gone() {
    let before = page(5, "", &[object("n", "a", 1), object("n", "b", 2)]);
    let scene = Scene::answering(vec![text(before), lines(&[added("a", 1), added("d", 9), end(12)])]);
    scene.list().await.unwrap();
    scene.drain();
    scene.stream(&Streaming::new(true)).await.unwrap();
    assert_eq!(scene.drain(), ["delete n/b", "upsert n/d"]);
}

#[tokio::test]
async fn a_stream_that_breaks_off_takes_nothing_out() {
    let cut = added("b", 9);
    let gone = event("ERROR", json!({"code": 410, "message": "too old"}));
    for end in [cut[..cut.len() / 2].to_owned(), gone, "not an event\n".to_owned()] {
        let before = page(5, "", &[object("n", "a", 1), object("n", "b", 2)]);
        let scene = Scene::answering(vec![text(before), lines(&[added("a", 8), end.clone()])]);
        scene.list().await.unwrap();
        scene.drain();
        let broken = scene.stream(&Streaming::new(true)).await.err().unwrap();
        assert!(matches!(broken, NotListed::BrokeOff(_)), "{end}: {broken:?}");
        assert_eq!((scene.names(), scene.drain()), (vec!["n/a".into(), "n/b".into()], vec!["upsert n/a".to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_stream_that_broke_off_nothing_goes_on_from_it_and_pages_are_read() {
    let ran = run_loop(spec(), vec![lines(&[added("a", 8)])]).await;
    assert_eq!(kinds(&ran.asked), ["stream", "list"]);
    assert_eq!((ran.position, ran.is_ready), (None, false), "the version of an initial event is no position");
    assert_eq!((ran.report.failures, ran.report.lists), (1, 2));

    // Once that is done, a stream may be tried again.
    let gone = lines(&[event("ERROR", json!({"code": 410}))]);
    let answers = vec![lines(&[added("a", 8)]), text(page(9, "", &[object("n", "a", 8)])), gone];
    let ran = run_loop(spec(), answers).await;
    assert_eq!(kinds(&ran.asked), ["stream", "list", "watch 9", "stream"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_page_that_broke_off_smaller_ones_are_asked_for_until_the_list_is_done() {
    let (status, whole_page) = page(9, "", &[object("n", "a", 8)]);
    let broken = whole_page[..whole_page.len() - 1].to_owned();
    let refused = (400, json!({"kind": "Status", "code": 400, "message": "no streams here"}).to_string());
    let gone = lines(&[event("ERROR", json!({"code": 410}))]);
    let answers = [refused, (status, broken.clone()), (status, broken), (status, whole_page)].map(text);
    let ran = run_loop(spec(), answers.into_iter().chain([gone]).collect()).await;
    assert_eq!(kinds(&ran.asked), ["stream", "list", "list", "list", "watch 9", "list"]);
    let limits = ran.asked.iter().filter_map(|uri| uri.split_once("?limit=")).map(|(_, limit)| limit);
    assert_eq!(limits.collect::<Vec<_>>(), ["50", "25", "25", "50"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_watch_begins_at_the_bookmark_that_ended_the_list_or_after_it() {
    let listed = [added("a", 25), added("b", 20), end(30)];
    let ran = run_loop(spec(), vec![lines(&listed)]).await;
    assert_eq!(kinds(&ran.asked), ["stream", "watch 30"]);
    assert_eq!((ran.position.as_deref(), ran.is_ready), (Some("30"), true));
    assert_eq!((ran.report.failures, ran.report.lists, ran.report.watch_opens), (0, 1, 2));

    let followed = listed.iter().cloned().chain([bookmark(40, json!({}))]).collect::<Vec<_>>();
    let ran = run_loop(spec(), vec![lines(&followed)]).await;
    assert_eq!(kinds(&ran.asked), ["stream", "watch 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_parameter_is_listed_in_pages_from_then_on() {
    let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    for code in [400, 422] {
        let refusal = json!({"kind": "Status", "code": code, "reason": "Invalid", "message": message}).to_string();
        let (first, second) = (page(5, "", &[object("n", "a", 1)]), page(7, "", &[object("n", "b", 6)]));
        let gone = lines(&[event("ERROR", json!({"code": 410}))]);
        let ran = run_loop(spec(), vec![text((code, refusal)), text(first), gone, text(second)]).await;
        assert_eq!(kinds(&ran.asked), ["stream", "list", "watch 5", "list", "watch 7"]);
        assert_eq!(ran.names, ["n/b"]);
        assert_eq!((ran.report.failures, ran.report.lists), (1, 2), "only the 410 is a failure");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_the_parameter_is_found_out() {
    for said in [vec![added("a", 3)], vec![], vec![added("a", 3), bookmark(4, json!({}))]] {
        let streaming = Streaming::new(true);
        let scene = Scene::answering(vec![open_end(&said)]);
        let began = tokio::time::Instant::now();
        let found = scene.stream(&streaming).await.err().unwrap();
        assert!(matches!(found, NotListed::NotServed), "{said:?}: {found:?}");
        assert!(began.elapsed() <= Duration::from_secs(10) && !streaming.is_worth_asking(&Source::of(&spec())));
    }
}

#[tokio::test(start_paused = true)]
async fn where_lists_have_to_wait_for_the_broker_they_are_read_in_pages() {
    let hash_only = WatchSpec { mode: SnapshotMode::HashOnly, ..spec() };
    assert_eq!(kinds(&run_loop(hash_only, vec![]).await.asked), ["list"]);
}

#[test]
fn metadata_alone_is_asked_for_as_of_any_watch() {
    let source = Source { path: "/api/v1/pods".into(), metadata_only: true };
    let accept = |request: Request<Vec<u8>>| request.headers()[http::header::ACCEPT].clone();
    let initial = source.initial_watch_request(Duration::from_secs(9)).unwrap();
    assert_eq!(accept(initial), accept(source.watch_request("1", Duration::from_secs(9)).unwrap()));
}
