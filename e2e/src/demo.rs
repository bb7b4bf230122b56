//! Demonstrates the system on a cluster with real pods, and measures every step.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::await_condition;
use crate::cluster::Cluster;
use crate::everything::{NOT_WATCHED, differences};
use crate::progress::say;
use crate::stream::Consumer;
use crate::system::{NAME, NAMESPACE, System};

const DEADLINE: Duration = Duration::from_secs(120);

/// Figures of the demonstration.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Objects that the subscriber holds.
    pub objects: usize,
    /// Types that the agent watches.
    pub types: u64,
    /// From the start of the agent's process to the first object at the subscriber.
    pub first_object_ms: u128,
    /// From the start of the agent's process to the last object of the snapshot at the subscriber.
    pub snapshot_ms: u128,
    /// From the answer to the edit to the last `DELETED` of the blacklisted type.
    pub blacklist_ms: u128,
    /// From the answer to the creation of an object to its event at the subscriber.
    pub event_ms: u128,
    /// Resident memory of the agent with the snapshot complete.
    pub agent_rss_mib: f64,
}

/// Installs the system in `cluster` and shows what it does.
///
/// # Errors
/// The first step that fails.
pub async fn show(cluster: &Cluster) -> Result<Figures> {
    let mut figures = Figures::default();
    let system = System::install(cluster).await?;
    system.apply_sample("meshsync.yaml").await?;
    let consumer = snapshot_arrives(cluster, &system, &mut figures).await?;
    type_leaves(&system, &consumer, &mut figures).await?;
    events_arrive(cluster, &consumer, &mut figures).await?;
    Ok(figures)
}

/// Starts another agent with an empty broker, so that a waiting subscriber sees the snapshot from its first object.
async fn snapshot_arrives(cluster: &Cluster, system: &System<'_>, figures: &mut Figures) -> Result<Consumer> {
    say("starting the agent again, with an empty broker and a waiting subscriber");
    // No node has the label, so no agent runs: a running agent would store everything again at once, and the next agent
    // would resume from that.
    let park = |label: Value| json!({"spec": {"agent": {"nodeSelector": {"meshery.layer5.io/parked": label}}}});
    system.patch(&park("true".into())).await?;
    await_condition("the agent has ended", DEADLINE, async || Ok(agent_processes(cluster)?.is_empty().then_some(())))
        .await?;
    system.forget_streams().await?;
    let consumer = Consumer::subscribe(system.broker().await?, None).await?;
    system.patch(&park(Value::Null)).await?;
    let process =
        await_condition("a new agent process", DEADLINE, async || Ok(agent_processes(cluster)?.into_iter().next()))
            .await?;
    let (mut size, mut grown, mut last) = (0, Instant::now(), String::new());
    let equal = await_condition("the subscriber holds what the cluster holds", DEADLINE, async || {
        for _ in 0..50 {
            let now = consumer.view().len();
            if now > size {
                (size, grown) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let differences = differences(cluster, &consumer, &NOT_WATCHED).await?;
        last = differences.to_string();
        Ok(differences.is_empty().then_some(()))
    });
    equal.await.context(last)?;
    system.await_ready().await?;
    let first = consumer.view().first.context("no message arrived")?;
    figures.first_object_ms = first.saturating_duration_since(process.started).as_millis();
    figures.snapshot_ms = grown.saturating_duration_since(process.started).as_millis();
    figures.objects = consumer.view().len();
    figures.types = system.meshsync().await?["status"]["agent"]["types"].as_u64().unwrap_or_default();
    let memory = system.agent_metrics().await?.get("process_resident_memory_bytes");
    figures.agent_rss_mib = (memory.context("no memory in the metrics")? / 1024.0 / 1024.0 * 10.0).round() / 10.0;
    say(format!(
        "{} objects of {} types arrived: the first after {} ms, the last after {} ms; none missing, extra or different",
        figures.objects, figures.types, figures.first_object_ms, figures.snapshot_ms
    ));
    Ok(consumer)
}

async fn type_leaves(system: &System<'_>, consumer: &Consumer, figures: &mut Figures) -> Result<()> {
    let count = consumer.view().count("v1", "ConfigMap");
    say(format!("blacklisting configmaps, of which the subscriber holds {count}"));
    let blacklist = ["events", "leases.coordination.k8s.io", "configmaps"];
    system.patch(&json!({"spec": {"informer_config": {"blacklist": blacklist}}})).await?;
    let answered = Instant::now();
    await_condition("the ConfigMaps leave", DEADLINE, async || {
        Ok((consumer.view().count("v1", "ConfigMap") == 0).then_some(()))
    })
    .await?;
    figures.blacklist_ms = answered.elapsed().as_millis();
    system.await_ready().await?;
    say(format!("all gone {} ms after the edit was accepted", figures.blacklist_ms));
    Ok(())
}

async fn events_arrive(cluster: &Cluster, consumer: &Consumer, figures: &mut Figures) -> Result<()> {
    say("creating and deleting a Deployment");
    let deployment =
        ["create", "deployment", "hello", "-n", "default", "--image=registry.example/hello:1", "--replicas=0"];
    cluster.kubectl(deployment).await?;
    let answered = Instant::now();
    let held = || consumer.view().keys().any(|key| key.kind == "Deployment" && key.name == "hello");
    await_condition("the Deployment arrives", DEADLINE, async || Ok(held().then_some(()))).await?;
    figures.event_ms = answered.elapsed().as_millis();
    cluster.kubectl(["delete", "deployment", "hello", "-n", "default"]).await?;
    await_condition("it leaves", DEADLINE, async || Ok((!held()).then_some(()))).await?;
    say(format!("ADDED {} ms after the creation was answered, and DELETED", figures.event_ms));
    Ok(())
}

/// A running agent.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    started: Instant,
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        self.pid == other.pid
    }
}

/// Agents in pods of the cluster: with every provider but an existing cluster they are processes of this machine.
fn agent_processes(cluster: &Cluster) -> Result<Vec<Process>> {
    let uptime = std::fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let uptime: f64 =
        uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).context("parse /proc/uptime")?;
    let now = Instant::now();
    let group = cluster.pods_control_group();
    let own = format!("--config-map={NAMESPACE}/{NAME}-agent");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        let is_agent = words.next().is_some_and(|program| program.ends_with(b"meshsync-agent"));
        // Agents of other labs are no pods, or pods of another cluster: one of an earlier demonstration may be up.
        let is_pod = std::fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.contains(&group));
        if !is_agent || !is_pod || !words.any(|word| word == own.as_bytes()) {
            continue;
        }
        // proc(5): field 22 is the start in ticks of a hundredth of a second since boot; the name may hold spaces.
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let ticks = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
        let age = Duration::from_secs_f64((uptime - ticks.unwrap_or_default() / 100.0).max(0.0));
        found.extend(now.checked_sub(age).map(|started| Process { pid, started }));
    }
    Ok(found)
}
