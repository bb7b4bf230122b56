//! An agent that goes on from what an earlier one stored misses nothing, whatever that was and whatever became of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use meshsync_e2e::await_condition;
use meshsync_e2e::bench::load;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::{self, Lab};
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use nix::sys::signal::Signal;
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const OBJECTS: usize = 200;

/// A broker that holds a cluster, and the agent that stored it.
struct Scene {
    cluster: Cluster,
    nats: Nats,
    agent: Daemon,
}

impl Scene {
    async fn begin(lab: &Lab) -> Result<Self> {
        // The plugin asks for ServiceAccounts, which controllers would make.
        let cluster =
            lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
        load::load(&cluster.client().await?, OBJECTS).await?;
        let nats = lab.nats().jetstream().start().await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        holds_everything(&cluster, &nats).await?;
        Ok(Self { cluster, nats, agent })
    }
}

fn agent(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    Ok(lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url()))
}

async fn holds_everything(cluster: &Cluster, nats: &Nats) -> Result<()> {
    let stored = Consumer::stored(nats.client().await?, None).await?;
    await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await
}

#[test]
fn a_list_that_was_due_when_an_agent_ended_is_made_by_the_next() -> Result<()> {
    lab::run("resume-list-due", async |lab| {
        let Scene { cluster, nats, agent } = Scene::begin(lab).await?;
        // This one has no bodies: it went on from what is stored.
        agent.stop(STOPS_WITHIN).await?;
        agent.start()?;
        holds_everything(&cluster, &nats).await?;

        // The broker loses everything. It can be stored again after lists only, and there is nobody to make them.
        let server = cluster.component("kube-apiserver")?;
        server.signal(Signal::SIGSTOP)?;
        nats.kill().await?;
        nats.forget_streams()?;
        nats.start().await?;
        await_condition("the agent has read the empty stream", DEADLINE, async || {
            let sessions = agent.log().matches("stream read").count();
            let waiting = Metrics::of_agent().await?.sum("meshsync_outbox");
            Ok((sessions == 3 && waiting == 0.0).then_some(()))
        })
        .await?;
        let status = agent.stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "it ended with {status}");
        server.signal(Signal::SIGCONT)?;
        cluster.await_apiserver().await?;

        agent.start()?;
        holds_everything(&cluster, &nats).await?;
        agent.stop(STOPS_WITHIN).await.map(drop)
    })
}

#[test]
fn a_type_that_an_agent_left_out_is_listed_by_the_next() -> Result<()> {
    lab::run("resume-left-out", async |lab| {
        let Scene { cluster, nats, agent } = Scene::begin(lab).await?;
        agent.stop(STOPS_WITHIN).await?;

        let config = lab.dir().join("without-secrets.json");
        let blacklist: Vec<&str> = NOT_WATCHED.into_iter().chain(["secrets"]).collect();
        let informers = json!({"blacklist": blacklist, "whitelist": [], "metadataOnly": [], "namespaces": {}});
        std::fs::write(&config, json!({"informer_config": informers}).to_string())?;
        let without = self::agent(lab, &cluster, &nats)?.arg("--config").arg(&config);
        without.start()?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &blacklist, DEADLINE).await?;
        without.stop(STOPS_WITHIN).await?;

        agent.start()?;
        holds_everything(&cluster, &nats).await?;
        agent.stop(STOPS_WITHIN).await.map(drop)
    })
}

#[test]
fn what_somebody_else_put_into_the_stream_gives_way() -> Result<()> {
    lab::run("resume-foreign", async |lab| {
        let Scene { cluster, nats, agent } = Scene::begin(lab).await?;

        let context = jetstream::new(nats.client().await?);
        let name = context.stream_by_subject("meshsync.state.>").await?;
        let id = name.trim_start_matches("meshsync-").to_owned();
        let object = cluster
            .kubectl([
                "get",
                "configmaps",
                "-A",
                "--no-headers",
                "-l",
                "app",
                "-o",
                "custom-columns=N:.metadata.namespace,M:.metadata.name",
            ])
            .await?;
        let mut words = object.split_whitespace();
        let (namespace, configmap) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let subject = format!("meshsync.state.{id}.core.configmaps.{namespace}.{configmap}");
        context.publish(subject.clone(), "what is this?".into()).await?.await?;
        cluster.kubectl(["label", "-n", namespace, "configmap", configmap, "changed=yes"]).await?;
        let stream = context.get_stream(&name).await?;
        await_condition("the object's own message is back", DEADLINE, async || {
            let message = stream.direct_get_last_for_subject(subject.as_str()).await?;
            Ok(message.headers.get("Meshsync-Uid").is_some().then_some(()))
        })
        .await?;
        holds_everything(&cluster, &nats).await?;
        // What looks like an agent's, and holds nothing: found when it is asked back.
        agent.stop(STOPS_WITHIN).await?;
        let stamped = stream.direct_get_last_for_subject(subject.as_str()).await?;
        // But for the conditions that it was stored with.
        let mut headers = async_nats::HeaderMap::new();
        for (name, values) in stamped.headers.iter() {
            if name.to_string().starts_with("Meshsync-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        context.publish_with_headers(subject.clone(), headers, "{}".into()).await?.await?;
        agent.start()?;
        let resync = json!({"ObjectType": "request-payload", "Request": {"Entity": "resync-discovery"}}).to_string();
        await_condition("the object is stored again", DEADLINE, async || {
            nats.client().await?.publish("meshery.meshsync.request", resync.clone().into()).await?;
            nats.client().await?.flush().await?;
            let message = stream.direct_get_last_for_subject(subject.as_str()).await?;
            Ok((message.payload.len() > 2).then_some(()))
        })
        .await?;
        holds_everything(&cluster, &nats).await?;
        // An agent that goes round in circles would have something to send for ever.
        let status = agent.stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    })
}
