//! Watches that are answered with something else than events, end at once, or are silent.

use std::time::Duration;

use tokio::time::Instant;

use super::loops::{Play, bookmark, kinds, lines, open_end, text};
use super::*;

fn list(version: u64) -> (u16, Answer) {
    text(page(version, "", &[object("n", "a", 1)]))
}

async fn play(answers: Vec<(u16, Answer)>) -> super::loops::Ran {
    Play::default().run(answers).await
}

#[tokio::test(start_paused = true)]
async fn what_is_no_watch_is_a_failure_and_is_followed_by_a_list() {
    let status = json!({"kind": "Status", "code": 410, "reason": "Expired"}).to_string();
    for (answer, said) in [
        (page(9, "", &[object("n", "secret", 2)]).1, "a document of kind ConfigMapList"),
        (format!("{}\n", page(9, "", &[]).1), "a document of kind ConfigMapList"),
        ("<html>login</html>".to_owned(), "a page, as proxies give"),
        ("<html>\nlogin\n</html>\n".to_owned(), "a page, as proxies give"),
        ("garbage".to_owned(), "7 bytes that are no event"),
        (status.clone(), "no longer keeps"),
        (format!("{status}\n"), "no longer keeps"),
        // The last event of all, which no line end follows.
        (event("ERROR", json!({"code": 410})).trim_end().to_owned(), "no longer keeps"),
        (json!({"kind": "Status", "status": "Success"}).to_string(), "without a reason"),
    ] {
        let ran = play(vec![list(5), lines(std::slice::from_ref(&answer))]).await;
        assert_eq!(kinds(&ran.asked), ["list", "watch 5", "list"], "{answer}");
        assert_eq!(ran.report.failures, 1, "{answer}");
        assert!(ran.report.last_error.contains(said), "{answer}: {}", ran.report.last_error);
        assert!(!ran.report.last_error.contains("secret"));
    }
}

#[tokio::test]
async fn an_event_that_no_line_end_follows_has_come() {
    let last = event("ADDED", object("n", "a", 20));
    let scene = Scene::new(stream(&[last.trim_end().to_owned()]));
    assert_eq!(scene.watch().await, (DONE, "20".to_owned()));
    assert_eq!(scene.names(), ["n/a"]);
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_failures_and_followed_by_a_list() {
    let began = Instant::now();
    let ran = play(vec![list(5), lines(&[]), text(version(5)), lines(&[]), text(version(5)), lines(&[])]).await;
    assert_eq!(kinds(&ran.asked), ["list", "watch 5", "version", "watch 5", "version", "watch 5", "list"]);
    assert_eq!(ran.report.failures, 3);
    assert!(ran.report.last_error.contains("3 watches in a row"), "{}", ran.report.last_error);
    assert!(began.elapsed() >= Duration::from_secs(7), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watches_that_bring_something_and_end_at_once_are_opened_ever_more_slowly() {
    let began = Instant::now();
    let mark = |version| lines(&[bookmark(version, json!({}))]);
    let ran = play([list(5)].into_iter().chain((6..14).map(mark)).collect()).await;
    assert_eq!((ran.asked.len(), ran.report.failures), (10, 0));
    assert!(began.elapsed() > Duration::from_secs(100), "{:?}", began.elapsed());
}

/// What a server says that is asked for its version.
fn version(version: u64) -> (u16, String) {
    page(version, "", &[])
}

#[tokio::test(start_paused = true)]
async fn only_who_has_sent_a_bookmark_is_judged_by_silence() {
    let began = Instant::now();
    let ran = play(vec![list(5), open_end(&[bookmark(6, json!({}))])]).await;
    assert_eq!(kinds(&ran.asked), ["list", "watch 5", "version"]);
    assert_eq!(ran.report.failures, 1);
    assert!(began.elapsed() < Duration::from_secs(160), "{:?}", began.elapsed());

    let began = Instant::now();
    let ran = play(vec![list(5), open_end(&[event("ADDED", object("n", "b", 7))])]).await;
    assert_eq!(ran.report.failures, 0, "it has nothing to tell, which is no fault");
    assert_eq!(kinds(&ran.asked), ["list", "watch 5", "version"], "it may have died all the same");
    let waited = began.elapsed().as_secs();
    assert!((330..=635).contains(&waited), "somewhat longer than the server was asked to keep it: {waited}");
}

#[tokio::test(start_paused = true)]
async fn a_type_is_live_when_its_watch_is_open_and_not_before() {
    let ran = play(vec![list(5)]).await;
    assert_eq!(kinds(&ran.asked), ["list", "watch 5"]);
    assert_ne!(ran.report.phase, crate::watch::Phase::Live, "the watch was not answered yet");
    assert!(ran.is_ready, "the first list is complete");
}
