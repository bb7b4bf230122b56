//! A consumer that applies the agent's messages holds what the cluster holds.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::Duration;

use anyhow::{Result, ensure};
use meshsync_e2e::churn::Churn;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::custom_type::custom_type;
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::{await_condition, lab};

const SECRET_VALUE: &str = "tr0ub4dor-and-3";
/// The same value in base64, as the API carries it.
const SECRET_BASE64: &str = "dHIwdWI0ZG9yLWFuZC0z";
const DEADLINE: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {team: "ünïcode \"quoted\""}}
---
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop}
stringData: {password: tr0ub4dor-and-3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, annotations: {note: "line\nbreak\tand \\ backslash"}}
data: {a: "1", script: "echo \"hi\"\n"}
binaryData: {blob: AAEC}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/web:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;
const WIDGET: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: first, namespace: shop}
spec: {size: 3, huge: 9007199254740993}
"#;

/// Applies [`OBJECTS`] and the type of [`WIDGET`].
async fn apply_objects(cluster: &Cluster) -> Result<()> {
    cluster.apply(OBJECTS).await?;
    cluster.apply(custom_type("example.com", "Widget")).await.map(drop)
}

fn agent(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    Ok(lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url()))
}

#[test]
fn agent_publishes_every_object_and_every_change() -> Result<()> {
    lab::run("agent-complete", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let plain = Consumer::subscribe(nats.client().await?, Some(SECRET_VALUE)).await?;
        let consumer = Consumer::subscribe(nats.client().await?, Some(SECRET_BASE64)).await?;
        apply_objects(&cluster).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;

        // The agent discovers a type that appears after its start.
        await_condition("the API server accepts widgets", DEADLINE, async || Ok(cluster.apply(WIDGET).await.ok()))
            .await?;
        cluster.kubectl(["scale", "-n", "shop", "deployment/web", "--replicas=3"]).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(consumer.view().count("example.com/v1", "Widget") == 1, "the widget is missing");

        // When a type is removed, its objects leave.
        cluster.kubectl(["delete", "crd", "widgets.example.com"]).await?;
        await_condition("the widget leaves", DEADLINE, async || {
            Ok((consumer.view().count("example.com/v1", "Widget") == 0).then_some(()))
        })
        .await?;
        agent.ensure_running()?;
        for (consumer, spelling) in [(&plain, "plain"), (&consumer, "base64")] {
            ensure!(consumer.view().needle_hits == 0, "the secret was published ({spelling})");
        }
        ensure!(!agent.log().contains(SECRET_VALUE) && !agent.log().contains(SECRET_BASE64), "the secret was logged");
        Ok(())
    })
}

/// The delay with which NATS clients reconnect by default.
const DEFAULT_DELAY: Duration = Duration::from_secs(2);

/// A consumer that requests everything whenever it may have missed something, and one that only listens, as Meshery Server
/// does, and that reconnects later than the agent.
struct Consumers {
    asking: Consumer,
    listening: Consumer,
}

impl Consumers {
    async fn connect(nats: &Nats) -> Result<Self> {
        let asking = Consumer::asking(nats.client().await?, None).await?;
        let listening = Consumer::subscribe(nats.client_reconnecting_after(DEFAULT_DELAY).await?, None).await?;
        Ok(Self { asking, listening })
    }

    async fn await_equal(&self, cluster: &Cluster) -> Result<()> {
        for consumer in [&self.asking, &self.listening] {
            await_equal(cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }
        Ok(())
    }
}

/// Lets objects change before, during and after the outage that `damage` causes and ends.
async fn outage_under_churn(cluster: &Cluster, damage: impl AsyncFnOnce(&Churn) -> Result<()>) -> Result<()> {
    let churn = Churn::start(cluster, "shop").await?;
    churn.go_on(100).await?;
    damage(&churn).await?;
    churn.go_on(100).await
}

#[test]
fn agent_recovers_from_outages_of_broker_and_api_server_and_from_its_own_death() -> Result<()> {
    lab::run("agent-recovers", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        apply_objects(&cluster).await?;
        let consumers = Consumers::connect(&nats).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        consumers.await_equal(&cluster).await?;

        outage_under_churn(&cluster, async |churn| {
            nats.kill().await?;
            cluster.kubectl(["delete", "-n", "shop", "service/web"]).await?;
            // A short outage, so that the agent still retries often and is back long before the listening consumer.
            churn.go_on(10).await?;
            nats.start().await
        })
        .await?;
        consumers.await_equal(&cluster).await?;

        outage_under_churn(&cluster, async |_| {
            cluster.component("kube-apiserver")?.kill().await?;
            cluster.restart("kube-apiserver").await?;
            cluster.await_apiserver().await
        })
        .await?;
        consumers.await_equal(&cluster).await?;

        outage_under_churn(&cluster, async |churn| {
            agent.kill().await?;
            cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
            churn.go_on(200).await?;
            agent.start()
        })
        .await?;
        // A consumer that never asks cannot know what was deleted while no agent ran.
        await_equal(&cluster, &consumers.asking, &NOT_WATCHED, DEADLINE).await
    })
}

/// Records every request that reads a collection, with its parameters and its user agent.
const READS: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseComplete"], "rules": [
        {"level": "Metadata", "verbs": ["watch"]}, {"level": "None"}]}"#;

/// An agent with `--lists=stream`, whose consumer has seen every object of the cluster and some changes.
struct Follower {
    agent: Daemon,
    /// The broker ends when this is dropped.
    _nats: Nats,
    /// Watches that the agent opened with `sendInitialEvents`, and the status codes of their answers.
    streams: Vec<(String, u64)>,
    metrics: Metrics,
}

impl Follower {
    async fn start(lab: &Lab, cluster: &Cluster) -> Result<Self> {
        let nats = lab.nats().start().await?;
        apply_objects(cluster).await?;
        let consumer = Consumer::subscribe(nats.client().await?, Some(SECRET_BASE64)).await?;
        let agent = agent(lab, cluster, &nats)?.arg("--lists=stream");
        agent.start()?;
        await_equal(cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        cluster.kubectl(["scale", "-n", "shop", "deployment/web", "--replicas=3"]).await?;
        await_equal(cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(consumer.view().needle_hits == 0, "the secret was published");
        let text = |event: &serde_json::Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let events = cluster.audit_events()?;
        let ours = events.iter().filter(|event| text(event, "userAgent").starts_with("meshsync-agent/"));
        let code = |event: &serde_json::Value| event["responseStatus"]["code"].as_u64().unwrap_or_default();
        let asked = ours.map(|event| (text(event, "requestURI"), code(event)));
        let streams = asked.filter(|(uri, _)| uri.contains("sendInitialEvents=true")).collect();
        Ok(Self { agent, _nats: nats, streams, metrics: Metrics::of_agent().await? })
    }

    /// Checks that the agent listed, watched and requested each type as a stream exactly once, that the API server answered
    /// each of these requests with `answer`, and that no watch failed.
    fn ensure_each_type_once(&self, answer: u64) -> Result<()> {
        let (lists, opens) = ("meshsync_lists_total", "meshsync_watch_opens_total");
        let (lists, opens) = (self.metrics.sum(lists), self.metrics.sum(opens));
        ensure!(lists > 50.0 && opens == lists, "{lists} lists and {opens} watches opened");
        let failures = self.metrics.sum("meshsync_watch_failures_total");
        ensure!(failures == 0.0, "{failures} failures");
        let answered = self.streams.iter().filter(|(_, code)| *code == answer).count();
        let all = self.streams.len();
        ensure!(answered as f64 == lists && all == answered, "{lists} lists, streams: {:#?}", self.streams);
        self.agent.ensure_running()
    }
}

#[test]
fn streaming_list_and_watch_of_a_type_share_one_request() -> Result<()> {
    lab::run("agent-streamed-lists", async |lab| {
        let cluster = lab.cluster(Level::Api).audit(READS).start().await?;
        let follower = Follower::start(lab, &cluster).await?;
        follower.ensure_each_type_once(200)
    })
}

#[test]
fn agent_reads_pages_when_the_api_server_cannot_stream_lists() -> Result<()> {
    lab::run("agent-paged-lists", async |lab| {
        let cluster = lab.cluster(Level::Api).audit(READS);
        let cluster = cluster.apiserver_arg("--feature-gates=WatchList=false").start().await?;
        let follower = Follower::start(lab, &cluster).await?;
        follower.ensure_each_type_once(422)
    })
}
