//! More than one agent publishes into one stream: one goes on, and the objects of nobody are deleted.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshsync_e2e::faults::{Link, Trial};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::{await_condition, metrics, shared};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

/// An agent beside that of a trial, at its broker.
fn second(lab: &Lab, trial: &Trial, kubeconfig: &Path) -> Result<Daemon> {
    let agent = lab.agent_named("second-agent")?.arg("run").arg("--kubeconfig").arg(kubeconfig);
    let addresses = ["--probe-address", "127.0.0.1:11002", "--debug-address", "127.0.0.1:11003"];
    Ok(agent.args(addresses).env("LOG_LEVEL", "info,meshsync_agent=debug").env("BROKER_URL", trial.nats.url()))
}

async fn says(agent: &Daemon, text: &str) -> Result<()> {
    await_condition(&format!("{} says `{text}`", agent.name()), DEADLINE, async || {
        agent.ensure_running()?;
        Ok(agent.log().contains(text).then_some(()))
    })
    .await
}

/// It publishes nothing, for `reason`, and tells people `remedy`.
async fn stands_by(agent: &Daemon, reason: &str, remedy: &str) -> Result<()> {
    says(agent, reason).await?;
    await_condition("it is not ready, and tells why", DEADLINE, async || {
        let page = metrics::readiness("127.0.0.1:11002").await?;
        let told = page.1.contains(reason) && page.1.contains(remedy);
        Ok((!page.0 && told).then_some(()))
    })
    .await?;
    ensure!(!agent.log().contains("stream read"), "it read a stream that is not its own: {}", agent.log());
    Ok(())
}

#[test]
fn clones_of_a_cluster_do_not_delete_each_others_objects() -> Result<()> {
    shared::run("sharing-clone", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let clone = trial.cluster.cloned().await?;
        trial.live().await?;
        clone.kubectl(["create", "configmap", "-n", "default", "of-the-clone"]).await?;
        // It stays in the cluster alone: the clone's agent would take it for deleted.
        trial.cluster.kubectl(["create", "configmap", "-n", "default", "of-the-cluster"]).await?;
        let agent = second(lab, &trial, clone.kubeconfig())?;
        agent.start()?;
        stands_by(&agent, "ClusterIdShared", "--cluster-id").await?;
        trial.churn.go_on(200).await?;
        // The one that publishes loses its connection, and is killed: neither is a chance for the other one.
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(50).await?;
        trial.proxy.set(Link::Open);
        trial.live().await?;
        trial.agent.kill().await?;
        trial.agent.start()?;
        trial.live().await?;
        stands_by(&agent, "ClusterIdShared", "--cluster-id").await?;
        let of_the_clone = trial.carried().into_iter().any(|entry| entry.subject.contains("of-the-clone"));
        ensure!(!of_the_clone, "an object of the clone was published");
        agent.kill().await?;
        trial.end().await
    })
}

#[test]
fn the_agent_of_another_meshsync_stands_by() -> Result<()> {
    shared::run("sharing-meshsync", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let config = lab.dir().join("second.json");
        let owner = json!({"namespace": "default", "name": "second", "uid": "00000000-0000-4000-8000-000000000000"});
        // It would take everything but ConfigMaps for deleted.
        let watched = json!({"blacklist": [], "whitelist": ["configmaps"], "metadataOnly": [], "namespaces": {}});
        let document = json!({"reportTo": owner, "informer_config": watched});
        std::fs::write(&config, document.to_string())?;
        let agent = second(lab, &trial, trial.cluster.kubeconfig())?.arg("--config").arg(&config);
        agent.start()?;
        stands_by(&agent, "BrokerShared", "spec.broker").await?;
        trial.churn.go_on(200).await?;
        agent.kill().await?;
        trial.end().await
    })
}

#[test]
fn a_rolling_update_takes_over_at_once_and_goes_back_when_it_fails() -> Result<()> {
    shared::run("sharing-update", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let agent = second(lab, &trial, trial.cluster.kubeconfig())?;
        let began = Instant::now();
        agent.start()?;
        says(&agent, "stream read").await?;
        ensure!(began.elapsed() < Duration::from_secs(4), "the next one began after {:?}", began.elapsed());
        trial.says("Superseded").await?;
        ensure!(!agent.log().contains("is still open"), "it was not let in: {}", agent.log());
        trial.churn.go_on(500).await?;
        trial.live().await?;
        // The one that waits may be the slower one.
        trial.proxy.set(Link::Slow(100_000));
        trial.churn.go_on(200).await?;
        trial.proxy.set(Link::Open);
        agent.ensure_running()?;
        let gone = Instant::now();
        agent.kill().await?;
        trial.says("this one does").await?;
        ensure!(gone.elapsed() < Duration::from_secs(30), "it was noticed after {:?}", gone.elapsed());
        trial.end().await
    })
}
