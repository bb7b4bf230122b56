//! Faults of the broker and of the link to it: the invariants hold, and the agent reports what is wrong meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use meshsync_e2e::faults::{Link, NAMESPACE, Trial};
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::stream::{Consumer, Key};
use meshsync_e2e::{await_condition, shared};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn broker_outage_of_a_minute_loses_nothing() -> Result<()> {
    shared::run("broker-gone", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        trial.nats.kill().await?;
        trial.behind_since(60.0).await?;
        let metrics = Metrics::of_agent().await?;
        ensure!(metrics.sum("meshsync_broker_up") == 0.0, "the broker counts as reachable");
        // The outbox has each name once, however often it changed.
        ensure!(metrics.sum("meshsync_outbox") < 200.0, "{} wait", metrics.sum("meshsync_outbox"));
        trial.nats.start().await?;
        trial.end().await
    })
}

#[test]
fn repeated_kills_of_the_broker_lose_nothing() -> Result<()> {
    shared::run("broker-killed", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for number in 0..6 {
            trial.nats.kill().await?;
            trial.nats.start().await?;
            // Each kill comes at another moment of the agent's recovery.
            trial.churn.go_on(10 + 15 * number).await?;
        }
        trial.end().await
    })
}

#[test]
fn empty_broker_and_deleted_stream_are_filled_again() -> Result<()> {
    shared::run("broker-empty", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        trial.nats.kill().await?;
        trial.nats.forget_streams()?;
        trial.churn.go_on(100).await?;
        trial.nats.start().await?;
        trial.live().await.context("after it came back empty")?;
        trial.nats.drop_streams().await?;
        trial.end().await
    })
}

#[test]
fn slow_link_to_the_broker_loses_nothing() -> Result<()> {
    shared::run("broker-slow", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        // Less than the churn produces.
        trial.proxy.set(Link::Slow(20_000));
        trial.churn.go_on(1_500).await?;
        let metrics = Metrics::of_agent().await?;
        ensure!(metrics.sum("meshsync_watch_failures_total") == 0.0, "a watch was given up");
        ensure!(metrics.sum("meshsync_broker_up") == 1.0, "a slow broker counts as lost");
        trial.proxy.set(Link::Open);
        trial.end().await
    })
}

#[test]
fn cut_and_silent_links_to_the_broker_lose_nothing() -> Result<()> {
    shared::run("broker-link", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for _ in 0..10 {
            trial.proxy.set(Link::Cut);
            trial.churn.go_on(5).await?;
            trial.proxy.set(Link::Open);
            trial.churn.go_on(20).await?;
        }
        trial.live().await.context("after the cuts")?;
        trial.proxy.set(Link::HalfOpen);
        trial.behind_since(10.0).await?;
        trial.proxy.set(Link::Open);
        trial.end().await
    })
}

#[test]
fn full_stream_is_reported_and_loses_nothing() -> Result<()> {
    shared::run("broker-full", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let context = jetstream::new(trial.nats.client().await?);
        let name = context.stream_by_subject("meshsync.state.>").await?;
        let limit = async |bytes: i64| {
            let config = context.get_stream(&name).await?.cached_info().config.clone();
            context.update_stream(jetstream::stream::Config { max_bytes: bytes, ..config }).await?;
            anyhow::Ok(())
        };
        limit(1_000).await?;
        trial.says("the stream refuses messages").await?;
        trial.behind_since(5.0).await?;
        limit(-1).await?;
        trial.end().await
    })
}

#[test]
fn exhausted_storage_of_the_broker_is_reported_and_loses_nothing() -> Result<()> {
    shared::run("broker-quota", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        trial.nats.stop().await?;
        trial.nats.configure("jetstream", json!({"store_dir": trial.nats.store_dir(), "max_file_store": 1_024}))?;
        // It cannot even recover its stored messages.
        trial.nats.start().await?;
        trial.churn.go_on(200).await?;
        trial.nats.stop().await?;
        trial.nats.configure("jetstream", json!({"store_dir": trial.nats.store_dir()}))?;
        trial.nats.start().await?;
        trial.end().await
    })
}

#[test]
fn temporarily_wrong_token_is_reported_and_loses_nothing() -> Result<()> {
    shared::run("broker-token", async |lab, cluster| {
        let token = |nats: &Nats, token: &str| nats.configure("authorization", json!({"token": token}));
        let trial = Trial::begin_with(lab, cluster, lab.nats().jetstream().token("first"), |agent| {
            agent.env("NATS_TOKEN", "first")
        })
        .await?;
        trial.nats.stop().await?;
        token(&trial.nats, "second")?;
        // The broker refuses the test's own clients as well, so the test does not wait for it.
        trial.nats.daemon().start()?;
        trial.says("authorization").await?;
        trial.churn.go_on(100).await?;
        ensure!(
            Metrics::of_agent().await?.sum("meshsync_broker_up") == 0.0,
            "the broker refuses the agent, and the agent reports a connection"
        );
        trial.nats.stop().await?;
        token(&trial.nats, "first")?;
        trial.nats.start().await?;
        trial.end().await
    })
}

#[test]
fn object_larger_than_a_message_is_reported_and_its_deletion_published() -> Result<()> {
    shared::run("broker-payload", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream().max_payload(64 * 1024)).await?;
        let large = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large", "namespace": NAMESPACE},
            "data": {"text": "x".repeat(200 * 1024)},
        });
        trial.cluster.apply(large.to_string()).await?;
        trial.says("too large for the broker").await?;
        ensure!(
            Metrics::of_agent().await?.sum("meshsync_too_large_total") == 1.0,
            "the metric does not count the object"
        );
        // Consumers learn that the object exists, and that it was deleted.
        let jetstream = jetstream::new(trial.nats.client().await?);
        let stream = jetstream.get_stream(jetstream.stream_by_subject("meshsync.state.>").await?).await?;
        let event = async || {
            let cluster = stream.cached_info().config.name.trim_start_matches("meshsync-").to_owned();
            let subject = format!("meshsync.state.{cluster}.core.configmaps.{NAMESPACE}.large");
            let message = stream.direct_get_last_for_subject(subject).await?;
            anyhow::Ok(message.headers.get("Meshsync-Event").map(|event| event.as_str().to_owned()))
        };
        await_condition("the object is published", DEADLINE, async || {
            Ok((event().await? == Some("ADDED".into())).then_some(()))
        })
        .await?;
        trial.cluster.kubectl(["delete", "-n", NAMESPACE, "configmap/large"]).await?;
        await_condition("the deletion is published", DEADLINE, async || {
            Ok((event().await? == Some("DELETED".into())).then_some(()))
        })
        .await?;
        trial.end().await
    })
}

/// Only the object's size limits its labels: these labels alone exceed the largest message, by the default of brokers
/// and by that of the managed broker.
#[test]
fn object_with_metadata_larger_than_a_message_is_published_by_name_and_uid() -> Result<()> {
    for (name, max_payload, labels, value) in
        [("broker-labels", 1024 * 1024, 20_000, "value"), ("broker-many-labels", 4 * 1024 * 1024, 82_000, "")]
    {
        shared::run(name, async |lab, cluster| {
            let trial = Trial::begin(lab, cluster, lab.nats().jetstream().max_payload(max_payload)).await?;
            let labels: serde_json::Map<String, Value> = (0..labels).map(|at| (label(at), json!(value))).collect();
            let large = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "labelled", "namespace": NAMESPACE, "labels": labels},
            });
            trial.cluster.kubectl_with_input(["create", "-f", "-"], large.to_string()).await?;
            trial.says("its name and uid only").await?;
            // Nothing waits for it.
            trial.live().await?;
            let stored = Consumer::stored(trial.nats.client().await?, None).await?;
            let key = |key: &Key| key.name == "labelled";
            await_condition("the object is stored", DEADLINE, async || Ok(stored.view().keys().any(key).then_some(())))
                .await?;
            trial.cluster.kubectl(["delete", "-n", NAMESPACE, "configmap/labelled"]).await?;
            await_condition("the deletion is published", DEADLINE, async || {
                Ok((!stored.view().keys().any(key)).then_some(()))
            })
            .await?;
            let log = trial.agent.log();
            ensure!(!log.contains("the broker does not answer"), "the connection was cut:\n{log}");
            trial.end().await
        })?;
    }
    Ok(())
}

/// A key of three bytes, because the limit counts bytes.
fn label(at: usize) -> String {
    let digits: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    let places = [at / digits.len() / digits.len(), at / digits.len(), at];
    places.iter().filter_map(|place| digits.get(place % digits.len())).collect()
}
