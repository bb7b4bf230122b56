//! JetStream holds what the cluster holds, whatever happened to agent and broker meanwhile.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::churn::Churn;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::equality::ObjectKey;
use meshsync_e2e::everything::{NOT_WATCHED, await_equal, objects};
use meshsync_e2e::lab::{self, Lab};
use meshsync_e2e::metrics::{Metrics, agent_snapshot};
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop}
stringData: {password: tr0ub4dor-and-3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {a: "1"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "shop:reader.of*things"}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
"#;

fn agent(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    Ok(lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url()))
}

/// Starts an agent in a cluster with [`OBJECTS`], and returns it with a consumer that holds all that it stored.
async fn begin(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<(Daemon, Consumer)> {
    cluster.apply(OBJECTS).await?;
    let stored = Consumer::stored(nats.client().await?, None).await?;
    let agent = agent(lab, cluster, nats)?;
    agent.start()?;
    await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
    Ok((agent, stored))
}

/// Waits until both hold what the cluster holds.
async fn both_equal(cluster: &Cluster, consumers: [&Consumer; 2]) -> Result<()> {
    for consumer in consumers {
        await_equal(cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
    }
    Ok(())
}

/// Checks that the agent holds every object, and returns it on request, although it received few of them from the API server.
async fn ensure_agent_holds_everything(cluster: &Cluster, nats: &Nats) -> Result<()> {
    let keys = |objects: &[Value]| objects.iter().map(ObjectKey::of).collect::<BTreeSet<_>>();
    let (expected, held) = (objects(cluster, &NOT_WATCHED).await?, agent_snapshot().await?);
    ensure!(keys(&expected) == keys(&held), "{} objects are shown, {} exist", held.len(), expected.len());
    let asking = Consumer::asking(nats.client().await?, None).await?;
    await_equal(cluster, &asking, &NOT_WATCHED, DEADLINE).await
}

/// Kills the agent while objects change, so that its successor has to find out what the broker did not confirm.
async fn kill_under_churn(cluster: &Cluster, agent: &Daemon) -> Result<()> {
    let churn = Churn::start(cluster, "shop").await?;
    churn.go_on(100).await?;
    agent.kill().await?;
    churn.go_on(100).await?;
    agent.start()?;
    churn.go_on(100).await
}

#[test]
fn restarted_agent_lists_nothing_and_publishes_only_changes() -> Result<()> {
    lab::run("state-resumes", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        cluster.apply(OBJECTS).await?;
        let stored = Consumer::stored(nats.client().await?, Some("tr0ub4dor-and-3")).await?;
        let listening = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        both_equal(&cluster, [&stored, &listening]).await?;
        let first = Metrics::of_agent().await?;
        ensure!(first.sum("meshsync_lists_total") > 50.0, "the first agent lists everything");

        // After an orderly stop the checkpoints are those of the end.
        agent.stop(Duration::from_secs(20)).await?;
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "fresh", "--from-literal=a=b"]).await?;
        let before = listening.view().events();
        agent.start()?;
        both_equal(&cluster, [&stored, &listening]).await?;
        let again = Metrics::of_agent().await?;
        ensure!(again.sum("meshsync_lists_total") == 0.0, "the second agent listed something");
        let (bytes, all) = (again.sum("meshsync_received_bytes_total"), first.sum("meshsync_received_bytes_total"));
        ensure!(bytes < all / 10.0, "{bytes} of {all} bytes were read again");
        let sent = listening.view().events() - before;
        ensure!(sent < 20, "{sent} events for two changes and what controllers made of them");
        ensure_agent_holds_everything(&cluster, &nats).await?;

        kill_under_churn(&cluster, &agent).await?;
        both_equal(&cluster, [&stored, &listening]).await?;
        ensure!(stored.view().needle_hits == 0, "the secret was stored");
        Ok(())
    })
}

#[test]
fn agent_stores_again_whatever_the_broker_loses() -> Result<()> {
    lab::run("state-survives", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let (_agent, stored) = begin(lab, &cluster, &nats).await?;

        let churn = Churn::start(&cluster, "shop").await?;
        churn.go_on(100).await?;
        nats.kill().await?;
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        churn.go_on(100).await?;
        nats.start().await?;
        churn.go_on(50).await?;
        drop(churn);
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;

        // Somebody deletes the stream while the agent runs.
        let jetstream = async_nats::jetstream::new(nats.client().await?);
        let name = jetstream.stream_by_subject("meshsync.state.>").await?;
        jetstream.delete_stream(&name).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "wakes", "--from-literal=a=b"]).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;

        // Somebody purges a part of the stream, which the agent cannot notice until it connects again.
        let stream = jetstream.get_stream(&name).await?;
        stream.purge().filter("meshsync.state.*.core.configmaps.>").await?;
        nats.stop().await?;
        nats.start().await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await.context("after a purge")?;

        // The broker restarts empty, as a pod on another node would.
        nats.stop().await?;
        nats.forget_streams()?;
        nats.start().await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await.context("after the loss of everything")
    })
}

#[test]
fn agent_that_started_without_the_broker_corrects_the_stream_later() -> Result<()> {
    lab::run("state-late", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        cluster.apply(OBJECTS).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        agent.stop(Duration::from_secs(20)).await?;
        nats.stop().await?;

        // The cluster changes, and the next agent has to start without the broker.
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "settings", "--from-literal=a=2"]).await?;
        agent.start()?;
        meshsync_e2e::await_condition("the agent lists without the broker", DEADLINE, async || {
            Ok(Metrics::of_agent().await.ok().filter(|metrics| metrics.sum("meshsync_objects") > 100.0).map(drop))
        })
        .await?;
        nats.start().await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn agent_refills_a_purged_stream_at_once() -> Result<()> {
    lab::run("state-purged", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let (_agent, _stored) = begin(lab, &cluster, &nats).await?;
        // The broker forgets the messages, but remembers their ids for two minutes, and would drop equal messages.
        let jetstream = async_nats::jetstream::new(nats.client().await?);
        let name = jetstream.stream_by_subject("meshsync.state.>").await?;
        jetstream.get_stream(name).await?.purge().await?;
        let again = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &again, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn name_too_long_for_a_subject_does_not_keep_other_objects_from_being_stored() -> Result<()> {
    lab::run("state-long-name", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let listening = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        await_equal(&cluster, &listening, &NOT_WATCHED, DEADLINE).await?;
        let long = "r".repeat(4_200);
        cluster.kubectl(["create", "clusterrole", &long, "--verb=get", "--resource=pods"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "default", "after"]).await?;
        await_equal(&cluster, &listening, &NOT_WATCHED, DEADLINE).await?;
        let log = agent.log();
        ensure!(log.contains("too long for the stream"), "the log does not say so:\n{log}");
        ensure!(
            Metrics::of_agent().await?.sum("meshsync_unencodable_total") == 1.0,
            "the metric does not count the object"
        );
        ensure!(!log.contains("connection to the broker is lost"), "the broker closed the connection:\n{log}");
        cluster.kubectl(["delete", "clusterrole", &long]).await?;
        await_equal(&cluster, &listening, &NOT_WATCHED, DEADLINE).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn agent_without_the_right_to_write_the_stream_uses_core_nats() -> Result<()> {
    for (name, subject) in [("state-mute", "meshsync.>"), ("state-mute-objects", "meshsync.state.>")] {
        lab::run(name, async |lab| {
            let cluster = lab.cluster(Level::Api).start().await?;
            let rights = json!({"publish": {"deny": [subject]}});
            let nats = lab
                .nats()
                .jetstream()
                .setting("authorization", json!({"users": [{"user": "u", "password": "p", "permissions": rights}]}))
                .setting("no_auth_user", json!("u"))
                .start()
                .await?;
            let consumer = Consumer::subscribe(nats.client().await?, None).await?;
            let agent = agent(lab, &cluster, &nats)?;
            agent.start()?;
            await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE * 2).await?;
            let log = agent.log();
            ensure!(log.contains("publishing through core NATS"), "the log does not say so:\n{log}");
            ensure!(log.contains("may the broker's user publish to"), "the log does not say why:\n{log}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn consumers_follow_a_cluster_that_is_restored_from_a_backup() -> Result<()> {
    lab::run("state-backup", async |lab| {
        let cluster = lab.cluster(Level::Api).durable().start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let listening = Consumer::subscribe(nats.client().await?, None).await?;
        let (_agent, stored) = begin(lab, &cluster, &nats).await?;
        let (etcd, server) = (cluster.component("etcd")?, cluster.component("kube-apiserver")?);
        let (data, backup) = (lab.dir().join("etcd"), lab.dir().join("etcd-backup"));
        server.kill().await?;
        etcd.stop(DEADLINE).await?;
        copy(&data, &backup)?;
        etcd.start()?;
        server.start()?;
        cluster.await_apiserver().await?;
        let settings = ["-n", "shop", "configmap/settings"];
        cluster.kubectl(["patch", settings[0], settings[1], settings[2], "-p", r#"{"data":{"a":"2"}}"#]).await?;
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        cluster.kubectl(["create", "secret", "generic", "-n", "shop", "db"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "later"]).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        server.kill().await?;
        etcd.stop(DEADLINE).await?;
        std::fs::remove_dir_all(&data)?;
        copy(&backup, &data)?;
        etcd.start()?;
        server.start()?;
        cluster.await_apiserver().await?;
        // The agent notices that its watches are ahead with the next bookmark, which the API server sends once a minute.
        for consumer in [&stored, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE * 3).await?;
        }
        Ok(())
    })
}

/// Copies a directory and its content.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn agent_without_the_right_to_read_the_stream_uses_core_nats() -> Result<()> {
    lab::run("state-denied", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let rights = json!({"publish": {"deny": ["$JS.API.CONSUMER.>"]}});
        let nats = lab
            .nats()
            .jetstream()
            .setting("authorization", json!({"users": [{"user": "u", "password": "p", "permissions": rights}]}))
            .setting("no_auth_user", json!("u"))
            .start()
            .await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(agent.log().contains("publishing through core NATS"), "the log does not say so:\n{}", agent.log());
        Ok(())
    })
}
