//! From where watches go on, and where a list is needed instead.

use super::loops::{Play, added, end, kinds, lines, open_end, run_loop, text};
use super::*;

fn left_behind(version: &'static str) -> Play {
    Play { checkpoint: Some(version), stored: vec![object("n", "a", 8), object("n", "late", 9)], ..Play::default() }
}

fn version(version: u64) -> (u16, Answer) {
    text(page(version, "", &[]))
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_gone_on_from_where_the_server_is_as_far() {
    let ran = left_behind("10").run(vec![version(12), lines(&[added("b", 13)])]).await;
    assert_eq!(kinds(&ran.asked)[..2], ["version", "watch 10"]);
    assert_eq!(ran.names, ["n/a", "n/b", "n/late"]);
    assert_eq!((ran.report.lists, ran.is_ready), (0, true));
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_backup_while_no_agent_ran_is_found_by_the_next_one() {
    let restored = || text(page(5, "", &[object("n", "a", 2)]));
    let ran = left_behind("10").run(vec![version(5), restored(), restored(), open_end(&[])]).await;
    assert_eq!(kinds(&ran.asked)[..3], ["version", "list", "list"]);
    assert_eq!(ran.names, ["n/a"], "what was created after the backup is gone");
    assert_eq!(ran.position.as_deref(), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_backup_is_found_without_a_checkpoint_and_by_a_stream() {
    let restored = || text(page(5, "", &[object("n", "a", 2)]));
    let play = Play { checkpoint: None, ..left_behind("") };
    let ran = play.run(vec![restored(), restored(), open_end(&[])]).await;
    assert_eq!(kinds(&ran.asked)[..2], ["list", "list"], "what is stored is newer than what is listed");

    let streamed = lines(&[added("a", 2), end(5)]);
    let play = Play { checkpoint: None, streamed: true, ..left_behind("") };
    let ran = play.run(vec![streamed, restored(), restored(), open_end(&[])]).await;
    assert_eq!(kinds(&ran.asked), ["stream", "list", "list", "watch 5", "version"]);
    assert_eq!(ran.names, ["n/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_take_the_version_is_listed_and_the_version_forgotten() {
    for code in [400, 422] {
        let refusal = || text((code, json!({"kind": "Status", "code": code, "message": "bad version"}).to_string()));
        let listed = || text(page(20, "", &[object("n", "a", 8)]));
        let ran = left_behind("10").run(vec![version(12), refusal(), listed(), open_end(&[])]).await;
        assert_eq!(kinds(&ran.asked)[..4], ["version", "watch 10", "list", "watch 20"]);
        assert_eq!(ran.position.as_deref(), Some("20"));
        // In an event, too.
        let event = lines(&[event("ERROR", json!({"code": code, "message": "bad version"}))]);
        let ran = Play::default().run(vec![listed(), event, listed()]).await;
        assert_eq!(kinds(&ran.asked), ["list", "watch 20", "list", "watch 20"]);
        let ran = Play::default().run(vec![listed(), refusal()]).await;
        assert_eq!((kinds(&ran.asked)[2].as_str(), ran.position), ("list", None));
        assert_eq!(ran.report.reason, "WatchRefused");
    }
}

#[tokio::test(start_paused = true)]
async fn where_lists_have_no_version_each_watch_is_followed_by_a_list() {
    for version in ["", "0"] {
        let list = |names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| object("n", name, 3)).collect();
            let metadata = json!({"resourceVersion": version});
            let body = json!({"kind": "ConfigMapList", "metadata": metadata, "items": items});
            text((200, body.to_string()))
        };
        let answers = vec![list(&["a", "b"]), lines(&[added("a", 3), added("c", 4)]), list(&["a", "c"])];
        let ran = Play::default().run(answers).await;
        assert_eq!(kinds(&ran.asked), ["list", "watch ", "list", "watch "]);
        assert_eq!(ran.names, ["n/a", "n/c"], "what was deleted between two watches is gone");
        assert_eq!((ran.report.failures, ran.position), (0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_asks_the_server_before_it_goes_on() {
    let refused = text((500, json!({"kind": "Status", "code": 500, "message": "no"}).to_string()));
    let listed = || text(page(20, "", &[object("n", "a", 8)]));
    let restored = || text(page(7, "", &[]));
    let ran = run_loop(
        WatchSpec { mode: SnapshotMode::HashOnly, ..spec() },
        vec![listed(), refused, version(7), restored(), restored()],
    );
    let ran = ran.await;
    assert_eq!(kinds(&ran.asked), ["list", "watch 20", "version", "list", "list", "watch 7"]);
    assert_eq!(ran.names, Vec::<String>::new());
}
