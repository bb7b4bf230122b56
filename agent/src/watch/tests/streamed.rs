//! Watches that begin with everything there is.

use std::time::Duration;

use super::super::initial::{NotListed, Streaming, list_and_watch};
use super::loops::{added, bookmark, end, kinds, lines, open_end, run_loop, text};
use super::*;

impl Scene {
    fn answering(answers: Vec<(u16, Answer)>) -> Self {
        Self::with(&spec(), answers, None)
    }

    async fn stream(&self, streaming: &Streaming) -> Result<(Watch, ResourceVersion), NotListed> {
        list_and_watch(streaming, &self.client, &Source::of(&spec()), &self.sink).await
    }
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
    let (mut watch, version) = scene.stream(&Streaming::new(true)).await.unwrap();
    assert_eq!((version.to_string(), scene.names()), ("30".to_owned(), vec!["n/a".to_owned()]));
    let mut start = Start::new(version, Provenance::List);
    assert_eq!(watch.follow(&scene.sink, &mut start, &mut false, |_| {}).await, DONE);
    assert_eq!((start.version.to_string(), scene.names()), ("32".to_owned(), vec!["n/a".to_owned(), "n/c".to_owned()]));
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
