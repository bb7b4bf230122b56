#![allow(clippy::disallowed_methods, reason = "answers come from a script")]

use http::Response;
use serde_json::{Value, json};
use tower_test::mock;

use super::*;

mod tolerant;

type Handle = mock::Handle<Request<Body>, Response<Body>>;

fn client() -> (Client, Handle) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Client::new(service, "default"), handle)
}

/// Answers each request with `answer(path, accept)` until the client is dropped; returns the requested paths.
async fn serve(mut handle: Handle, answer: impl Fn(&str, &str) -> (u16, Value)) -> Vec<String> {
    let mut asked = Vec::new();
    while let Some((request, send)) = handle.next_request().await {
        let path = request.uri().path().to_owned();
        let accept = request.headers().get("accept").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let (status, body) = answer(&path, &accept);
        let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        send.send_response(response.body(Body::from(body.to_string().into_bytes())).unwrap());
        asked.push(path);
    }
    asked
}

async fn discover_with(
    answer: impl Fn(&str, &str) -> (u16, Value),
) -> (Result<Discovered, DiscoveryError>, Vec<String>) {
    let (client, handle) = client();
    let ask = async move {
        let found = discover(&client).await;
        drop(client);
        found
    };
    tokio::join!(ask, serve(handle, answer))
}

fn resource(plural: &str, kind: &str, scope: &str) -> Value {
    json!({
        "resource": plural, "responseKind": {"group": "", "version": "", "kind": kind}, "scope": scope,
        "singularResource": kind.to_lowercase(), "verbs": ["get", "list", "watch"], "shortNames": [&plural[..2]],
        "subresources": [{"subresource": "status", "responseKind": {"kind": kind}, "verbs": ["get"]}],
    })
}

fn aggregated(groups: Value) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups})
}

fn core() -> Value {
    aggregated(json!([{"metadata": {}, "versions": [{
        "version": "v1", "freshness": "Current", "resources": [
            resource("pods", "Pod", "Namespaced"),
            resource("nodes", "Node", "Cluster"),
            // For a type that has only subresources, the server sends an empty response kind.
            {"resource": "serviceproxyoptions", "responseKind": {"group": "", "version": "", "kind": ""}, "scope": "Cluster", "verbs": []},
        ],
    }]}]))
}

fn names(found: &Discovered) -> Vec<String> {
    found.types.iter().map(|t| format!("{}@{}{}", t.name(), t.version, if t.preferred { "*" } else { "" })).collect()
}

#[tokio::test]
async fn aggregated_discovery_takes_two_requests() {
    let groups = aggregated(json!([
        {"metadata": {"name": "autoscaling"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [resource("hpas", "Hpa", "Namespaced")]},
            {"version": "v1", "freshness": "Current", "resources": [resource("hpas", "Hpa", "Namespaced"), resource("olds", "Old", "Cluster")]},
        ]},
        {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale", "resources": []}]},
    ]));
    let (found, asked) = discover_with(|path, accept| {
        assert!(accept.starts_with("application/json;g=apidiscovery.k8s.io;v=v2;"), "{accept}");
        (200, if path == "/api" { core() } else { groups.clone() })
    })
    .await;
    let found = found.unwrap();
    assert_eq!(
        names(&found),
        ["pods@v1*", "nodes@v1*", "hpas.autoscaling@v2*", "hpas.autoscaling@v1", "olds.autoscaling@v1*"]
    );
    assert_eq!((found.types[0].namespaced, found.types[1].namespaced), (true, false));
    assert_eq!(found.types[0].short_names, ["po"]);
    assert_eq!((found.failed.len(), found.failed[0].group.as_str()), (1, "metrics.k8s.io"));
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn empty_document_is_a_failure() {
    let (found, _) = discover_with(|path, _| (200, if path == "/api" { core() } else { aggregated(json!([])) })).await;
    assert!(matches!(&found, Err(DiscoveryError::Empty { path }) if path == "/apis"), "{found:?}");
}

#[tokio::test]
async fn error_about_an_answer_that_is_not_discovery_names_its_path() {
    let (found, _) = discover_with(|_, _| (200, json!({"kind": "Login", "html": true}))).await;
    let error = found.unwrap_err().to_string();
    assert!(error.contains("`Login`") && error.contains("/api"), "{error}");
    let (found, _) = discover_with(|_, _| {
        (403, json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}))
    })
    .await;
    assert!(matches!(found, Err(DiscoveryError::Request { status: Some(403), .. })), "{found:?}");
}

#[tokio::test]
async fn older_discovery_is_read_group_by_group_and_a_dead_group_fails_alone() {
    let list = |group_version: &str, resources: Value| json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    let (found, mut asked) = discover_with(|path, _| match path {
        "/api" => (200, json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => (200, json!({"kind": "APIGroupList", "groups": [
            {"name": "apps", "versions": [{"groupVersion": "apps/v1beta1", "version": "v1beta1"}, {"groupVersion": "apps/v1", "version": "v1"}],
             "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}},
            {"name": "dead.io", "versions": [{"groupVersion": "dead.io/v1", "version": "v1"}]},
        ]})),
        "/api/v1" => (200, list("v1", json!([
            {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": true, "verbs": ["list", "watch"], "shortNames": ["po"]},
            {"name": "pods/log", "singularName": "", "kind": "Pod", "namespaced": true, "verbs": ["get"]},
        ]))),
        "/apis/apps/v1" | "/apis/apps/v1beta1" => (200, list(&path["/apis/".len()..], json!([
            {"name": "deployments", "singularName": "deployment", "kind": "Deployment", "namespaced": true, "verbs": ["list", "watch"]},
        ]))),
        _ => (503, json!({"kind": "Status", "status": "Failure", "message": "service unavailable", "reason": "ServiceUnavailable", "code": 503})),
    })
    .await;
    let found = found.unwrap();
    assert_eq!(names(&found), ["pods@v1*", "deployments.apps@v1*", "deployments.apps@v1beta1"]);
    assert_eq!((found.failed[0].group.as_str(), found.failed[0].version.as_str()), ("dead.io", "v1"));
    asked.sort();
    assert_eq!(asked, ["/api", "/api/v1", "/apis", "/apis/apps/v1", "/apis/apps/v1beta1", "/apis/dead.io/v1"]);
}

fn t(group: &str, plural: &str) -> ServedType {
    ServedType::named(group, "v1", "K", plural)
}

#[test]
fn known_types_of_a_failed_group_are_kept() {
    let before = Discovered {
        types: vec![t("", "pods"), t("dead.io", "things"), t("gone.io", "others")],
        ..Discovered::default()
    };
    let failed = FailedGroup { group: "dead.io".into(), version: "v1".into(), reason: "down".into() };
    let now = Discovered { types: vec![t("", "pods")], failed: vec![failed], ..Discovered::default() }.keeping(&before);
    assert_eq!(now.types, [t("", "pods"), t("dead.io", "things")]);
}

#[test]
fn version_that_fails_temporarily_stays_the_only_preferred_version() {
    let v2 = ServedType { version: "v2".into(), ..t("dead.io", "things") };
    let v1 = |preferred| ServedType { preferred, ..t("dead.io", "things") };
    let before = Discovered { types: vec![v2.clone(), v1(false)], ..Discovered::default() };
    let failed = FailedGroup { group: "dead.io".into(), version: "v2".into(), reason: "down".into() };
    let now =
        Discovered { types: vec![v1(true), t("other.io", "things")], failed: vec![failed], ..Discovered::default() }
            .keeping(&before);
    assert_eq!(now.types, [v1(false), t("other.io", "things"), v2]);
}

#[tokio::test(start_paused = true)]
async fn groups_of_older_discovery_are_not_read_with_every_poll() {
    let (client, mut handle) = client();
    let server = async move {
        let mut asked = 0;
        while let Some((request, send)) = handle.next_request().await {
            asked += 1;
            let group_version = request.uri().path().strip_prefix("/apis/");
            let group = |n| json!({"name": format!("g{n}.io"), "versions": [{"version": "v1"}]});
            let body = match request.uri().path() {
                "/api" => core(),
                "/apis" => json!({"kind": "APIGroupList", "groups": (0..60).map(group).collect::<Vec<_>>()}),
                _ => json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": [
                    {"name": "things", "kind": "Thing", "namespaced": true, "verbs": ["list", "watch"]},
                ]}),
            };
            send.send_response(Response::new(Body::from(body.to_string().into_bytes())));
        }
        asked
    };
    let ask = async move {
        let mut poller = Poller::default();
        for _ in 0..30 {
            poller.poll(&client).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    };
    let ((), asked) = tokio::join!(ask, server);
    assert_eq!(asked, 30 * 2 + 2 * 60, "requests in a minute");
}

#[tokio::test(start_paused = true)]
async fn hanging_group_of_older_discovery_delays_others_only_briefly() {
    let (client, mut handle) = client();
    let list = |group_version: &str| {
        json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": [
            {"name": "things", "kind": "Thing", "namespaced": true, "verbs": ["list", "watch"]},
        ]})
    };
    let server = async move {
        let mut hanging = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let body = match request.uri().path() {
                "/api" => core(),
                "/apis" => json!({"kind": "APIGroupList", "groups": [
                    {"name": "hangs.io", "versions": [{"version": "v1"}]}, {"name": "a.io", "versions": [{"version": "v1"}]},
                ]}),
                "/apis/a.io/v1" => list("a.io/v1"),
                _ => {
                    hanging.push(send);
                    continue;
                }
            };
            send.send_response(Response::new(Body::from(body.to_string().into_bytes())));
        }
    };
    let ask = async move {
        let began = tokio::time::Instant::now();
        let found = discover(&client).await.unwrap();
        drop(client);
        (found, began.elapsed())
    };
    let ((found, took), ()) = tokio::join!(ask, server);
    assert_eq!(names(&found).last().unwrap(), "things.a.io@v1*");
    assert_eq!((found.failed.len(), found.failed[0].group.as_str()), (1, "hangs.io"));
    assert!(took.as_secs() <= 10, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn etag_of_older_discovery_does_not_hide_a_new_type_of_a_known_group() {
    let (client, mut handle) = client();
    let server = async move {
        let mut lists = 0;
        while let Some((request, send)) = handle.next_request().await {
            let path = request.uri().path();
            // The list of groups does not change when a group gets a new type.
            let tagged = request.headers().contains_key("if-none-match") && matches!(path, "/api" | "/apis");
            let body = match request.uri().path() {
                "/api" => core(),
                "/apis" => json!({"kind": "APIGroupList", "groups": [
                    {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]},
                ]}),
                _ => {
                    lists += 1;
                    let resources: Vec<Value> = (0..lists)
                        .map(|n| json!({"name": format!("t{n}"), "singularName": "", "kind": "T", "namespaced": true, "verbs": []}))
                        .collect();
                    json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": resources})
                }
            };
            let answer = Response::builder().header("etag", "\"e1\"");
            send.send_response(if tagged {
                answer.status(304).body(Body::empty()).unwrap()
            } else {
                answer.body(Body::from(body.to_string().into_bytes())).unwrap()
            });
        }
    };
    let ask = async move {
        let mut poller = Poller::default();
        let first = poller.poll(&client).await.unwrap().map(|found| names(&found));
        let early = poller.poll(&client).await.unwrap();
        assert_eq!(early, None, "each group is read twice a minute, not with every poll");
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        let second = poller.poll(&client).await.unwrap().map(|found| names(&found));
        drop(client);
        (first.unwrap(), second.unwrap())
    };
    let ((first, second), ()) = tokio::join!(ask, server);
    assert_eq!(first.last().unwrap(), "t0.apps@v1*");
    assert_eq!(second.last().unwrap(), "t1.apps@v1*");
}

#[tokio::test]
async fn poll_of_an_unchanged_document_costs_an_empty_answer() {
    let (client, mut handle) = client();
    let groups = aggregated(json!([{"metadata": {"name": "apps"}, "versions": [
        {"version": "v1", "freshness": "Current", "resources": [resource("deployments", "Deployment", "Namespaced")]},
    ]}]));
    let server = async move {
        let mut conditional = 0;
        while let Some((request, send)) = handle.next_request().await {
            let body = if request.uri().path() == "/api" { core() } else { groups.clone() };
            let response = if request.headers().get("if-none-match").is_some_and(|etag| etag == "\"e1\"") {
                conditional += 1;
                Response::builder().status(304).body(Body::empty())
            } else {
                Response::builder().header("etag", "\"e1\"").body(Body::from(body.to_string().into_bytes()))
            };
            send.send_response(response.unwrap());
        }
        conditional
    };
    let ask = async move {
        let mut poller = Poller::default();
        let first = poller.poll(&client).await.unwrap();
        let second = poller.poll(&client).await.unwrap();
        drop(client);
        (first.map(|found| names(&found)), second)
    };
    let ((first, second), conditional) = tokio::join!(ask, server);
    assert_eq!(first.unwrap(), ["pods@v1*", "nodes@v1*", "deployments.apps@v1*"]);
    assert_eq!((second, conditional), (None, 2));
}
