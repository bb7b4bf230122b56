//! Faults of the link to the API server, and of the server at an agent's start: the invariants hold.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use meshsync_e2e::cluster::Cluster;
use meshsync_e2e::custom_type::custom_type;
use meshsync_e2e::faults::{Answer, ApiProxy, Link, Rule, ServerLink, Trial};
use meshsync_e2e::metrics::{Metrics, agent_readiness, agent_watches};
use meshsync_e2e::stream::{Entry, Told};
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab::Lab, shared};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time until an agent recovers from silent connections.
const OVER_SILENCE_WITHIN: Duration = Duration::from_secs(90);
/// Time after which a stuck agent must report what is stuck.
const SAYS_AFTER: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Custom resources that exist when an agent starts.
const GADGETS: usize = 100;

async fn make_gadgets(cluster: &Cluster, count: usize) -> Result<()> {
    let gadget = |number| {
        json!({"apiVersion": "example.com/v1", "kind": "Gadget",
            "metadata": {"name": format!("gadget-{number}"), "namespace": "default"}, "spec": {"size": number}})
    };
    cluster.apply(custom_type("example.com", "Gadget")).await?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(gadget).collect::<Vec<_>>()});
    await_condition("gadgets are accepted", DEADLINE, async || Ok(cluster.apply(list.to_string()).await.ok()))
        .await
        .map(drop)
}

/// An agent that reaches the API server, reads its configuration and reports its status through a link.
struct Configured {
    link: ServerLink,
    trial: Trial,
}

impl Configured {
    async fn begin(lab: &Lab, cluster: &Arc<Cluster>) -> Result<Self> {
        System::of(cluster).install_definition().await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        cluster.apply(namespace.to_string()).await?;
        let meshsync = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
            "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {}});
        cluster.apply(meshsync.to_string()).await?;
        configure(cluster, "first", &[]).await?;
        let link = ServerLink::start(cluster, lab.dir()).await?;
        let config_map = format!("--config-map={NAMESPACE}/{NAME}-agent");
        let with_config = |agent: meshsync_e2e::process::Daemon| agent.arg(config_map);
        let nats = lab.nats().jetstream();
        let trial = Trial::begin_at(lab, cluster, nats, link.kubeconfig(), with_config).await?;
        in_force(cluster, "first").await?;
        Ok(Self { link, trial })
    }
}

async fn in_force(cluster: &Cluster, revision: &str) -> Result<()> {
    await_condition(&format!("revision {revision} is in force"), DEADLINE, async || {
        let status = System::of(cluster).meshsync().await?["status"].take();
        Ok((status["agent"]["appliedRevision"] == revision).then_some(()))
    })
    .await
}

/// Writes the agent's configuration as an operator would.
async fn configure(cluster: &Cluster, revision: &str, more: &[&str]) -> Result<()> {
    let built_in = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];
    let blacklist: Vec<&str> = built_in.iter().chain(more).copied().collect();
    let uid = System::of(cluster).meshsync().await?["metadata"]["uid"].take();
    let config = json!({"revision": revision, "reportTo": {"namespace": NAMESPACE, "name": NAME, "uid": uid},
        "informer_config": {"blacklist": blacklist, "whitelist": [], "metadataOnly": [], "namespaces": {}}});
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.yaml": config.to_string()},
        "metadata": {"name": format!("{NAME}-agent"), "namespace": NAMESPACE}});
    cluster.apply(config_map.to_string()).await.map(drop)
}

#[test]
fn frozen_connections_to_the_api_server_are_replaced() -> Result<()> {
    shared::run("api-frozen", async |lab, cluster| {
        let Configured { trial, link } = Configured::begin(lab, cluster).await?;
        link.proxy.freeze();
        let began = Instant::now();
        make_gadgets(cluster, 1).await?;
        configure(cluster, "second", &["secrets"]).await?;
        let mut said = String::new();
        await_condition("a new type is watched and an edit in force", OVER_SILENCE_WITHIN, async || {
            let (is_ready, text) = agent_readiness().await?;
            if !is_ready {
                said = text;
            }
            let status = System::of(cluster).meshsync().await?["status"].take();
            let in_force = status["agent"]["appliedRevision"] == "second" && trial.stored("v1", "Secret") == 0;
            Ok((in_force && trial.stored("example.com/v1", "Gadget") == 1).then_some(()))
        })
        .await?;
        ensure!(began.elapsed() < SAYS_AFTER || !said.is_empty(), "stuck for {:?}, and ready", began.elapsed());
        configure(cluster, "third", &[]).await?;
        in_force(cluster, "third").await?;
        trial.end().await
    })
}

#[test]
fn half_open_cut_and_slow_links_to_the_api_server_lose_nothing() -> Result<()> {
    shared::run("api-link", async |lab, cluster| {
        let link = ServerLink::start(cluster, lab.dir()).await?;
        let trial = Trial::begin_at(lab, cluster, lab.nats().jetstream(), link.kubeconfig(), |agent| agent).await?;
        for _ in 0..5 {
            link.proxy.set(Link::Cut);
            trial.churn.go_on(20).await?;
            link.proxy.set(Link::Open);
            trial.live().await.context("after a cut")?;
        }
        link.proxy.set(Link::Slow(100_000));
        trial.churn.go_on(200).await?;
        link.proxy.set(Link::HalfOpen);
        trial.churn.go_on(500).await?;
        link.proxy.set(Link::Open);
        await_condition("the agent is live again", OVER_SILENCE_WITHIN, async || Ok(trial.live().await.ok())).await?;
        trial.end().await
    })
}

/// What the stream carried about gadgets after its first `from` messages.
fn about_gadgets(trial: &Trial, from: usize) -> Vec<Entry> {
    let is_about = |entry: &Entry| entry.subject.contains(".gadgets.") && matches!(entry.told, Told::State { .. });
    trial.carried().into_iter().skip(from).filter(is_about).collect()
}

/// Waits until the agent watches gadgets.
async fn watches_gadgets() -> Result<()> {
    await_condition("gadgets are watched", DEADLINE, async || {
        Ok((agent_watches().await?["gadgets.example.com"]["phase"] == "Live").then_some(()))
    })
    .await
}

#[test]
fn api_server_killed_at_an_agents_start_loses_nothing() -> Result<()> {
    shared::run("api-killed-at-start", async |lab, cluster| {
        make_gadgets(cluster, GADGETS).await?;
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        await_condition("all are stored", DEADLINE, async || {
            Ok((trial.stored("example.com/v1", "Gadget") == GADGETS).then_some(()))
        })
        .await?;
        let from = trial.carried().len();
        let (server, client) = (cluster.component("kube-apiserver")?, cluster.client().await?);
        for round in 0..3 {
            trial.agent.stop(STOPS_WITHIN).await?;
            server.kill().await?;
            server.start()?;
            // Its first answers, for some tenths of a second, list few types.
            let end = Instant::now() + DEADLINE;
            while client.request_text(Request::get("/apis").body(Vec::new())?).await.is_err() {
                ensure!(Instant::now() < end, "the API server does not come back");
                tokio::task::yield_now().await;
            }
            trial.agent.start()?;
            cluster.await_apiserver().await?;
            watches_gadgets().await?;
            trial.live().await.with_context(|| format!("after kill {round}"))?;
        }
        let told = about_gadgets(&trial, from);
        ensure!(told.is_empty(), "{} messages about objects that never changed: {:?}", told.len(), told.first());
        trial.end().await
    })
}

/// The discovery of an API server in its first tenths of a second: without custom resources, and without a sign that
/// they are missing.
fn without_custom_resources(groups: &mut Value) {
    if let Some(items) = groups["items"].as_array_mut() {
        items.retain(|group| group["metadata"]["name"].as_str().is_some_and(|name| !name.contains("example.com")));
    }
}

#[test]
fn custom_resources_missing_from_discovery_at_a_start_are_not_deleted() -> Result<()> {
    shared::run("api-few-types", async |lab, cluster| {
        make_gadgets(cluster, GADGETS).await?;
        let proxy = ApiProxy::start(cluster, lab.dir()).await?;
        let trial = Trial::begin_at(lab, cluster, lab.nats().jetstream(), proxy.kubeconfig(), |agent| agent).await?;
        await_condition("all are stored", DEADLINE, async || {
            Ok((trial.stored("example.com/v1", "Gadget") == GADGETS).then_some(()))
        })
        .await?;
        let from = trial.carried().len();
        for is_running in [false, true] {
            if !is_running {
                trial.agent.kill().await?;
            }
            proxy.forget();
            proxy.set([Rule::at("/apis", Answer::Changed(without_custom_resources))]);
            if !is_running {
                trial.agent.start()?;
            }
            await_condition("the agent got this answer twice", DEADLINE, async || {
                Ok((proxy.count(|asked| asked.path == "/apis") >= 2).then_some(()))
            })
            .await?;
            trial.churn.go_on(200).await?;
            proxy.set([]);
            watches_gadgets().await?;
        }
        let told = about_gadgets(&trial, from);
        ensure!(told.is_empty(), "{} messages about objects that never changed: {:?}", told.len(), told.first());
        ensure!(Metrics::of_agent().await?.sum("meshsync_objects") > GADGETS as f64, "nothing is held");
        trial.end().await
    })
}
