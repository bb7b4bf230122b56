//! The agent's presence message, its answers to requests, and types that appear and disappear.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::custom_type::custom_type;
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::{CORE_SUBJECT, Consumer, Recorder};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const REQUESTS: &str = "meshery.meshsync.request";
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time until the agent watches a new type, and until the objects of a removed type are gone.
const TYPE_WITHIN: Duration = Duration::from_secs(5);
/// Presence takes less than a second; a machine that is busy with other tests gets two.
const PRESENCE_WITHIN: Duration = Duration::from_secs(2);

const GADGET: &str = r#"{"apiVersion": "example.com/v1", "kind": "Gadget",
    "metadata": {"name": "first", "namespace": "default"}, "spec": {"size": 3}}"#;

async fn ask(client: &Client, request: impl Into<bytes::Bytes>) -> Result<()> {
    client.publish(REQUESTS, request.into()).await?;
    Ok(client.flush().await?)
}

fn request(entity: &str) -> String {
    json!({"ObjectType": "request-payload", "EventType": "", "Request": {"Entity": entity, "Payload": ""}, "Object": null})
        .to_string()
}

async fn next(messages: &mut Subscriber) -> Result<async_nats::Message> {
    tokio::time::timeout(DEADLINE, messages.next())
        .await
        .context("no message arrived")?
        .context("the subscription ended")
}

/// Watches opened so far, except those of the type that the test adds and removes.
async fn watch_opens() -> Result<Vec<String>> {
    let metrics = Metrics::of_agent().await?.0;
    let opens = metrics.lines().filter(|line| line.starts_with("meshsync_watch_opens_total{"));
    Ok(opens.filter(|line| !line.contains("gadgets")).map(str::to_owned).collect())
}

#[test]
fn presence_precedes_the_first_object_and_lists_the_types() -> Result<()> {
    lab::run("agent-presence", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        cluster.kubectl(["create", "configmap", "one", "-n", "default"]).await?;
        let nats = lab.nats().start().await?;
        let client = nats.client().await?;
        // One subscription keeps the order in which the agent sent.
        let mut messages = client.subscribe("meshery.meshsync.*").await?;
        client.flush().await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
        let began = Instant::now();
        agent.start()?;
        let first = next(&mut messages).await?;
        let took = began.elapsed();
        ensure!(first.subject.as_str() == "meshery.meshsync.presence", "the first message is on {}", first.subject);
        ensure!(took < PRESENCE_WITHIN, "presence took {took:?}");
        ensure!(next(&mut messages).await?.subject.as_str() == CORE_SUBJECT, "no object follows presence");

        let presence: Value = serde_json::from_slice(&first.payload)?;
        let id = ["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"];
        ensure!(presence["clusterId"] == cluster.kubectl(id).await?.trim(), "{presence:#}");
        ensure!(presence["serverVersion"].as_str().is_some_and(|version| version.starts_with('v')), "{presence:#}");
        let types = presence["types"].as_array().context("no types")?;
        let find = |plural: &str| types.iter().find(|t| t["plural"] == plural && t["group"] == "");
        let config_maps = find("configmaps").context("no configmaps")?;
        let names = cluster.kubectl(["get", "configmaps", "-A", "-o", "name"]).await?;
        ensure!(config_maps["objects"] == names.lines().count() && config_maps["watched"] == true, "{config_maps}");
        ensure!(
            find("events").is_some_and(|events| events["watched"] == false),
            "presence does not list events, or lists them as watched"
        );
        Ok(())
    })
}

#[test]
fn agent_answers_requests_and_ignores_malformed_messages() -> Result<()> {
    lab::run("agent-requests", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let client = nats.client().await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;

        for garbage in ["", "{", "[]", "null", r#"{"Request":{"Entity":7}}"#, r#"{"Request":{"Entity":"rm -rf"}}"#] {
            ask(&client, garbage).await?;
        }
        ask(&client, vec![0xff_u8; 100_000]).await?;
        let mut answers = client.subscribe("meshsync-meta").await?;
        client.flush().await?;
        ask(&client, request("meshsync-meta")).await?;
        let answer: Value = serde_json::from_slice(&next(&mut answers).await?.payload)?;
        ensure!(answer["ObjectType"] == "meshsync-meta", "{answer}");
        ensure!(answer["Object"] == env!("CARGO_PKG_VERSION"), "{answer}");

        // A burst of requests makes the agent publish every object again, and only once.
        let heard = Recorder::subscribe(nats.client().await?).await?;
        let objects = consumer.view().len();
        for _ in 0..5 {
            client.publish(REQUESTS, request("resync-discovery").into()).await?;
        }
        client.flush().await?;
        await_condition("the agent has published everything again, as ADDED", DEADLINE, async || {
            Ok((heard.view().added >= objects as u64).then_some(()))
        })
        .await?;
        await_condition("the agent has stopped publishing", DEADLINE, async || {
            Ok(heard.quiet_for().is_some_and(|quiet| quiet > Duration::from_secs(1)).then_some(()))
        })
        .await?;
        ensure!(
            heard.len() < 2 * objects,
            "{} messages for {objects} objects: the burst caused several passes",
            heard.len()
        );
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        agent.ensure_running()
    })
}

#[test]
fn new_type_is_watched_within_5_s_and_other_watches_stay_open() -> Result<()> {
    lab::run("agent-types", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        let opens = watch_opens().await?;
        ensure!(opens.len() > 50, "{opens:?}");

        cluster.apply(custom_type("example.com", "Gadget")).await?;
        let established =
            await_condition("the type is established", DEADLINE, async || established(&cluster).await).await?;
        await_condition("the API server accepts an object", DEADLINE, async || Ok(cluster.apply(GADGET).await.ok()))
            .await?;
        let gadgets = || consumer.view().count("example.com/v1", "Gadget");
        await_condition("the object arrives", DEADLINE, async || Ok((gadgets() == 1).then_some(()))).await?;
        ensure!(established.elapsed() < TYPE_WITHIN, "it took {:?}", established.elapsed());

        cluster.kubectl(["delete", "crd", "gadgets.example.com"]).await?;
        let removed = Instant::now();
        await_condition("the object leaves", DEADLINE, async || Ok((gadgets() == 0).then_some(()))).await?;
        ensure!(removed.elapsed() < TYPE_WITHIN, "it took {:?}", removed.elapsed());
        await_condition("the type's loop ends", DEADLINE, async || {
            let metrics = Metrics::of_agent().await?.0;
            Ok((!metrics.contains("gadgets.example.com")).then_some(()))
        })
        .await?;
        ensure!(watch_opens().await? == opens, "other watches were opened again");
        agent.ensure_running()
    })
}

async fn established(cluster: &Cluster) -> Result<Option<Instant>> {
    let condition = "jsonpath={.status.conditions[?(@.type==\"Established\")].status}";
    let status = cluster.kubectl(["get", "crd", "gadgets.example.com", "-o", condition]).await?;
    Ok((status.trim() == "True").then(Instant::now))
}

/// Creates 150 ConfigMaps of 400 KiB each.
async fn create_large_config_maps(lab: &Lab, cluster: &Cluster) -> Result<()> {
    let value = "v".repeat(400 * 1024);
    let object = |number| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("large-{number}"), "namespace": "default"}, "data": {"value": value}})
    };
    let objects: Vec<_> = (0..150).map(object).collect();
    let file = lab.dir().join("large.json");
    std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    cluster.kubectl(["create", "-f", &file.to_string_lossy()]).await.map(drop)
}

/// An agent that keeps hashes in place of bodies.
fn hash_only_agent(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    let config = lab.dir().join("agent.json");
    std::fs::write(&config, json!({"revision": "", "snapshot": {"mode": "hashOnly"}}).to_string())?;
    let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig());
    Ok(agent.arg("--config").arg(&config).env("BROKER_URL", nats.url()))
}

/// Asks for all objects, and returns the number of objects and of bytes in the messages of the answer.
async fn count_informer_store(client: &Client) -> Result<(usize, usize)> {
    let mut answers = client.subscribe("answer").await?;
    client.flush().await?;
    let payload = json!({"Reply": "answer"});
    let request = json!({"ObjectType": "request-payload", "EventType": "", "Object": null,
        "Request": {"Entity": "informer-store", "Payload": payload}});
    ask(client, request.to_string()).await?;
    let (mut objects, mut bytes) = (0, 0);
    loop {
        let message = next(&mut answers).await?;
        bytes += message.payload.len();
        let answer: Value = serde_json::from_slice(&message.payload)?;
        match answer["Object"].as_array().context("no array")?.len() {
            0 => return Ok((objects, bytes)),
            more => objects += more,
        }
    }
}

#[test]
fn agent_answers_with_more_than_fits_into_its_memory() -> Result<()> {
    lab::run("agent-answer", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        create_large_config_maps(lab, &cluster).await?;
        let agent = hash_only_agent(lab, &cluster, &nats)?;
        agent.start()?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        // The second agent resumes from the stream, and has received none of the bodies.
        agent.stop(DEADLINE).await?;
        agent.start()?;
        await_condition("the agent holds its objects again", DEADLINE, async || {
            Ok(Metrics::of_agent().await.ok().filter(|metrics| metrics.sum("meshsync_objects") > 150.0).map(drop))
        })
        .await?;
        let before = agent.peak_resident_bytes()?;
        let (objects, bytes) = count_informer_store(&nats.client().await?).await?;
        ensure!(objects == stored.view().len(), "the answer has {objects} objects of {}", stored.view().len());
        let more = agent.peak_resident_bytes()?.saturating_sub(before);
        ensure!(bytes > 60_000_000 && more < 32 * 1024 * 1024, "{more} bytes more for an answer of {bytes}");
        Ok(())
    })
}
