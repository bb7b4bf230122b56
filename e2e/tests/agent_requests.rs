//! What consumers hear first, what they may ask for, and types that come and go.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::stream::{CORE_SUBJECT, Consumer, Recorder};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const REQUESTS: &str = "meshery.meshsync.request";
const DEADLINE: Duration = Duration::from_secs(60);
/// A new type is watched so soon after it is established, a removed one gone.
const TYPE_WITHIN: Duration = Duration::from_secs(5);
/// Presence comes within a second; a machine that is busy with other tests gets another one.
const PRESENCE_WITHIN: Duration = Duration::from_secs(2);

const GADGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;
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
    tokio::time::timeout(DEADLINE, messages.next()).await.context("nothing came")?.context("the subscription ended")
}

/// Watches opened so far, but for those of the type that comes and goes.
async fn watch_opens() -> Result<Vec<String>> {
    let metrics = Metrics::of_agent().await?.0;
    let opens = metrics.lines().filter(|line| line.starts_with("meshsync_watch_opens_total{"));
    Ok(opens.filter(|line| !line.contains("gadgets")).map(str::to_owned).collect())
}

#[test]
fn presence_comes_before_the_first_object_and_says_what_exists() -> Result<()> {
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
        ensure!(took < PRESENCE_WITHIN, "it took {took:?}");
        ensure!(next(&mut messages).await?.subject.as_str() == CORE_SUBJECT, "no object follows");

        let presence: Value = serde_json::from_slice(&first.payload)?;
        let id = ["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"];
        ensure!(presence["clusterId"] == cluster.kubectl(id).await?.trim(), "{presence:#}");
        ensure!(presence["serverVersion"].as_str().is_some_and(|version| version.starts_with('v')), "{presence:#}");
        let types = presence["types"].as_array().context("no types")?;
        let find = |plural: &str| types.iter().find(|t| t["plural"] == plural && t["group"] == "");
        let config_maps = find("configmaps").context("no configmaps")?;
        let names = cluster.kubectl(["get", "configmaps", "-A", "-o", "name"]).await?;
        ensure!(config_maps["objects"] == names.lines().count() && config_maps["watched"] == true, "{config_maps}");
        ensure!(find("events").is_some_and(|events| events["watched"] == false), "events are not in it, or watched");
        Ok(())
    })
}

#[test]
fn requests_are_answered_and_malformed_ones_do_no_harm() -> Result<()> {
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

        // Everything once more, as new; a burst of requests is one pass.
        let heard = Recorder::subscribe(nats.client().await?).await?;
        let objects = consumer.view().len();
        for _ in 0..5 {
            client.publish(REQUESTS, request("resync-discovery").into()).await?;
        }
        client.flush().await?;
        await_condition("everything is published again, as new", DEADLINE, async || {
            Ok((heard.view().added >= objects as u64).then_some(()))
        })
        .await?;
        await_condition("it is over", DEADLINE, async || {
            Ok(heard.quiet_for().is_some_and(|quiet| quiet > Duration::from_secs(1)).then_some(()))
        })
        .await?;
        ensure!(heard.len() < 2 * objects, "{} messages for {objects} objects: no burst is one pass", heard.len());
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        agent.ensure_running()
    })
}

#[test]
fn a_type_is_watched_within_5_s_of_being_established_and_others_are_left_alone() -> Result<()> {
    lab::run("agent-types", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        let opens = watch_opens().await?;
        ensure!(opens.len() > 50, "{opens:?}");

        cluster.apply(GADGETS).await?;
        let established = await_condition("it is established", DEADLINE, async || established(&cluster).await).await?;
        await_condition("an object is accepted", DEADLINE, async || Ok(cluster.apply(GADGET).await.ok())).await?;
        let gadgets = || consumer.view().count("example.com/v1", "Gadget");
        await_condition("it arrives", DEADLINE, async || Ok((gadgets() == 1).then_some(()))).await?;
        ensure!(established.elapsed() < TYPE_WITHIN, "it took {:?}", established.elapsed());

        cluster.kubectl(["delete", "crd", "gadgets.example.com"]).await?;
        let removed = Instant::now();
        await_condition("it leaves", DEADLINE, async || Ok((gadgets() == 0).then_some(()))).await?;
        ensure!(removed.elapsed() < TYPE_WITHIN, "it took {:?}", removed.elapsed());
        await_condition("its loop ends", DEADLINE, async || {
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

#[test]
fn an_answer_does_not_have_to_fit_into_memory() -> Result<()> {
    lab::run("agent-answer", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        let value = "v".repeat(400 * 1024);
        let object = |number| {
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("large-{number}"), "namespace": "default"}, "data": {"value": value}})
        };
        let objects: Vec<_> = (0..150).map(object).collect();
        let file = lab.dir().join("large.json");
        std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        cluster.kubectl(["create", "-f", &file.to_string_lossy()]).await?;
        let config = lab.dir().join("agent.json");
        std::fs::write(&config, json!({"revision": "", "snapshot": {"mode": "hashOnly"}}).to_string())?;
        let agent = lab
            .agent()?
            .arg("run")
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .arg("--config")
            .arg(&config)
            .env("BROKER_URL", nats.url());
        agent.start()?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        // One that goes on from a stream has had none of the bodies.
        agent.stop(DEADLINE).await?;
        agent.start()?;
        await_condition("it is ready again", DEADLINE, async || {
            Ok(Metrics::of_agent().await.ok().filter(|metrics| metrics.sum("meshsync_objects") > 150.0).map(drop))
        })
        .await?;
        let before = agent.peak_resident_bytes()?;
        let client = nats.client().await?;
        let mut answers = client.subscribe("answer").await?;
        client.flush().await?;
        let payload = json!({"Reply": "answer"});
        let request = json!({"ObjectType": "request-payload", "EventType": "", "Object": null,
            "Request": {"Entity": "informer-store", "Payload": payload}});
        ask(&client, request.to_string()).await?;
        let (mut objects, mut bytes) = (0, 0);
        loop {
            let message = next(&mut answers).await?;
            bytes += message.payload.len();
            let answer: Value = serde_json::from_slice(&message.payload)?;
            match answer["Object"].as_array().context("no array")?.len() {
                0 => break,
                more => objects += more,
            }
        }
        ensure!(objects == stored.view().len(), "{objects} objects came of {}", stored.view().len());
        let more = agent.peak_resident_bytes()?.saturating_sub(before);
        ensure!(bytes > 60_000_000 && more < 32 * 1024 * 1024, "{more} bytes more for an answer of {bytes}");
        Ok(())
    })
}
