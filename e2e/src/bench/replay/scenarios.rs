//! What is measured with a replayed cluster.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::push;
use futures::StreamExt as _;
use serde::Serialize;

use super::CHANGE_LABEL;
use super::stage::{DEADLINE, STATE, Stage, kind, paced};
use crate::await_condition;
use crate::bench::dataset::Kind;
use crate::bench::process;
use crate::lab::Lab;
use crate::metrics::Metrics;

/// How long after the last object the memory is read again.
const SETTLE: Duration = Duration::from_secs(30);
/// How long after the first lists events begin: agent and broker are still busy with those.
const WARM: Duration = Duration::from_secs(10);
/// Events of so long a time are counted apart.
const FIRST: Duration = Duration::from_secs(5);

/// What a large cluster takes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Objects.
    pub objects: usize,
    /// Whether only hashes are kept.
    pub hash_only: bool,
    /// From the start until every object was stored.
    pub seconds: f64,
    /// CPU time until then.
    pub cpu_seconds: f64,
    /// Bytes of the lists.
    pub list_bytes: u64,
    /// Largest resident set, in MiB.
    pub peak_mib: f64,
    /// Resident set half a minute later, in MiB.
    pub settled_mib: f64,
    /// Time until a restarted agent watches everything again, in seconds.
    pub restart_seconds: f64,
    /// Bytes that it read from the API server for that.
    pub restart_bytes: u64,
    /// Largest resident set of the restarted agent, in MiB.
    pub restart_peak_mib: f64,
}

/// Measures memory with `objects` objects, and a restart.
///
/// # Errors
/// The first step that fails.
pub async fn memory(lab: &Lab, program: &Path, objects: usize, hash_only: bool) -> Result<Memory> {
    let stage = Stage::set(lab, program, objects, hash_only, false).await?;
    let used = process::usage(stage.pid()?)?;
    tokio::time::sleep(SETTLE).await;
    let settled = process::usage(stage.pid()?)?;
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    let mut result = Memory {
        objects: stage.world.objects(),
        hash_only,
        seconds: stage.seconds,
        cpu_seconds: used.cpu.as_secs_f64(),
        list_bytes: stage.world.listed.load(Ordering::Relaxed),
        peak_mib: mib(settled.peak_rss),
        settled_mib: mib(settled.rss),
        ..Memory::default()
    };
    stage.agent.stop(Duration::from_secs(30)).await?;
    let started = Instant::now();
    stage.agent.start()?;
    await_condition("every watch is open again", DEADLINE, async || {
        stage.agent.ensure_running()?;
        Ok((stage.world.watched() >= Kind::ALL.len()).then_some(()))
    })
    .await?;
    result.restart_seconds = started.elapsed().as_secs_f64();
    result.restart_bytes = Metrics::of_agent().await?.sum("meshsync_received_bytes_total") as u64;
    result.restart_peak_mib = mib(process::usage(stage.pid()?)?.peak_rss);
    stage.end().await?;
    Ok(result)
}

/// What an agent on one core can follow.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    /// Events that were sent.
    pub events: u64,
    /// Time until all were read, in seconds.
    pub seconds: f64,
    /// CPU time of the agent for that, in seconds.
    pub cpu_seconds: f64,
    /// Messages that it stored: fewer than events where an object changed again before its turn.
    pub stored: u64,
    /// Resident set at the end, in MiB.
    pub rss_mib: f64,
}

/// Sends `events` events as fast as the agent, which has one core, reads them.
///
/// # Errors
/// The first step that fails, or a difference at the end.
pub async fn throughput(lab: &Lab, program: &Path, objects: usize, events: u64) -> Result<Throughput> {
    let stage = Stage::set(lab, program, objects, false, true).await?;
    let before = (process::usage(stage.pid()?)?, Metrics::of_agent().await?);
    let started = Instant::now();
    for number in 0..events {
        stage.world.change(kind(number), number as usize, true).await;
    }
    await_condition("the outbox is empty", DEADLINE, async || {
        Ok((Metrics::of_agent().await?.sum("meshsync_outbox") == 0.0).then_some(()))
    })
    .await?;
    let elapsed = started.elapsed();
    let after = (process::usage(stage.pid()?)?, Metrics::of_agent().await?);
    stage.settled().await?;
    let published = |metrics: &Metrics| metrics.sum("meshsync_published_total");
    let result = Throughput {
        events,
        seconds: elapsed.as_secs_f64(),
        cpu_seconds: (after.0.cpu - before.0.cpu).as_secs_f64(),
        stored: (published(&after.1) - published(&before.1)) as u64,
        rss_mib: after.0.rss as f64 / 1024.0 / 1024.0,
    };
    stage.end().await?;
    Ok(result)
}

/// How long an event takes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Events a second.
    pub rate: u64,
    /// Events that were seen.
    pub events: usize,
    /// From the moment that the API server has an event to the moment that a consumer of the stream has it, in
    /// milliseconds: median of all but those of the first seconds.
    pub p50_ms: f64,
    /// 99 of 100 of the same.
    pub p99_ms: f64,
    /// The slowest of the same.
    pub max_ms: f64,
    /// 99 of 100 in the first seconds. The broker loads every block of messages of which one is replaced: that takes
    /// long once after a pause.
    pub first_p99_ms: f64,
    /// CPU time of the agent for a second, in seconds.
    pub cpu: f64,
}

/// Sends `rate` events a second for `duration`.
///
/// # Errors
/// The first step that fails.
pub async fn latency(lab: &Lab, program: &Path, objects: usize, rate: u64, duration: Duration) -> Result<Latency> {
    let stage = Stage::set(lab, program, objects, false, false).await?;
    tokio::time::sleep(WARM).await;
    let total = rate * duration.as_secs();
    let seen = tokio::spawn(arrivals(stage.nats.client().await?, total));
    let cpu = process::usage(stage.pid()?)?.cpu;
    let began = Instant::now();
    let mut sent = Vec::new();
    paced(rate, duration, async |number| {
        sent.push(Instant::now());
        stage.world.change(kind(number), number as usize, false).await;
    })
    .await;
    let cpu = (process::usage(stage.pid()?)?.cpu - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await.context("events are missing")???;
    let took = |(change, at): &(u64, Instant)| {
        let sent = sent.get(usize::try_from(*change).ok()?.checked_sub(1)?)?;
        Some((*change, at.saturating_duration_since(*sent).as_secs_f64() * 1e3))
    };
    let all: Vec<(u64, f64)> = seen.iter().filter_map(took).collect();
    let (first, steady): (Vec<_>, Vec<_>) = all.iter().partition(|(change, _)| *change <= rate * FIRST.as_secs());
    ensure!(stage.world.terminated.load(Ordering::Relaxed) == 0, "a watch was not read fast enough");
    let result = Latency {
        rate,
        events: all.len(),
        p50_ms: quantile(&steady, 0.5),
        p99_ms: quantile(&steady, 0.99),
        max_ms: quantile(&steady, 1.0),
        first_p99_ms: quantile(&first, 0.99),
        cpu,
    };
    stage.end().await?;
    Ok(result)
}

/// The latency that the `share` of all does not exceed.
fn quantile(took: &[(u64, f64)], share: f64) -> f64 {
    let mut sorted: Vec<f64> = took.iter().map(|(_, took)| *took).collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or_default()
}

/// Numbers of changes with the time at which a consumer of the stream had them, up to the one with number `last`.
async fn arrivals(client: async_nats::Client, last: u64) -> Result<Vec<(u64, Instant)>> {
    let context = async_nats::jetstream::new(client.clone());
    let name = context.stream_by_subject(STATE).await?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: STATE.to_owned(),
        deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::New,
        ..push::OrderedConfig::default()
    };
    let stream = context.get_stream_no_info(name).await?;
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let marker = format!("\"key\":\"{CHANGE_LABEL}\",\"value\":\"");
    let mut seen = Vec::new();
    while let Some(message) = messages.next().await {
        let payload = message?.message.payload;
        let now = Instant::now();
        let Some(place) = memchr::memmem::find(&payload, marker.as_bytes()) else { continue };
        let digits = payload.get(place + marker.len()..).unwrap_or_default();
        let digits: String =
            digits.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
        let change = digits.parse().unwrap_or_default();
        seen.push((change, now));
        if change == last {
            break;
        }
    }
    Ok(seen)
}

/// What an outage of the broker does.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// Events a second.
    pub rate: u64,
    /// How long the broker was away, in seconds.
    pub seconds: f64,
    /// Events meanwhile.
    pub events: u64,
    /// Watches that were ended because they were not read.
    pub terminated: u64,
    /// Resident set before, in MiB.
    pub before_mib: f64,
    /// Largest resident set from the start to some time after the broker's return, in MiB.
    pub peak_mib: f64,
    /// Time from the broker's return until everything was stored, in seconds.
    pub recovery_seconds: f64,
}

/// Kills the broker for `duration` while `rate` events come a second.
///
/// # Errors
/// The first step that fails, or a difference at the end.
pub async fn outage(lab: &Lab, program: &Path, objects: usize, rate: u64, duration: Duration) -> Result<Outage> {
    let stage = Stage::set(lab, program, objects, false, false).await?;
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    let before = process::usage(stage.pid()?)?;
    stage.nats.kill().await?;
    let began = Instant::now();
    let mut events = 0;
    paced(rate, duration, async |number| {
        events = stage.world.change(kind(number), number as usize, false).await;
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    stage.nats.start().await?;
    let back = Instant::now();
    stage.settled().await?;
    let recovery = back.elapsed();
    // What is told again for those who come late is part of it.
    tokio::time::sleep(WARM).await;
    let after = process::usage(stage.pid()?)?;
    let result = Outage {
        rate,
        seconds,
        events,
        terminated: stage.world.terminated.load(Ordering::Relaxed),
        before_mib: mib(before.rss),
        peak_mib: mib(after.peak_rss),
        recovery_seconds: recovery.as_secs_f64(),
    };
    stage.end().await?;
    Ok(result)
}
