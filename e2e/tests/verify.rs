//! What the broker holds, compared and read from the command line.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::Cluster;
use meshsync_e2e::custom_type::custom_type;
use meshsync_e2e::equality::fingerprint::{Fingerprints, of_cluster};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal, objects};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::metrics::{Metrics, agent_watches};
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::{Consumer, History, Told};
use meshsync_e2e::{await_condition, shared};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

fn agent(cluster: &Cluster, nats: &Nats, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("meshsync-agent")?);
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("BROKER_URL", nats.url());
    command.output().context("run the agent")
}

fn following(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    let daemon = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
    daemon.start()?;
    Ok(daemon)
}

/// The broker holds the cluster, as the command line finds.
fn nothing_differs(cluster: &Cluster, nats: &Nats) -> Result<()> {
    let same = agent(cluster, nats, &["verify"])?;
    ensure!(same.status.success(), "{}{}", text(&same.stdout), text(&same.stderr));
    ensure!(text(&same.stdout).contains("the broker holds the cluster"), "{}", text(&same.stdout));
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn verify_names_what_the_broker_does_not_hold() -> Result<()> {
    shared::run("verify", async |lab, cluster| {
        let nats = lab.nats().jetstream().start().await?;
        cluster.kubectl(["create", "namespace", "shop"]).await?;
        for name in ["stays", "changes", "goes"] {
            cluster.kubectl(["create", "configmap", "-n", "shop", name, "--from-literal=a=1"]).await?;
        }
        let absent = agent(cluster, &nats, &["verify"])?;
        ensure!(absent.status.code() == Some(1), "{absent:?}");
        ensure!(text(&absent.stderr).contains("does not hold the cluster's state"), "{}", text(&absent.stderr));

        let stored = Consumer::stored(nats.client().await?, None).await?;
        let daemon = following(lab, cluster, &nats)?;
        await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        nothing_differs(cluster, &nats)?;

        daemon.stop(Duration::from_secs(20)).await?;
        cluster.kubectl(["delete", "configmap", "-n", "shop", "goes"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "comes", "--from-literal=a=1"]).await?;
        cluster.kubectl(["patch", "configmap", "-n", "shop", "changes", "-p", r#"{"data":{"a":"2"}}"#]).await?;
        let other = agent(cluster, &nats, &["verify", "--settle", "1"])?;
        ensure!(other.status.code() == Some(1), "{other:?}");
        let shop: Vec<String> =
            text(&other.stdout).lines().filter(|line| line.contains("shop/")).map(str::to_owned).collect();
        let expected = [
            "missing    configmaps shop/comes",
            "extra      configmaps shop/goes",
            "different  configmaps shop/changes",
        ];
        ensure!(shop == expected, "{}", text(&other.stdout));

        narrower_configuration_makes_the_rest_extra(lab, cluster, &nats)?;
        tail_prints_the_stored_state(cluster, &nats, stored.view().len())?;

        nats.stop().await?;
        let nobody = agent(cluster, &nats, &["verify"])?;
        ensure!(nobody.status.code() == Some(1), "{nobody:?}");
        ensure!(text(&nobody.stderr).contains("--broker-url"), "{}", text(&nobody.stderr));
        Ok(())
    })
}

/// Objects that a narrower configuration does not select are reported as `extra`.
fn narrower_configuration_makes_the_rest_extra(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<()> {
    let config = lab.dir().join("agent.yaml");
    let informer_config = "{blacklist: [configmaps], whitelist: [], metadataOnly: [], namespaces: {}}";
    std::fs::write(&config, format!("revision: ''\ninformer_config: {informer_config}\n"))?;
    let path = config.to_str().context("a path in UTF-8")?;
    let narrower = agent(cluster, nats, &["verify", "--settle", "0", "--config", path, "-o", "json"])?;
    let report: serde_json::Value = serde_json::from_slice(&narrower.stdout).with_context(|| text(&narrower.stderr))?;
    let extra = report.get("differences").and_then(serde_json::Value::as_array).context("no differences")?;
    ensure!(extra.iter().any(|one| one.get("name") == Some(&"shop/stays".into())), "{report:#}");
    Ok(())
}

/// `tail --all` prints the whole stored state, and takes types as kubectl names them.
fn tail_prints_the_stored_state(cluster: &Cluster, nats: &Nats, objects: usize) -> Result<()> {
    let count = objects.to_string();
    let all = agent(cluster, nats, &["tail", "--all", "--count", &count])?;
    ensure!(text(&all.stdout).lines().any(|line| line.contains("v1 ConfigMap shop/stays")), "{}", text(&all.stdout));
    for name in ["cm", "configmaps", "ConfigMap", "configmaps.v1."] {
        let one = agent(cluster, nats, &["tail", "--all", "--type", name, "--count", "1"])?;
        ensure!(text(&one.stdout).contains(" v1 ConfigMap "), "{name}: {}", text(&one.stdout));
    }
    Ok(())
}

/// Kinds that are created while an agent watches, and one that only this cluster has.
fn object(kind: &str, number: usize) -> Value {
    let metadata = json!({"namespace": "default", "name": format!("{}-{number}", kind.to_lowercase()),
        "labels": {"z": "1", "a": number.to_string()}});
    let labels = json!({"app": "a"});
    let pods =
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none.example/c"}]}});
    let (api_version, more) = match kind {
        "ConfigMap" => ("v1", json!({"data": {"z": "1", "a": number.to_string()}})),
        "Secret" => ("v1", json!({"stringData": {"password": number.to_string()}})),
        "Service" => ("v1", json!({"spec": {"selector": labels, "ports": [{"port": 80}]}})),
        "Deployment" => ("apps/v1", json!({"spec": {"selector": {"matchLabels": labels}, "template": pods}})),
        _ => ("example.com/v1", json!({"spec": {"z": number, "a": {"deep": [1, 2.50, null]}}})),
    };
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    object.as_object_mut().into_iter().for_each(|object| object.extend(more.as_object().cloned().unwrap_or_default()));
    object
}

/// Creates `count` objects of several types.
async fn create(cluster: &Cluster, count: usize) -> Result<()> {
    let kinds = ["ConfigMap", "Secret", "Service", "Deployment", "Widget"];
    let items: Vec<_> =
        kinds.iter().cycle().take(count).enumerate().map(|(number, kind)| object(kind, number)).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    cluster.kubectl_with_input(["create", "-f", "-"], list).await.map(drop)
}

/// How often the watch of each type was opened, of those that are live.
async fn opened() -> Result<BTreeMap<String, u64>> {
    let watches: BTreeMap<String, Value> = serde_json::from_value(agent_watches().await?)?;
    let live = watches.into_iter().filter(|(_, watch)| watch["phase"] == "Live");
    Ok(live.map(|(name, watch)| (name, watch["watchOpens"].as_u64().unwrap_or_default())).collect())
}

/// Kills the API server, starts it again, and waits until the watch of every type is open again.
async fn kill(cluster: &Cluster) -> Result<()> {
    let before = opened().await?;
    let server = cluster.component("kube-apiserver")?;
    server.kill().await?;
    server.start()?;
    cluster.await_apiserver().await?;
    await_condition("every watch is open again", DEADLINE, async || {
        let now = opened().await?;
        Ok(before.iter().all(|(name, opens)| now.get(name).is_some_and(|now| now > opens)).then_some(()))
    })
    .await
}

/// What an object of the cluster is, without what changes when nothing does, by uid.
async fn held(cluster: &Cluster) -> Result<BTreeMap<String, (Fingerprints, String)>> {
    let all = objects(cluster, &NOT_WATCHED).await?;
    let of = |object: &Value| {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        (
            object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            (Fingerprints::from([of_cluster(object)]), name),
        )
    };
    Ok(all.iter().map(of).collect())
}

async fn published() -> Result<f64> {
    Ok(Metrics::of_agent().await?.sum("meshsync_published_total"))
}

/// Uids of the objects that the stream was told of from there on, once all that was `published` is among them: then nothing
/// was published that is not stored.
async fn told_since(history: &History, from: usize, published: f64) -> Result<Vec<String>> {
    await_condition("what was published is stored", DEADLINE, async || {
        let told = history.entries().split_off(from).into_iter().filter_map(|entry| match entry.told {
            Told::State { uid, .. } => Some(uid),
            Told::Checkpoint(_) => None,
        });
        let told: Vec<_> = told.collect();
        Ok((told.len() as f64 >= published).then_some(told))
    })
    .await
}

#[test]
fn nothing_differs_after_creations_and_kills_and_nothing_is_told_twice() -> Result<()> {
    shared::run("verify-live", async |lab, cluster| {
        cluster.apply(custom_type("example.com", "Widget")).await?;
        let nats = lab.nats().jetstream().start().await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        let history = History::follow(nats.client().await?);
        let daemon = following(lab, cluster, &nats)?;
        await_condition("every type is watched", DEADLINE, async || {
            let opened = opened().await?;
            Ok((opened.contains_key("widgets.example.com") && opened.contains_key("deployments.apps")).then_some(()))
        })
        .await?;
        create(cluster, 100).await?;
        await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        nothing_differs(cluster, &nats).context("after creations")?;

        for round in 0..2 {
            let (before, counted) = (held(cluster).await?, published().await?);
            told_since(&history, 0, counted).await?;
            let from = history.len();
            kill(cluster).await?;
            await_equal(cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
            nothing_differs(cluster, &nats).with_context(|| format!("after kill {round}"))?;
            let told = told_since(&history, from, published().await? - counted).await?;
            let now = held(cluster).await?;
            for uid in told {
                let (old, name) = before.get(&uid).cloned().unwrap_or_default();
                ensure!(now.get(&uid).is_none_or(|(new, _)| *new != old), "{name} did not change and was told again");
            }
        }
        daemon.stop(Duration::from_secs(20)).await.map(drop)
    })
}
