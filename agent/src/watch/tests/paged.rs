//! Lists in pages: what a server that is busy, forgets, or has no end makes of them.

use std::time::Duration;

use tokio::time::Instant;

use super::loops::{kinds, lines, open_end, run_loop, text};
use super::*;

/// What a server says to a continue token that is too old.
fn forgotten(go_on: &str) -> (u16, String) {
    let metadata = json!({"continue": go_on});
    (410, json!({"kind": "Status", "metadata": metadata, "code": 410, "reason": "Expired"}).to_string())
}

fn busy(code: u16, seconds: u64) -> (u16, String) {
    let details = json!({"retryAfterSeconds": seconds});
    (code, json!({"kind": "Status", "code": code, "message": "too many", "details": details}).to_string())
}

#[tokio::test]
async fn a_list_whose_token_expires_goes_on_with_the_token_that_comes_instead() {
    let before = [object("n", "a", 1), object("n", "b", 2), object("n", "x", 3)];
    let scene = Scene::new(vec![
        page(5, "", &before),
        page(10, "one", &[object("n", "a", 1)]),
        forgotten("two"),
        page(90, "", &[object("n", "c", 80)]),
    ]);
    scene.list().await.unwrap();
    scene.drain();
    let listed = scene.list().await;
    assert_eq!(listed, Ok(ResourceVersion::new("10")), "what is before the first page is told by a watch from there");
    assert_eq!(scene.names(), ["n/a", "n/c"]);
    assert_eq!(scene.drain(), ["delete n/b", "delete n/x", "upsert n/c"]);
    assert!(scene.asked().await[3].ends_with("&continue=two"));
}

#[tokio::test]
async fn a_list_that_is_forgotten_without_another_token_is_read_in_one_answer() {
    let all = [object("n", "a", 1), object("n", "b", 2)];
    let scene = Scene::new(vec![page(10, "one", &all[..1]), forgotten(""), page(12, "", &all)]);
    assert_eq!(scene.list().await, Ok(ResourceVersion::new("12")));
    assert_eq!(scene.names(), ["n/a", "n/b"]);
    assert!(scene.asked().await[2].ends_with("?limit=0"));
}

#[tokio::test(start_paused = true)]
async fn where_no_watch_begins_from_a_list_that_was_forgotten_the_next_one_is_read_in_one_answer() {
    let first = object("n", "a", 1);
    let answers = vec![
        text(page(10, "one", std::slice::from_ref(&first))),
        text(forgotten("two")),
        text(page(90, "", &[object("n", "c", 80)])),
        text(forgotten("")),
        text(page(95, "", &[first, object("n", "c", 80)])),
        open_end(&[]),
    ];
    let ran = run_loop(
        WatchSpec { mode: SnapshotMode::Full, ..spec() },
        [invalid_stream()].into_iter().chain(answers).collect(),
    );
    let asked = ran.await.asked;
    assert_eq!(kinds(&asked)[1..], ["list", "list one", "list two", "watch 10", "list", "watch 95", "version"]);
    assert!(asked[5].ends_with("?limit=0"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_a_busy_server_refuses_is_asked_for_again_and_no_other() {
    let all = [object("n", "a", 1), object("n", "b", 2)];
    let scene = Scene::new(vec![page(5, "one", &all[..1]), busy(429, 7), busy(503, 3_600), page(5, "", &all[1..])]);
    let began = Instant::now();
    assert_eq!(scene.list().await, Ok(ResourceVersion::new("5")));
    assert_eq!(scene.names(), ["n/a", "n/b"]);
    let waited = began.elapsed().as_secs_f64();
    // 7 s and a minute at most, each up to half as long again.
    assert!((67.0..=101.0).contains(&waited), "{waited}");
    let asked = scene.asked().await;
    assert_eq!(kinds(&asked), ["list", "list one", "list one", "list one"]);
    let limits: Vec<_> = asked.iter().map(|uri| uri.split(['=', '&']).nth(1).unwrap().to_owned()).collect();
    assert_eq!(limits[1..], [limits[1].clone(), limits[1].clone(), limits[1].clone()], "only slowness shrinks pages");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_busy_is_left_alone_in_the_end() {
    let mut answers = vec![page(5, "one", &[object("n", "a", 1)])];
    answers.extend((0..6).map(|_| busy(429, 1)));
    let scene = Scene::new(answers);
    assert!(matches!(scene.list().await, Err(RequestError::Unavailable { status: 429, .. })));
    assert_eq!(scene.asked().await.len(), 7);
}

#[tokio::test]
async fn a_continue_token_that_comes_again_ends_the_list() {
    for tokens in [vec!["one", "one"], vec!["one", "two", "one"]] {
        let answers =
            tokens.iter().enumerate().map(|(at, token)| page(5, token, &[object("n", &format!("a{at}"), 1)])).collect();
        let scene = Scene::new(answers);
        let error = scene.list().await.unwrap_err().to_string();
        assert!(error.contains("no end"), "{error}");
        assert_eq!(scene.asked().await.len(), tokens.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_goes_on_and_brings_nothing_has_no_end() {
    for items in [vec![], vec![object("n", "a", 1)]] {
        let scene = Scene::new((0..20 + items.len()).map(|at| page(5, &format!("t{at}"), &items)).collect());
        let began = Instant::now();
        let error = scene.list().await.unwrap_err().to_string();
        assert!(error.contains("20 pages in a row"), "{error}");
        assert!(began.elapsed() > Duration::from_secs(20), "it is not asked without pause");
        assert!(scene.drain().len() <= 1);
    }
    // Some empty pages are none of a list without end.
    let mut answers: Vec<_> = (0..10).map(|at| page(5, &format!("t{at}"), &[])).collect();
    answers.push(page(5, "", &[object("n", "a", 1)]));
    let scene = Scene::new(answers);
    assert_eq!(scene.list().await, Ok(ResourceVersion::new("5")));
}

#[tokio::test]
async fn a_server_that_is_restored_in_mid_list_is_listed_again() {
    let scene = Scene::new(vec![page(10, "one", &[object("n", "a", 1)]), page(7, "", &[])]);
    assert_eq!(scene.list().await, Err(older("7", "10")));
}

/// What a server without streamed lists says.
fn invalid_stream() -> (u16, Answer) {
    text((400, json!({"kind": "Status", "code": 400, "message": "no streams here"}).to_string()))
}

#[tokio::test(start_paused = true)]
async fn a_failing_type_stops_gating_after_half_a_minute_and_says_why() {
    let message = "conversion webhook for example.com failed: connection refused";
    let dead = || text((500, json!({"kind": "Status", "code": 500, "message": message}).to_string()));
    let ran = run_loop(hash_only(), (0..3).map(|_| dead()).collect()).await;
    assert!(!ran.is_ready, "it may well come within half a minute");
    let ran = run_loop(hash_only(), (0..7).map(|_| dead()).collect()).await;
    assert!(ran.is_ready);
    let gate = &ran.gates[0];
    assert_eq!((gate.name.as_str(), gate.ready, gate.waived), ("type/configmaps", false, true));
    assert!(gate.reason.as_ref().unwrap().contains(message), "{gate:?}");
    assert_eq!((ran.report.reason, ran.report.failing_since.is_some()), ("ServerError", true));
    // A type that was listed and then fails is shown in the same way, and was never in the way.
    let ran = run_loop(hash_only(), vec![text(page(5, "", &[])), dead()]).await;
    assert!(ran.is_ready && ran.gates.len() == 1 && ran.gates[0].waived, "{:?}", ran.gates);
    assert_eq!(ran.report.phase, crate::watch::Phase::Behind);
    // And leaves no trace once it works.
    let ran = run_loop(hash_only(), vec![text(page(5, "", &[])), dead(), text(page(6, "", &[])), lines(&[])]).await;
    assert_eq!(kinds(&ran.asked), ["list", "watch 5", "version", "watch 5", "version"]);
}

fn hash_only() -> WatchSpec {
    WatchSpec { mode: SnapshotMode::HashOnly, ..spec() }
}
