//! What JetStream holds is the cluster, whatever happened to agent and broker meanwhile.

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

/// An agent at work, and a consumer of what it has stored: the cluster with [`OBJECTS`].
async fn begin(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<(Daemon, Consumer)> {
    cluster.apply(OBJECTS).await?;
    let stored = Consumer::stored(nats.client().await?, None).await?;
    let agent = agent(lab, cluster, nats)?;
    agent.start()?;
    await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
    Ok((agent, stored))
}

#[test]
fn a_restarted_agent_lists_nothing_and_publishes_only_what_changed() -> Result<()> {
    lab::run("state-resumes", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        cluster.apply(OBJECTS).await?;
        let stored = Consumer::stored(nats.client().await?, Some("tr0ub4dor-and-3")).await?;
        let listening = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        for consumer in [&stored, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }
        let first = Metrics::of_agent().await?;
        ensure!(first.sum("meshsync_lists_total") > 50.0, "the first agent lists everything");

        // In good order: the checkpoints are as of the end.
        agent.stop(Duration::from_secs(20)).await?;
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "fresh", "--from-literal=a=b"]).await?;
        let before = listening.view().events();
        agent.start()?;
        for consumer in [&stored, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }
        let again = Metrics::of_agent().await?;
        ensure!(again.sum("meshsync_lists_total") == 0.0, "the second agent listed something");
        let (bytes, all) = (again.sum("meshsync_received_bytes_total"), first.sum("meshsync_received_bytes_total"));
        ensure!(bytes < all / 10.0, "{bytes} of {all} bytes were read again");
        let sent = listening.view().events() - before;
        ensure!(sent < 20, "{sent} events for two changes and what controllers made of them");

        // What it did not have to read is there for who asks.
        let keys = |objects: &[Value]| objects.iter().map(ObjectKey::of).collect::<BTreeSet<_>>();
        let (expected, held) = (objects(&cluster, &NOT_WATCHED).await?, agent_snapshot().await?);
        ensure!(keys(&expected) == keys(&held), "{} objects are shown, {} exist", held.len(), expected.len());
        let asking = Consumer::asking(nats.client().await?, None).await?;
        await_equal(&cluster, &asking, &NOT_WATCHED, DEADLINE).await?;

        // Killed: what was not confirmed is found out.
        let churn = Churn::start(&cluster, "shop").await?;
        churn.go_on(100).await?;
        agent.kill().await?;
        churn.go_on(100).await?;
        agent.start()?;
        churn.go_on(100).await?;
        drop(churn);
        for consumer in [&stored, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }
        ensure!(stored.view().needle_hits == 0, "the secret was stored");
        Ok(())
    })
}

#[test]
fn whatever_the_broker_loses_is_stored_again() -> Result<()> {
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

        // Under the agent's hands.
        let jetstream = async_nats::jetstream::new(nats.client().await?);
        let name = jetstream.stream_by_subject("meshsync.state.>").await?;
        jetstream.delete_stream(&name).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "wakes", "--from-literal=a=b"]).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;

        // A part of it, while the broker's client sees nothing of it until it connects again.
        let stream = jetstream.get_stream(&name).await?;
        stream.purge().filter("meshsync.state.*.core.configmaps.>").await?;
        nats.stop().await?;
        nats.start().await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await.context("after a purge")?;

        // Restarted empty, as a pod on another node would be.
        nats.stop().await?;
        nats.forget_streams()?;
        nats.start().await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await.context("after the loss of everything")
    })
}

#[test]
fn a_broker_that_comes_late_is_brought_in_line() -> Result<()> {
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

        // The next agent has to begin without the broker, after the cluster has changed.
        cluster.kubectl(["delete", "-n", "shop", "secret/db"]).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "settings", "--from-literal=a=2"]).await?;
        agent.start()?;
        meshsync_e2e::await_condition("it lists without the broker", DEADLINE, async || {
            Ok(Metrics::of_agent().await.ok().filter(|metrics| metrics.sum("meshsync_objects") > 100.0).map(drop))
        })
        .await?;
        nats.start().await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn a_stream_that_was_emptied_is_filled_again_at_once() -> Result<()> {
    lab::run("state-purged", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let (_agent, _stored) = begin(lab, &cluster, &nats).await?;
        // The broker forgets the messages, and for two minutes not that it has had them.
        let jetstream = async_nats::jetstream::new(nats.client().await?);
        let name = jetstream.stream_by_subject("meshsync.state.>").await?;
        jetstream.get_stream(name).await?.purge().await?;
        let again = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &again, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn a_name_that_no_subject_can_hold_keeps_nothing_else_from_being_stored() -> Result<()> {
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
        ensure!(log.contains("too long for the stream"), "nobody is told:\n{log}");
        ensure!(Metrics::of_agent().await?.sum("meshsync_unencodable_total") == 1.0, "it is not counted");
        ensure!(!log.contains("connection to the broker is lost"), "the broker hung up:\n{log}");
        cluster.kubectl(["delete", "clusterrole", &long]).await?;
        await_equal(&cluster, &listening, &NOT_WATCHED, DEADLINE).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await
    })
}

#[test]
fn a_stream_that_may_not_be_written_holds_nothing_up() -> Result<()> {
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
            ensure!(log.contains("publishing through core NATS"), "nobody is told:\n{log}");
            ensure!(log.contains("may the broker's user publish to"), "nobody is told why:\n{log}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_cluster_that_was_restored_from_a_backup_is_what_consumers_hold() -> Result<()> {
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
        // A watch that is ahead hears so with the next bookmark, which comes once a minute.
        for consumer in [&stored, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE * 3).await?;
        }
        Ok(())
    })
}

/// Copies a directory with all that is in it.
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
fn a_stream_that_may_not_be_read_holds_nothing_up() -> Result<()> {
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
        ensure!(agent.log().contains("publishing through core NATS"), "nobody is told:\n{}", agent.log());
        Ok(())
    })
}
