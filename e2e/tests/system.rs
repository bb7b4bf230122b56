//! The whole system on a node with real pods, installed as the README says.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{CHILD_KINDS, NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

async fn await_no_config_maps(consumer: &Consumer) -> Result<()> {
    await_condition("the ConfigMaps have left", Duration::from_secs(10), async || {
        Ok((consumer.view().count("v1", "ConfigMap") == 0).then_some(()))
    })
    .await
}

/// Watches opened so far, by type, but for ConfigMaps.
async fn watch_opens(system: &System<'_>) -> Result<Vec<String>> {
    let metrics = system.agent_metrics().await?;
    let opens = metrics.0.lines().filter(|line| line.starts_with("meshsync_watch_opens_total{"));
    Ok(opens.filter(|line| !line.contains("\"configmaps\"")).map(str::to_owned).collect())
}

/// What no pod of the system may write down: the values of Secrets, and the token of its own broker.
async fn no_log_tells(cluster: &Cluster, secrets: &[&str]) -> Result<()> {
    let token =
        ["get", "secret", "meshsync-broker", "-n", NAMESPACE, "-o", "go-template={{.data.token | base64decode}}"];
    let token = cluster.kubectl(token).await?;
    ensure!(token.len() > 10, "the broker has no token");
    for pod in ["deployment/meshsync-operator", "deployment/meshsync-agent", "statefulset/meshsync-broker"] {
        let log = cluster.kubectl(["logs", "-n", NAMESPACE, pod]).await?;
        ensure!(!log.is_empty(), "{pod} says nothing");
        for secret in secrets.iter().chain([&token.as_str()]) {
            ensure!(!log.contains(secret), "a secret is in the log of {pod}");
        }
    }
    let maps = cluster.kubectl(["get", "configmaps", "-A", "-o", "yaml"]).await?;
    ensure!(secrets.iter().all(|secret| !maps.contains(secret)), "a secret is in a ConfigMap");
    Ok(())
}

#[test]
fn installed_as_documented_it_is_complete_and_follows_its_configuration() -> Result<()> {
    lab::run("system", async |lab| {
        let cluster = lab.cluster(Level::Node).start().await?;
        let system = System::install(&cluster).await?;
        system.apply_sample("meshsync.yaml").await?;
        let consumer = system.consumer(Some("dHIwdWI0ZG9yLWFuZC0z")).await?;
        let secret = ["create", "secret", "generic", "db", "-n", "default", "--from-literal=p=tr0ub4dor-and-3"];
        cluster.kubectl(secret).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(consumer.view().needle_hits == 0, "a secret value was published");

        // A type is blacklisted on the live MeshSync.
        let (pod, opens) = (system.agent_pod().await?, watch_opens(&system).await?);
        ensure!(consumer.view().count("v1", "ConfigMap") > 0, "there are no ConfigMaps to leave");
        let edited = Instant::now();
        let blacklist = ["events", "leases.coordination.k8s.io", "configmaps"];
        system.patch(&json!({"spec": {"informer_config": {"blacklist": blacklist}}})).await?;
        await_no_config_maps(&consumer).await?;
        ensure!(edited.elapsed() < Duration::from_secs(3), "it took {:?}", edited.elapsed());
        system.await_ready().await?;
        let status = system.meshsync().await?["status"].take();
        ensure!(status["agent"]["appliedRevision"] == status["configuration"]["revision"], "{status:#}");
        let now = system.agent_pod().await?;
        ensure!(now["metadata"]["uid"] == pod["metadata"]["uid"], "the pod was replaced");
        ensure!(now["status"]["containerStatuses"][0]["restartCount"] == 0, "the agent was restarted");
        ensure!(watch_opens(&system).await? == opens, "other watches were opened again");
        // No further event: something that changes after a ConfigMap arrives, and the ConfigMap does not.
        cluster.kubectl(["create", "configmap", "late", "-n", "default"]).await?;
        cluster.kubectl(["create", "serviceaccount", "later", "-n", "default"]).await?;
        await_condition("what came later arrives", DEADLINE, async || {
            Ok(consumer.view().keys().any(|key| key.kind == "ServiceAccount" && key.name == "later").then_some(()))
        })
        .await?;
        ensure!(consumer.view().count("v1", "ConfigMap") == 0, "events of a blacklisted type came");
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:{NAME}-agent");
        await_condition("the right to read ConfigMaps is taken away", DEADLINE, async || {
            let answer = cluster.kubectl(["auth", "can-i", "list", "configmaps", "-A", &account]).await;
            Ok(answer.is_err().then_some(()))
        })
        .await?;

        // A configuration that leaves nothing is refused, and the last good one stays.
        system.patch(&json!({"spec": {"informer_config": {"blacklist": ["*"]}}})).await?;
        await_condition("the empty selection is refused", DEADLINE, async || {
            let conditions = system.meshsync().await?["status"]["conditions"].take();
            let resolved = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "Resolved").cloned();
            Ok(resolved.filter(|c| c["status"] == "False" && c["reason"] == "NothingSelected"))
        })
        .await?;
        system.patch(&json!({"spec": {"informer_config": null}})).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;

        // A child that somebody deletes is back; what goes with the MeshSync goes.
        cluster.kubectl(["delete", "service", "-n", NAMESPACE, "meshsync-broker", "--wait=false"]).await?;
        await_condition("the Service is back", DEADLINE, async || {
            Ok(cluster.kubectl(["get", "service", "-n", NAMESPACE, "meshsync-broker"]).await.ok())
        })
        .await?;
        no_log_tells(&cluster, &["tr0ub4dor-and-3", "dHIwdWI0ZG9yLWFuZC0z"]).await?;
        let rss = system.agent_metrics().await?.get("process_resident_memory_peak_bytes").unwrap_or(f64::MAX);
        ensure!(rss < 120e6, "the agent took {rss} bytes");
        cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, NAME]).await?;
        let label = "meshery.layer5.io/meshsync-uid";
        await_condition("nothing is left", DEADLINE, async || {
            let left = cluster.kubectl(["get", CHILD_KINDS, "-A", "-l", label, "-o", "name"]).await?;
            Ok(left.trim().is_empty().then_some(()))
        })
        .await
    })
}
