//! A cluster with everything that is broken in real clusters: the agent follows the rest, and reports each broken part.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::aggregated::{AggregatedServer, Manner};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::metrics::{agent_readiness, agent_watches};
use meshsync_e2e::nats::Nats;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);

/// What the status must name.
const BROKEN: [&str; 5] = [
    "custom.metrics.k8s.io",
    "subresources.kubevirt.io",
    "relics.broken.example.com",
    "sleepers.hangs.example.com",
    "tales.lies.example.com",
];
/// The broken types that discovery lists.
const TYPES: [&str; 3] = ["relics.broken.example.com", "sleepers.hangs.example.com", "tales.lies.example.com"];

fn resource(name: &str, kind: &str, verbs: Value) -> Value {
    json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs})
}

/// Aggregated API servers, each broken in another way.
async fn break_it(cluster: &Cluster) -> Result<Vec<AggregatedServer>> {
    let listed = json!(["get", "list", "watch"]);
    let metrics = json!([resource("pods/cpu", "MetricValueList", json!(["get"])), resource("nodes", "", Value::Null)]);
    let virt = json!([resource("machines/start", "", json!(["update"])), resource("expand", "", Value::Null)]);
    let servers = [
        ("custom.metrics.k8s.io", metrics, Manner::NotFound),
        ("subresources.kubevirt.io", virt, Manner::NotFound),
        ("hangs.example.com", json!([resource("sleepers", "Sleeper", listed.clone())]), Manner::Hangs),
        ("lies.example.com", json!([resource("tales", "Tale", listed)]), Manner::Lies),
    ];
    let mut running = Vec::new();
    for (group, resources, manner) in servers {
        running.push(AggregatedServer::start(cluster, group, resources, manner).await?);
    }
    bury_the_webhook(cluster).await?;
    await_condition("the API server names them all", DEADLINE, async || {
        let groups = cluster.kubectl(["get", "--raw", "/apis"]).await?;
        Ok(["hangs", "lies", "metrics", "kubevirt"].iter().all(|name| groups.contains(name)).then_some(()))
    })
    .await?;
    Ok(running)
}

/// A definition whose objects are stored as v1 and served as v2 through a conversion webhook that never answers.
async fn bury_the_webhook(cluster: &Cluster) -> Result<()> {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version =
        |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = |versions: Vec<Value>, conversion: Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "relics.broken.example.com"},
            "spec": {"group": "broken.example.com", "scope": "Namespaced", "versions": versions, "conversion": conversion,
                "names": {"plural": "relics", "singular": "relic", "kind": "Relic"}}})
        .to_string()
    };
    cluster.apply(definition(vec![version("v1", true)], json!({"strategy": "None"}))).await?;
    let relic = r#"{"apiVersion": "broken.example.com/v1", "kind": "Relic", "metadata": {"name": "a", "namespace": "default"}}"#;
    await_condition("relics are accepted", DEADLINE, async || Ok(cluster.apply(relic).await.ok())).await?;
    let webhook = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/convert"}}});
    cluster.apply(definition(vec![version("v1", false), version("v2", true)], webhook)).await?;
    await_condition("the webhook is asked", DEADLINE, async || {
        Ok(cluster.kubectl(["get", "--raw", "/apis/broken.example.com/v2/relics"]).await.is_err().then_some(()))
    })
    .await
}

/// Marks the agent's pod as available once the agent is ready, as a kubelet and a controller would.
async fn be_the_kubelet(cluster: &Cluster) -> Result<()> {
    let (is_ready, said) = agent_readiness().await?;
    ensure!(is_ready, "the agent is not ready: {said}");
    let deployment = format!("{NAME}-agent");
    let path = ["get", "deployment", &deployment, "-n", NAMESPACE, "-o", "jsonpath={.metadata.generation}"];
    let generation: i64 = cluster.kubectl(path).await?.trim().parse()?;
    let status = json!({"status": {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
        "availableReplicas": 1, "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}]}});
    let (patch, kind) = (status.to_string(), ["patch", "deployment", "--subresource=status", "--type=merge"]);
    cluster.kubectl(kind.into_iter().chain([&*deployment, "-n", NAMESPACE, "-p", &patch])).await.map(drop)
}

async fn install(cluster: &Cluster, nats: &Nats) -> Result<()> {
    System::of(cluster).install_definition().await?;
    let meshsync = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
        "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"broker": {"external": {"url": nats.url()}}}});
    cluster.apply(meshsync.to_string()).await?;
    await_condition("the agent's ConfigMap is there", DEADLINE, async || {
        Ok(cluster.kubectl(["get", "configmap", "-n", NAMESPACE, &format!("{NAME}-agent")]).await.ok())
    })
    .await
    .map(drop)
}

#[test]
fn broken_types_are_reported_and_all_others_are_followed() -> Result<()> {
    lab::run("broken-cluster", async |lab| {
        let cluster = lab.cluster(Level::Api).apiserver_arg("--enable-aggregator-routing=true");
        let cluster = cluster.apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let operator = lab.operator_process(&cluster).await?;
        let _servers = break_it(&cluster).await?;
        operator.start()?;
        install(&cluster, &nats).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        let agent = lab.agent_process(&cluster, &nats).await?;
        agent.start()?;

        await_condition("the agent is ready", DEADLINE, async || be_the_kubelet(&cluster).await.map(Some)).await?;
        System::of(&cluster).await_ready().await?;
        let mut dead = Vec::new();
        let live = await_condition("every other type is live", DEADLINE, async || {
            let watches = agent_watches().await?;
            let types = watches.as_object().context("no types")?;
            let others =
                types.iter().filter(|(name, report)| !TYPES.contains(&name.as_str()) && report["phase"] != "Live");
            dead = others.map(|(name, report)| format!("{name}: {report}")).collect();
            ensure!(types.len() > 50, "{} types are watched", types.len());
            Ok(dead.is_empty().then_some(()))
        });
        live.await.with_context(|| dead.join("\n"))?;
        cluster.kubectl(["create", "configmap", "-n", "default", "follows"]).await?;
        await_condition("a change is followed", DEADLINE, async || {
            Ok(stored.view().keys().any(|key| key.name == "follows").then_some(()))
        })
        .await?;

        let mut agent_says = Value::Null;
        let named = await_condition("status names each of the broken", DEADLINE, async || {
            agent_says = System::of(&cluster).meshsync().await?["status"]["agent"].take();
            let text = agent_says.to_string();
            Ok(BROKEN.iter().all(|name| text.contains(name)).then_some(()))
        });
        named.await.with_context(|| format!("{agent_says:#}"))?;
        operator.ensure_running()?;
        agent.ensure_running()
    })
}
