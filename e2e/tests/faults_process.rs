//! Agents that are killed, stopped, starved or doubled: the invariants hold.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use meshsync_e2e::bench::load;
use meshsync_e2e::faults::{Clock, Link, MemoryLimit, Trial};
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::{await_condition, shared};

/// Longest time that an agent may take to stop; a pod gets 30 s by default.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn agent_killed_during_its_snapshot_loses_nothing() -> Result<()> {
    shared::run("process-snapshot", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        trial.agent.kill().await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.nats.drop_streams().await?;
        // The copies for core subscribers are in flight and are lost with the agent.
        trial.proxy.set(Link::Slow(400_000));
        trial.agent.start()?;
        trial.tells(100).await?;
        trial.agent.kill().await?;
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(10).await?;
        trial.proxy.set(Link::Open);
        // The first objects, half of them, almost all: each snapshot resumes where the killed agent ended.
        for told in [5, 200, 400, 400, 200] {
            trial.agent.start()?;
            trial.tells(told).await?;
            trial.agent.kill().await?;
        }
        trial.agent.start()?;
        trial.end().await
    })
}

#[test]
fn agent_killed_during_batches_and_before_checkpoints_loses_nothing() -> Result<()> {
    shared::run("process-batch", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for told in [1, 2, 60, 3, 150, 30, 300] {
            trial.agent.kill().await?;
            trial.churn.go_on(50).await?;
            trial.agent.start()?;
            trial.tells(told).await?;
        }
        // While acknowledgements are delayed by a slow link.
        for _ in 0..3 {
            trial.proxy.set(Link::Slow(50_000));
            trial.tells(20).await?;
            trial.agent.kill().await?;
            trial.proxy.set(Link::Open);
            trial.agent.start()?;
            trial.tells(60).await?;
        }
        trial.end().await
    })
}

#[test]
fn agent_killed_with_messages_in_flight_loses_nothing() -> Result<()> {
    shared::run("process-words", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        kill_with_messages_in_flight(&trial, "word", 4).await?;
        trial.end().await
    })
}

#[test]
fn subscriber_to_everything_does_not_delay_the_first_event() -> Result<()> {
    shared::run("process-overheard", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let overhears = trial.nats.client().await?;
        let everything = overhears.subscribe(">").await?;
        overhears.flush().await?;
        let _listens = tokio::spawn(everything.for_each(|_| std::future::ready(())));
        kill_with_messages_in_flight(&trial, "overheard", 2).await?;
        let log = trial.agent.log();
        ensure!(!log.contains("is still open"), "a subscriber to `>` was taken for another agent");

        trial.agent.stop(STOPS_WITHIN).await?;
        let heard = trial.heard();
        let began = Instant::now();
        trial.agent.start()?;
        await_condition("the agent publishes", Duration::from_secs(20), async || {
            Ok((trial.heard() > heard).then_some(()))
        })
        .await?;
        ensure!(began.elapsed() < Duration::from_secs(3), "the first event took {:?}", began.elapsed());
        trial.end().await
    })
}

/// Kills the agent several times while its last messages are on a slow link.
async fn kill_with_messages_in_flight(trial: &Trial, name: &str, rounds: usize) -> Result<()> {
    for round in 0..rounds {
        // Bytes in flight arrive almost a second after the link recovers; the next agent starts before that.
        trial.proxy.set(Link::Slow(5_000));
        // No later change hides the fate of these messages.
        let [stays, goes] = ["stays", "goes"].map(|what| format!("{name}-{what}-{round}"));
        for name in [&stays, &goes] {
            trial.cluster.kubectl(["create", "configmap", "-n", "default", name]).await?;
        }
        trial.tells(10).await?;
        trial.agent.kill().await?;
        trial.cluster.kubectl(["delete", "configmap", "-n", "default", &goes]).await?;
        trial.proxy.set(Link::Open);
        trial.agent.start()?;
        trial.tells(60).await?;
    }
    Ok(())
}

#[test]
fn agent_stopped_under_load_ends_in_order_and_loses_nothing() -> Result<()> {
    shared::run("process-stop", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for _ in 0..3 {
            let status = trial.agent.stop(STOPS_WITHIN).await?;
            ensure!(status.success(), "the agent ended with {status}");
            trial.churn.go_on(50).await?;
            trial.agent.start()?;
            trial.live().await.context("after a restart")?;
            let lists = Metrics::of_agent().await?.sum("meshsync_lists_total");
            ensure!(lists == 0.0, "{lists} lists were read although there are checkpoints");
        }
        // An unreachable broker does not keep the agent from stopping.
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(50).await?;
        let status = trial.agent.stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "without a broker the agent ended with {status}");
        trial.proxy.set(Link::Open);
        trial.agent.start()?;
        trial.end().await
    })
}

#[test]
fn memory_of_the_agent_does_not_grow_with_its_outbox() -> Result<()> {
    shared::run("process-memory", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.agent.stop(STOPS_WITHIN).await?;
        // An agent that resumes from a stream has no bodies; the measured agent has all of them.
        trial.nats.drop_streams().await?;
        trial.agent.start()?;
        trial.tells(1_000).await?;
        trial.live().await?;
        // An outage, and everything that is published again after it, needs hardly more memory than a start.
        let limit = trial.agent.peak_resident_bytes()? + 16 * 1024 * 1024;
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(1_500).await?;
        trial.proxy.set(Link::Open);
        trial.nats.drop_streams().await?;
        trial.live().await.context("after an outage")?;
        let peak = trial.agent.peak_resident_bytes()?;
        ensure!(peak <= limit, "{peak} bytes were resident; at most {limit} may be");
        trial.end().await
    })
}

#[test]
fn agent_survives_an_outage_with_hardly_more_memory_than_it_needs() -> Result<()> {
    shared::run("process-limit", async |lab, cluster| {
        let limit = MemoryLimit::new(lab)?;
        let trial = Trial::begin_with(lab, cluster, lab.nats().jetstream(), |agent| limit.of(agent)).await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.live().await?;
        ensure!(limit.holds(trial.agent.pid())?, "the agent is not in the group");
        limit.set(trial.agent.resident_bytes()? + 8 * 1024 * 1024)?;
        // The outbox during an outage, everything that is published again after it, and a restarted list.
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(1_500).await?;
        trial.proxy.set(Link::Open);
        trial.nats.drop_streams().await?;
        trial.live().await.context("after an outage")?;
        let server = trial.cluster.component("kube-apiserver")?;
        server.kill().await?;
        server.start()?;
        trial.cluster.await_apiserver().await?;
        // If the kernel had killed the agent, nothing would have restarted it.
        trial.agent.ensure_running()?;
        trial.end().await
    })
}

#[test]
fn jumping_clock_of_the_agent_loses_nothing() -> Result<()> {
    shared::run("process-clock", async |lab, cluster| {
        let clock = Clock::new(lab.dir())?;
        let trial = Trial::begin_with(lab, cluster, lab.nats().jetstream(), |agent| clock.of(agent)).await?;
        for hours in [1, -2, 26, 0] {
            clock.jump(hours * 3_600)?;
            let began = hour_in(hours);
            trial.churn.go_on(100).await?;
            trial.live().await.with_context(|| format!("with a clock that is {hours} h wrong"))?;
            let failures = Metrics::of_agent().await?.sum("meshsync_watch_failures_total");
            ensure!(failures == 0.0, "{failures} watches were given up because of the clock");
            // Connecting, restarting and timing out work, too.
            trial.proxy.set(Link::Cut);
            trial.churn.go_on(50).await?;
            trial.proxy.set(Link::Open);
            trial.live().await.with_context(|| format!("after a cut, with a clock that is {hours} h wrong"))?;
            let log = trial.agent.log();
            let jumped = [began, hour_in(hours)].iter().any(|hour| log.contains(hour));
            ensure!(jumped, "the clock did not jump: nothing was logged by one that is {hours} h wrong");
        }
        trial.end().await
    })
}

/// The present time, to the hour, of a clock that is this many hours wrong, in the format of logs.
fn hour_in(hours: i64) -> String {
    (Timestamp::now() + SignedDuration::from_hours(hours)).strftime("%Y-%m-%dT%H").to_string()
}
