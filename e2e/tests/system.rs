//! The whole system on a node with real pods, installed as the README says.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

async fn await_no_config_maps(consumer: &Consumer) -> Result<()> {
    await_condition("the ConfigMaps have left", Duration::from_secs(10), async || {
        Ok((consumer.view().count("v1", "ConfigMap") == 0).then_some(()))
    })
    .await
}

/// Watches opened so far, by type, without those of ConfigMaps.
async fn watch_opens(system: &System<'_>) -> Result<Vec<String>> {
    let metrics = system.agent_metrics().await?;
    let opens = metrics.0.lines().filter(|line| line.starts_with("meshsync_watch_opens_total{"));
    Ok(opens.filter(|line| !line.contains("\"configmaps\"")).map(str::to_owned).collect())
}

/// Checks that no log holds these secrets or the token of the managed broker, and that no ConfigMap holds these secrets.
async fn ensure_no_secret_is_written_down(cluster: &Cluster, secrets: &[&str]) -> Result<()> {
    let token =
        ["get", "secret", "meshsync-broker", "-n", NAMESPACE, "-o", "go-template={{.data.token | base64decode}}"];
    let token = cluster.kubectl(token).await?;
    ensure!(token.len() > 10, "the broker has no token");
    for pod in ["deployment/meshsync-operator", "deployment/meshsync-agent", "statefulset/meshsync-broker"] {
        let log = cluster.kubectl(["logs", "-n", NAMESPACE, pod]).await?;
        ensure!(!log.is_empty(), "{pod} logs nothing");
        for secret in secrets.iter().chain([&token.as_str()]) {
            ensure!(!log.contains(secret), "a secret is in the log of {pod}");
        }
    }
    let maps = cluster.kubectl(["get", "configmaps", "-A", "-o", "yaml"]).await?;
    ensure!(secrets.iter().all(|secret| !maps.contains(secret)), "a secret is in a ConfigMap");
    Ok(())
}

/// Blacklists ConfigMaps in the live MeshSync, and checks that they leave at once, that neither pod, agent nor another watch
/// is restarted, that no further ConfigMap is published, and that the agent loses the right to read them.
async fn ensure_type_can_be_blacklisted(cluster: &Cluster, system: &System<'_>, consumer: &Consumer) -> Result<()> {
    let (pod, opens) = (system.agent_pod().await?, watch_opens(system).await?);
    ensure!(consumer.view().count("v1", "ConfigMap") > 0, "there are no ConfigMaps to leave");
    let edited = Instant::now();
    let blacklist = ["events", "leases.coordination.k8s.io", "configmaps"];
    system.patch(&json!({"spec": {"informer_config": {"blacklist": blacklist}}})).await?;
    await_no_config_maps(consumer).await?;
    ensure!(edited.elapsed() < Duration::from_secs(3), "it took {:?}", edited.elapsed());
    system.await_ready().await?;
    let status = system.meshsync().await?["status"].take();
    ensure!(status["agent"]["appliedRevision"] == status["configuration"]["revision"], "{status:#}");
    let now = system.agent_pod().await?;
    ensure!(now["metadata"]["uid"] == pod["metadata"]["uid"], "the pod was replaced");
    ensure!(now["status"]["containerStatuses"][0]["restartCount"] == 0, "the agent was restarted");
    ensure!(watch_opens(system).await? == opens, "other watches were opened again");
    ensure_no_further_config_map(cluster, consumer).await?;
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{NAME}-agent");
    await_condition("the agent may no longer read ConfigMaps", DEADLINE, async || {
        let answer = cluster.kubectl(["auth", "can-i", "list", "configmaps", "-A", &account]).await;
        Ok(answer.is_err().then_some(()))
    })
    .await
}

/// Creates a ConfigMap and then another object, and checks that only the second arrives.
async fn ensure_no_further_config_map(cluster: &Cluster, consumer: &Consumer) -> Result<()> {
    cluster.kubectl(["create", "configmap", "late", "-n", "default"]).await?;
    cluster.kubectl(["create", "serviceaccount", "later", "-n", "default"]).await?;
    await_condition("the ServiceAccount arrives", DEADLINE, async || {
        Ok(consumer.view().keys().any(|key| key.kind == "ServiceAccount" && key.name == "later").then_some(()))
    })
    .await?;
    ensure!(consumer.view().count("v1", "ConfigMap") == 0, "events of a blacklisted type arrived");
    Ok(())
}

/// Checks that the operator refuses a configuration that selects nothing, and keeps the last good one.
async fn ensure_empty_selection_is_refused(system: &System<'_>) -> Result<()> {
    system.patch(&json!({"spec": {"informer_config": {"blacklist": ["*"]}}})).await?;
    await_condition("the operator refuses the empty selection", DEADLINE, async || {
        let conditions = system.meshsync().await?["status"]["conditions"].take();
        let resolved = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "Resolved").cloned();
        Ok(resolved.filter(|c| c["status"] == "False" && c["reason"] == "NothingSelected"))
    })
    .await
    .map(drop)
}

async fn ensure_deleted_service_is_recreated(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(["delete", "service", "-n", NAMESPACE, "meshsync-broker", "--wait=false"]).await?;
    await_condition("the Service is back", DEADLINE, async || {
        Ok(cluster.kubectl(["get", "service", "-n", NAMESPACE, "meshsync-broker"]).await.ok())
    })
    .await
    .map(drop)
}

#[test]
fn system_installed_as_documented_is_complete_and_follows_its_configuration() -> Result<()> {
    lab::run("system", async |lab| {
        let cluster = lab.cluster(Level::Node).start().await?;
        let system = System::install(&cluster).await?;
        system.apply_sample("meshsync.yaml").await?;
        let consumer = system.consumer(Some("dHIwdWI0ZG9yLWFuZC0z")).await?;
        let secret = ["create", "secret", "generic", "db", "-n", "default", "--from-literal=p=tr0ub4dor-and-3"];
        cluster.kubectl(secret).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(consumer.view().needle_hits == 0, "a secret value was published");

        ensure_type_can_be_blacklisted(&cluster, &system, &consumer).await?;
        ensure_empty_selection_is_refused(&system).await?;
        system.patch(&json!({"spec": {"informer_config": null}})).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure_deleted_service_is_recreated(&cluster).await?;

        ensure_no_secret_is_written_down(&cluster, &["tr0ub4dor-and-3", "dHIwdWI0ZG9yLWFuZC0z"]).await?;
        let rss = system.agent_metrics().await?.get("process_resident_memory_peak_bytes").unwrap_or(f64::MAX);
        ensure!(rss < 120e6, "the agent took {rss} bytes");
        system.ensure_deletion_leaves_nothing(DEADLINE).await
    })
}
