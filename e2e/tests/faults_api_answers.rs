//! Wrong answers of the API server affect only their own type, and the invariants hold.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use meshsync_e2e::cluster::Cluster;
use meshsync_e2e::custom_type::custom_type;
use meshsync_e2e::faults::{Answer, ApiProxy, Asked, NAMESPACE, Rule, Trial};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::metrics::{Metrics, agent_readiness, agent_watches};
use meshsync_e2e::stream::Told;
use meshsync_e2e::{await_condition, shared};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time from the end of wrong answers until everything is watched.
const RECOVERED_WITHIN: Duration = Duration::from_secs(120);
/// Longest time for which a failing type may delay readiness.
const READY_WITHIN: Duration = Duration::from_secs(90);
const CONFIG_MAPS: &str = "/api/v1/configmaps";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
/// More than fit on the first page of a list.
const MANY: usize = 1_200;

const HTML: Answer = Answer::Instead("text/html", "<html><body>Please log in</body></html>");
const A_LIST: Answer =
    Answer::Instead("application/json", r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#);
const NOTHING: Answer = Answer::Instead("application/json", "");
const A_STATUS: Answer = Answer::Instead(
    "application/json",
    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"InternalError","code":500}"#,
);

/// A proxy with `rules`, and an agent that starts behind it.
async fn begin(lab: &Lab, cluster: &Arc<Cluster>, rules: impl IntoIterator<Item = Rule>) -> Result<(ApiProxy, Trial)> {
    let proxy = ApiProxy::start(cluster, lab.dir()).await?;
    proxy.set(rules);
    let trial = Trial::begin_at(lab, cluster, lab.nats().jetstream(), proxy.kubeconfig(), |agent| agent).await?;
    Ok((proxy, trial))
}

/// Waits until all types except `failing` are live.
async fn others_are_live(failing: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    let live = await_condition("all other types are live", DEADLINE, async || {
        let watches = agent_watches().await?;
        let others =
            watches.as_object().context("no types")?.iter().filter(|(name, _)| !failing.contains(&name.as_str()));
        last = others.filter(|(_, report)| report["phase"] != "Live").map(|(name, _)| name.clone()).collect();
        Ok(last.is_empty().then_some(()))
    });
    live.await.with_context(|| format!("not live: {last:?}"))
}

/// Waits until everything is live.
async fn recovered() -> Result<()> {
    let mut last = Value::Null;
    let live = await_condition("everything is live again", RECOVERED_WITHIN, async || {
        last = agent_watches().await?;
        let mut types = last.as_object().context("no types")?.values();
        Ok(types.all(|report| report["phase"] == "Live").then_some(()))
    });
    live.await.with_context(|| format!("{last:#}"))
}

async fn fill(cluster: &Cluster, count: usize) -> Result<()> {
    let client = cluster.client().await?;
    let create = async |number: usize| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("fill-{number}")}});
        let request = Request::post("/api/v1/namespaces/default/configmaps")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())?;
        match client.request_text(request).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop).map_err(anyhow::Error::from),
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(16).try_collect().await
}

#[test]
fn busy_api_server_during_a_list_does_not_restart_the_list() -> Result<()> {
    shared::run("api-busy", async |lab, cluster| {
        fill(cluster, MANY).await?;
        let later = |asked: &Asked| asked.path == CONFIG_MAPS && asked.is_later_page();
        let (proxy, trial) = begin(lab, cluster, [Rule::new(later, Answer::Busy(1)).times(3)]).await?;
        recovered().await?;
        let pages = proxy.count(later);
        ensure!(pages > 3, "{pages} requests for further pages: the server refused none in mid-list");
        let begun = proxy.count(|asked| asked.begins_list(CONFIG_MAPS));
        ensure!(begun == 1, "the list was started {begun} times");
        trial.end().await
    })
}

#[test]
fn broken_off_lists_and_watches_lose_nothing() -> Result<()> {
    shared::run("api-truncated", async |lab, cluster| {
        let rules = [
            Rule::lists(CONFIG_MAPS, Answer::CutAfter(5_000)).times(1),
            Rule::lists(ROLES, Answer::EndAfter(5_000)).times(2),
            Rule::lists("/api/v1/namespaces", Answer::EndAfter(0)).times(1),
            // The answers break off in the middle of an event; the agent waits longer after each failure in a row.
            Rule::watches(CONFIG_MAPS, Answer::CutAfter(3_000)).times(1),
            Rule::watches(CONFIG_MAPS, Answer::EndAfter(3_500)).times(2),
        ];
        let (proxy, trial) = begin(lab, cluster, rules).await?;
        recovered().await?;
        let lists = proxy.count(|asked| asked.begins_list(ROLES));
        ensure!(lists == 3, "the list was read {lists} times");
        await_condition("watches broke off", DEADLINE, async || {
            Ok((proxy.count(|asked| asked.path == CONFIG_MAPS && asked.is_watch()) > 3).then_some(()))
        })
        .await?;
        trial.end().await
    })
}

#[test]
fn slow_list_of_a_type_delays_only_that_type() -> Result<()> {
    shared::run("api-slow", async |lab, cluster| {
        let slow = Rule::lists(ROLES, Answer::Dribble(Duration::from_millis(700))).times(1);
        let (proxy, trial) = begin(lab, cluster, [slow]).await?;
        others_are_live(&["clusterroles.rbac.authorization.k8s.io"]).await?;
        let phase = agent_watches().await?["clusterroles.rbac.authorization.k8s.io"]["phase"].take();
        ensure!(phase == "Pending", "the agent is {phase} although a list is incomplete");
        recovered().await?;
        let begun = proxy.count(|asked| asked.begins_list(ROLES));
        ensure!(begun == 1, "the list was started {begun} times although it made progress");
        trial.end().await
    })
}

/// More types than are listed at a time, by name and path.
const FROZEN: [(&str, &str); 8] = [
    ("services", "/api/v1/services"),
    ("endpoints", "/api/v1/endpoints"),
    ("pods", "/api/v1/pods"),
    ("secrets", "/api/v1/secrets"),
    ("serviceaccounts", "/api/v1/serviceaccounts"),
    ("replicationcontrollers", "/api/v1/replicationcontrollers"),
    ("nodes", "/api/v1/nodes"),
    ("resourcequotas", "/api/v1/resourcequotas"),
];

#[test]
fn endless_bodies_of_errors_and_lists_delay_only_their_types() -> Result<()> {
    shared::run("api-frozen-bodies", async |lab, cluster| {
        let answer = |number: usize| match number {
            0 => Answer::Silence,
            1 => Answer::FrozenAfter(20),
            _ => Answer::FrozenError,
        };
        let rules = FROZEN.iter().enumerate().map(|(number, (_, path))| Rule::lists(path, answer(number)));
        let (proxy, trial) = begin(lab, cluster, rules).await?;
        others_are_live(&FROZEN.map(|(name, _)| name)).await?;
        await_condition("the agent is ready without them", READY_WITHIN, async || {
            let (is_ready, text) = agent_readiness().await?;
            ensure!(is_ready, "{text}");
            Ok(Some(()))
        })
        .await?;
        let watches = agent_watches().await?;
        let silent: Vec<&str> =
            FROZEN.map(|(name, _)| name).into_iter().filter(|name| watches[name]["lastError"].is_null()).collect();
        ensure!(silent.is_empty(), "the agent reports nothing about {silent:?}: {watches:#}");
        proxy.set([]);
        recovered().await?;
        trial.end().await
    })
}

#[test]
fn unexpected_answers_fail_only_their_types() -> Result<()> {
    shared::run("api-something-else", async |lab, cluster| {
        let watches = [
            ("services", "/api/v1/services", HTML),
            ("pods", "/api/v1/pods", A_LIST),
            ("secrets", "/api/v1/secrets", NOTHING),
            ("nodes", "/api/v1/nodes", A_STATUS),
        ];
        let lists = [
            ("serviceaccounts", "/api/v1/serviceaccounts", HTML),
            ("endpoints", "/api/v1/endpoints", NOTHING),
            ("limitranges", "/api/v1/limitranges", Answer::Instead("application/json", "[]")),
            ("podtemplates", "/api/v1/podtemplates", Answer::Instead("application/json", "null")),
            ("resourcequotas", "/api/v1/resourcequotas", Answer::Instead("application/json", "{}")),
            ("persistentvolumes", "/api/v1/persistentvolumes", A_STATUS),
        ];
        let rules = watches.map(|(_, path, answer)| Rule::watches(path, answer));
        let rules = rules.into_iter().chain(lists.map(|(_, path, answer)| Rule::lists(path, answer)));
        let (proxy, trial) = begin(lab, cluster, rules).await?;
        let names: Vec<&str> = watches.iter().chain(&lists).map(|(name, ..)| *name).collect();
        others_are_live(&names).await?;
        let mut last = Value::Null;
        let failed = await_condition("each type has failed more than once and is not live", DEADLINE, async || {
            last = agent_watches().await?;
            let is_bad = |name: &&str| last[name]["failures"].as_u64() >= Some(2) && last[name]["phase"] != "Live";
            Ok(names.iter().all(is_bad).then_some(()))
        });
        failed.await.with_context(|| {
            let reports: Vec<_> = names.iter().map(|name| format!("{name}: {}", last[name])).collect();
            reports.join("\n")
        })?;
        proxy.set([]);
        recovered().await?;
        trial.end().await
    })
}

/// Invalid entries that metrics adapters and KubeVirt add to discovery, and further ones.
fn with_nulls(groups: &mut Value) {
    let Some(items) = groups["items"].as_array_mut() else { return };
    let resource = |name: Value, verbs: Value| {
        json!({"resource": name, "responseKind": {"group": "", "version": "", "kind": "Odd"}, "scope": "Namespaced",
            "singularResource": "", "verbs": verbs})
    };
    let group = |name: &str, resources: Value| json!({"metadata": {"name": name}, "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]});
    items.push(group("custom.metrics.k8s.io", json!([resource(json!("pods/cpu"), Value::Null)])));
    items.push(group(
        "subresources.kubevirt.io",
        json!([resource(json!("machines/start"), json!(["update"])), resource(json!("expand"), Value::Null)]),
    ));
    items.push(group("nulls.example.org", Value::Null));
    items.push(group("null-entries.example.org", json!([null, resource(Value::Null, json!(["list", "watch"]))])));
    items.push(json!({"metadata": {"name": "no-versions.example.org"}, "versions": null}));
    items.push(json!({"metadata": null}));
    items.push(Value::Null);
}

fn without_apps(groups: &mut Value) {
    if let Some(items) = groups["items"].as_array_mut() {
        items.retain(|group| group["metadata"]["name"] != "apps");
    }
}

const REVISION: &str = r#"{"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
    "metadata": {"name": "kept", "namespace": "churn"}, "data": {"a": 1}}"#;

#[test]
fn nulls_and_gaps_in_discovery_lose_nothing() -> Result<()> {
    shared::run("api-discovery", async |lab, cluster| {
        let (proxy, trial) = begin(lab, cluster, [Rule::at("/apis", Answer::Changed(with_nulls))]).await?;
        recovered().await?;
        cluster.apply(custom_type("example.com", "Gizmo")).await?;
        await_condition("a new type is watched", DEADLINE, async || {
            Ok((agent_watches().await?["gizmos.example.com"]["phase"] == "Live").then_some(()))
        })
        .await?;

        cluster.apply(REVISION).await?;
        await_condition("the object is stored", DEADLINE, async || {
            Ok((trial.stored("apps/v1", "ControllerRevision") > 0).then_some(()))
        })
        .await?;
        let from = trial.carried().len();
        proxy.forget();
        proxy.set([Rule::at("/apis", Answer::Changed(without_apps))]);
        await_condition("the gap was seen", DEADLINE, async || {
            Ok((proxy.count(|asked| asked.path == "/apis") >= 3).then_some(()))
        })
        .await?;
        proxy.set([]);
        recovered().await?;
        trial.churn.go_on(100).await?;
        let told = trial.carried();
        let told = told
            .iter()
            .skip(from)
            .find(|entry| entry.subject.contains(".controllerrevisions.") && matches!(entry.told, Told::State { .. }));
        ensure!(told.is_none(), "the agent published an object that never changed: {told:?}");
        ensure!(Metrics::of_agent().await?.sum("meshsync_objects") > 0.0, "nothing is held");
        cluster.kubectl(["delete", "controllerrevision", "kept", "-n", NAMESPACE]).await?;
        trial.end().await
    })
}
