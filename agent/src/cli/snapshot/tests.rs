//! What a command line selects, and how much of it a scripted API server lets be read.

#![allow(clippy::disallowed_methods, reason = "answers come from a script")]

use clap::Parser;
use http::{Request, Response};
use kube::client::Body;
use meshsync_crds::discovery::ServedType;
use serde_json::json;
use tower_test::mock;

use super::read::Gaps;
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    snapshot: SnapshotArgs,
}

fn args(args: &[&str]) -> SnapshotArgs {
    Cli::parse_from(["t"].iter().chain(args)).snapshot
}

fn refusal(args: &[&str]) -> String {
    Cli::try_parse_from(["t"].iter().chain(args)).err().unwrap().to_string()
}

fn served(group: &str, kind: &str, plural: &str, namespaced: bool) -> ServedType {
    ServedType {
        singular: kind.to_lowercase(),
        namespaced,
        verbs: vec!["list".into(), "watch".into()],
        ..ServedType::named(group, "v1", kind, plural)
    }
}

fn discovered(with_leases: bool) -> Discovered {
    let mut types = vec![
        served("", "Pod", "pods", true),
        served("", "Event", "events", true),
        served("", "Node", "nodes", false),
        served("events.k8s.io", "Event", "events", true),
    ];
    types.extend(with_leases.then(|| served("coordination.k8s.io", "Lease", "leases", true)));
    Discovered { types, ..Discovered::default() }
}

fn planned(arguments: &[&str]) -> Vec<String> {
    let plan = args(arguments).plan(&discovered(true)).unwrap();
    plan.iter().map(|spec| spec.selected.served.name()).collect()
}

#[test]
fn what_is_left_out_by_default_can_be_asked_for() {
    assert_eq!(planned(&[]), ["pods", "nodes"]);
    assert_eq!(planned(&["--include", "events,pods"]), ["pods", "events", "events.events.k8s.io"]);
    assert_eq!(planned(&["--include", "lease"]), ["leases.coordination.k8s.io"]);
    assert_eq!(planned(&["--exclude", ""]).len(), 5, "nothing is left out");
    assert_eq!(planned(&["--exclude", "nodes,"]).len(), 4);
    let error = args(&["--include", "events", "--exclude", "events"]).plan(&discovered(true)).unwrap_err();
    assert!(error.to_string().contains("--exclude (`events`) excludes all that --include"), "{error}");
}

#[test]
fn a_default_that_the_server_does_not_know_is_nobodys_typing_error() {
    assert!(args(&["--include", "pods"]).plan(&discovered(false)).is_ok());
    assert!(args(&["--exclude", "leases"]).plan(&discovered(false)).is_err());
}

#[test]
fn in_a_namespace_there_is_nothing_cluster_scoped_unless_it_is_named() {
    assert_eq!(planned(&["-n", "shop"]), ["pods"]);
    assert_eq!(planned(&["-n", "shop", "--include", "pods,nodes"]), ["pods", "nodes"]);
}

#[test]
fn what_is_no_file_and_no_namespace_is_refused_with_what_to_do() {
    let error = refusal(&["-o", "yaml"]);
    assert!(error.contains("--format yaml") && error.contains("./yaml"), "{error}");
    assert_eq!(args(&["-o", "./yaml"]).output, PathBuf::from("./yaml"));
    for name in ["", "../kube-system", "Shop", "a b"] {
        assert!(refusal(&["-n", name]).contains("--namespace"), "{name}");
    }
}

/// What the server of a scripted cluster says to each path; a path that is not there is forbidden.
async fn read(arguments: &[&str], allowed: &'static [&'static str]) -> (usize, Gaps, Vec<String>) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let path = request.uri().path().to_owned();
            let (status, answer) = match allowed.contains(&path.as_str()) {
                true => {
                    let item = json!({"metadata": {"name": "a", "namespace": path.split('/').nth(4), "uid": path}});
                    (200, json!({"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [item]}))
                }
                false => (403, json!({"kind": "Status", "message": format!("{path} is forbidden")})),
            };
            asked.push(path);
            send.send_response(
                Response::builder().status(status).body(answer.to_string().into_bytes().into()).unwrap(),
            );
        }
        asked
    });
    let client = Client::new(service, "home");
    let plan = args(arguments).plan(&discovered(true)).unwrap();
    let store = Store::new();
    let gaps = read_all(&client, &store, plan).await;
    drop(client);
    (store.stats().objects, gaps, server.await.unwrap())
}

#[tokio::test]
async fn where_all_namespaces_are_forbidden_the_own_one_is_read() {
    let (objects, gaps, asked) = read(&["--include", "pods"], &["/api/v1/namespaces/home/pods"]).await;
    assert_eq!(asked, ["/api/v1/pods", "/api/v1/namespaces/home/pods"]);
    assert_eq!((objects, gaps.is_none()), (1, false), "a part is no silent success");
    assert_eq!(gaps.summary(), "0 types missing, 1 read in namespace home only");
    assert!(gaps.to_string().starts_with("only in namespace home, "), "{gaps}");
}

#[tokio::test]
async fn what_is_forbidden_everywhere_is_missing() {
    let (objects, gaps, _) = read(&["--include", "pods,nodes"], &[]).await;
    assert_eq!((objects, gaps.summary()), (0, "2 types missing".to_owned()));
    assert!(gaps.to_string().contains("missing: pods: refused (403): /api/v1/pods is forbidden"), "{gaps}");
}

#[tokio::test]
async fn named_namespaces_are_read_one_by_one() {
    const SHOP: &str = "/api/v1/namespaces/shop/pods";
    const WEB: &str = "/api/v1/namespaces/web/pods";
    let (objects, gaps, asked) = read(&["-n", "shop,web"], &[SHOP, WEB]).await;
    assert_eq!((objects, gaps.is_none()), (2, true), "{gaps}");
    assert_eq!(asked, [SHOP, WEB]);
    let (objects, gaps, _) = read(&["-n", "shop,web"], &[WEB]).await;
    assert_eq!((objects, gaps.summary()), (1, "0 types missing, 1 not read in some namespaces".to_owned()));
    assert!(gaps.to_string().starts_with("missing: pods in namespace shop: refused (403)"), "{gaps}");
}
