//! Measures the agent beside the null client: same API server, same data, in turn.

pub mod dataset;
pub mod null_client;
pub mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use kube::Client;
use serde::Serialize;
use serde_json::json;

use crate::await_condition;
use crate::cluster::{Cluster, Level};
use crate::equality::compare;
use crate::everything::{NOT_WATCHED, collections, objects};
use crate::lab::Lab;
use crate::nats::Nats;
use crate::progress::say;
use crate::stream::Consumer;

use dataset::{Item, items, namespaces};

/// Objects that are created at the same time.
const WRITERS: usize = 24;
/// Longest time for one snapshot.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long after the last object the memory is read again.
const SETTLE: Duration = Duration::from_secs(30);

/// One run of one contender.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Run {
    /// From the start to the last object (for the null client: the last byte), in seconds.
    pub seconds: f64,
    /// CPU time for that, in seconds.
    pub cpu_seconds: f64,
    /// Largest resident set, in MiB; 0 for the null client, which keeps nothing.
    pub peak_mib: f64,
    /// Resident set some time later, in MiB.
    pub settled_mib: f64,
    /// Bytes to the broker.
    pub broker_bytes: u64,
}

/// What a benchmark found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Objects in the cluster that an agent is to hold.
    pub objects: usize,
    /// Bytes of all lists.
    pub list_bytes: u64,
    /// Runs of the null client.
    pub null: Vec<Run>,
    /// Runs of the agent.
    pub agent: Vec<Run>,
}

/// Makes a cluster with `count` objects in `lab` and runs both contenders in turn, `runs` times.
///
/// # Errors
/// The first step that fails, or a snapshot that is not the cluster's.
pub async fn run(lab: &Lab, agent: &Path, count: usize, runs: usize) -> Result<Report> {
    // Without controllers nobody makes the ServiceAccounts that the plugin asks for.
    let cluster = lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
    let nats = lab.nats().start().await?;
    load(&cluster.client().await?, count).await?;
    let expected = objects(&cluster, &NOT_WATCHED).await?;
    let mut report = Report { objects: expected.len(), ..Report::default() };
    for run in 1..=runs {
        say(format!("run {run} of {runs}"));
        let (null, bytes) = null_client(&cluster).await?;
        report.list_bytes = bytes;
        report.null.push(null);
        report.agent.push(agent_run(lab, &cluster, &nats, agent, &expected).await?);
    }
    Ok(report)
}

async fn load(client: &Client, count: usize) -> Result<()> {
    let started = Instant::now();
    for namespace in namespaces(count) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        send(client, "POST", "/api/v1/namespaces", &body).await?;
    }
    let mut done = 0;
    let mut writes = stream::iter(items(count)).map(|item| create(client, item)).buffer_unordered(WRITERS);
    while writes.try_next().await?.is_some() {
        done += 1;
        if done % 2000 == 0 {
            say(format!("{done} of {count} objects created, {:.0} s", started.elapsed().as_secs_f64()));
        }
    }
    Ok(())
}

async fn create(client: &Client, item: Item) -> Result<()> {
    let collection = item.kind.collection(&item.namespace);
    send(client, "POST", &collection, &item.body).await?;
    if let Some(status) = item.status {
        let path = format!("{collection}/{}/status", item.name);
        send(client, "PATCH", &path, &json!({"status": status})).await?;
    }
    Ok(())
}

async fn send(client: &Client, method: &str, path: &str, body: &serde_json::Value) -> Result<()> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content)
        .body(serde_json::to_vec(body)?)?;
    client.request_text(request).await.map(drop).with_context(|| format!("{method} {path}"))
}

async fn null_client(cluster: &Cluster) -> Result<(Run, u64)> {
    let client = cluster.client().await?;
    let paths = collections(cluster, &NOT_WATCHED).await?;
    let before = process::usage(std::process::id())?;
    let run = null_client::run(&client, paths).await?;
    let after = process::usage(std::process::id())?;
    let cpu_seconds = (after.cpu - before.cpu).as_secs_f64();
    Ok((Run { seconds: run.elapsed.as_secs_f64(), cpu_seconds, ..Run::default() }, run.bytes))
}

async fn agent_run(
    lab: &Lab,
    cluster: &Cluster,
    nats: &Nats,
    program: &Path,
    expected: &[serde_json::Value],
) -> Result<Run> {
    let consumer = Consumer::subscribe(nats.client().await?, None).await?;
    let agent = lab
        .daemon("bench-agent", program)
        .args(["run", "--log-level=warn", "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .env("BROKER_URL", nats.url());
    let started = Instant::now();
    agent.start()?;
    let complete = await_condition("the last object arrives", DEADLINE, async || {
        Ok((consumer.view().len() >= expected.len()).then_some(()))
    });
    complete.await.with_context(|| format!("{} of {} objects arrived", consumer.view().len(), expected.len()))?;
    let last = consumer.view().last.context("no message came")?;
    let pid = agent.pid().context("the agent ended")?;
    let used = process::usage(pid)?;
    tokio::time::sleep(SETTLE).await;
    let settled = process::usage(pid)?;
    let view: Vec<serde_json::Value> = consumer.view().resources().map(|(_, resource)| resource).collect();
    let differences = compare(expected, &view);
    ensure!(differences.is_empty(), "the snapshot is not the cluster: {differences}");
    agent.stop(Duration::from_secs(30)).await?;
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    Ok(Run {
        seconds: last.saturating_duration_since(started).as_secs_f64(),
        cpu_seconds: used.cpu.as_secs_f64(),
        peak_mib: mib(settled.peak_rss),
        settled_mib: mib(settled.rss),
        broker_bytes: consumer.view().bytes,
    })
}
