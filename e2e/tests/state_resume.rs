//! An agent that resumes from what an earlier agent stored misses nothing, however incomplete or damaged that was.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::{self, message::StreamMessage};
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
        // The plugin demands ServiceAccounts, which only controllers create, and none run here.
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
fn next_agent_makes_the_lists_that_its_predecessor_still_owed() -> Result<()> {
    lab::run("resume-list-due", async |lab| {
        let Scene { cluster, nats, agent } = Scene::begin(lab).await?;
        // The second agent has no bodies, because it resumed from the stream.
        agent.stop(STOPS_WITHIN).await?;
        agent.start()?;
        holds_everything(&cluster, &nats).await?;

        // The broker loses everything. The agent can store it again only after new lists, which the API server does not answer.
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
        ensure!(status.success(), "the agent ended with {status}");
        server.signal(Signal::SIGCONT)?;
        cluster.await_apiserver().await?;

        agent.start()?;
        holds_everything(&cluster, &nats).await?;
        agent.stop(STOPS_WITHIN).await.map(drop)
    })
}

#[test]
fn next_agent_lists_a_type_that_its_predecessor_did_not_watch() -> Result<()> {
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

/// One object's place in the stream.
struct StoredObject {
    context: jetstream::Context,
    stream: jetstream::stream::Stream,
    subject: String,
    namespace: String,
    name: String,
}

impl StoredObject {
    /// The place of one of the ConfigMaps that [`Scene::begin`] loaded.
    async fn config_map(cluster: &Cluster, nats: &Nats) -> Result<Self> {
        let context = jetstream::new(nats.client().await?);
        let stream = context.stream_by_subject("meshsync.state.>").await?;
        let id = stream.trim_start_matches("meshsync-").to_owned();
        let columns = "custom-columns=N:.metadata.namespace,M:.metadata.name";
        let get = ["get", "configmaps", "-A", "--no-headers", "-l", "app", "-o", columns];
        let table = cluster.kubectl(get).await?;
        let mut words = table.split_whitespace().map(str::to_owned);
        let (namespace, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let subject = format!("meshsync.state.{id}.core.configmaps.{namespace}.{name}");
        Ok(Self { stream: context.get_stream(&stream).await?, context, subject, namespace, name })
    }

    async fn message(&self) -> Result<StreamMessage> {
        Ok(self.stream.direct_get_last_for_subject(self.subject.as_str()).await?)
    }

    /// Stores a message that no agent would, and waits until the agent has stored its own after the object changed.
    async fn ensure_foreign_message_is_replaced(&self, cluster: &Cluster) -> Result<()> {
        self.context.publish(self.subject.clone(), "what is this?".into()).await?.await?;
        cluster.kubectl(["label", "-n", &self.namespace, "configmap", &self.name, "changed=yes"]).await?;
        await_condition("the object's own message is back", DEADLINE, async || {
            Ok(self.message().await?.headers.get("Meshsync-Uid").is_some().then_some(()))
        })
        .await
    }

    /// Stores an empty object under the headers of the agent's own message.
    async fn forge_empty(&self) -> Result<()> {
        let mut headers = async_nats::HeaderMap::new();
        for (name, values) in self.message().await?.headers.iter() {
            // Without the preconditions under which the agent stored it.
            if name.to_string().starts_with("Meshsync-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        self.context.publish_with_headers(self.subject.clone(), headers, "{}".into()).await?.await?;
        Ok(())
    }

    /// Requests everything until the agent, which reads the empty object back for its answer, has stored the true one.
    async fn ensure_forged_message_is_replaced(&self, nats: &Nats) -> Result<()> {
        let resync = json!({"ObjectType": "request-payload", "Request": {"Entity": "resync-discovery"}}).to_string();
        await_condition("the object is stored again", DEADLINE, async || {
            nats.client().await?.publish("meshery.meshsync.request", resync.clone().into()).await?;
            nats.client().await?.flush().await?;
            Ok((self.message().await?.payload.len() > 2).then_some(()))
        })
        .await
    }
}

#[test]
fn agent_replaces_messages_of_other_writers_in_the_stream() -> Result<()> {
    lab::run("resume-foreign", async |lab| {
        let Scene { cluster, nats, agent } = Scene::begin(lab).await?;
        let object = StoredObject::config_map(&cluster, &nats).await?;
        object.ensure_foreign_message_is_replaced(&cluster).await?;
        holds_everything(&cluster, &nats).await?;

        agent.stop(STOPS_WITHIN).await?;
        object.forge_empty().await?;
        agent.start()?;
        object.ensure_forged_message_is_replaced(&nats).await?;
        holds_everything(&cluster, &nats).await?;

        // An agent that kept replacing its own messages would never drain its outbox.
        let status = agent.stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    })
}
