//! However an agent or the operator ends, and whoever else runs by mistake: the invariants hold.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use meshsync_e2e::bench::load;
use meshsync_e2e::faults::{Clock, Link, MemoryLimit, Trial};
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::{await_condition, shared};

/// What an agent that is asked to stop may take: a pod gets 30 s by default.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn it_is_killed_in_the_middle_of_its_snapshot() -> Result<()> {
    shared::run("process-snapshot", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        trial.agent.kill().await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.nats.drop_streams().await?;
        // Copies for core subscribers are sent, but still on the way: they go down with it.
        trial.proxy.set(Link::Slow(400_000));
        trial.agent.start()?;
        trial.tells(100).await?;
        trial.agent.kill().await?;
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(10).await?;
        trial.proxy.set(Link::Open);
        // Its first objects, half of them, almost all: each of these snapshots begins where the killed one ended.
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
fn it_is_killed_in_the_middle_of_batches_and_before_checkpoints() -> Result<()> {
    shared::run("process-batch", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for told in [1, 2, 60, 3, 150, 30, 300] {
            trial.agent.kill().await?;
            trial.churn.go_on(50).await?;
            trial.agent.start()?;
            trial.tells(told).await?;
        }
        // While acknowledgements are on a slow way to it.
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
fn it_is_killed_while_its_last_words_are_on_a_slow_way() -> Result<()> {
    shared::run("process-words", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for round in 0..4 {
            // What is on the way waits there for almost a second after the link is good again: the next one begins before.
            trial.proxy.set(Link::Slow(5_000));
            // Nothing that happens later covers up what becomes of these.
            let [stays, goes] = ["stays", "goes"].map(|what| format!("{what}-{round}"));
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
        trial.end().await
    })
}

#[test]
fn it_is_asked_to_stop_under_load() -> Result<()> {
    shared::run("process-stop", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        for _ in 0..3 {
            let status = trial.agent.stop(STOPS_WITHIN).await?;
            ensure!(status.success(), "it ended with {status}");
            trial.churn.go_on(50).await?;
            trial.agent.start()?;
            trial.live().await.context("after a restart")?;
            let lists = Metrics::of_agent().await?.sum("meshsync_lists_total");
            ensure!(lists == 0.0, "{lists} lists were read although there are checkpoints");
        }
        // A broker that it cannot reach does not keep it from ending.
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(50).await?;
        let status = trial.agent.stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "without a broker it ended with {status}");
        trial.proxy.set(Link::Open);
        trial.agent.start()?;
        trial.end().await
    })
}

#[test]
fn its_memory_does_not_grow_with_what_waits() -> Result<()> {
    shared::run("process-memory", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.agent.stop(STOPS_WITHIN).await?;
        // One that goes on from a stream holds no bodies: the one to measure has them all.
        trial.nats.drop_streams().await?;
        trial.agent.start()?;
        trial.tells(1_000).await?;
        trial.live().await?;
        // An outage and all that is to be told again after it fit into what a start needs, and a little.
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
fn its_memory_is_limited_to_just_above_what_it_needs() -> Result<()> {
    shared::run("process-limit", async |lab, cluster| {
        let limit = MemoryLimit::new(lab)?;
        let trial = Trial::begin_with(lab, cluster, lab.nats().jetstream(), |agent| limit.of(agent)).await?;
        load::load(&trial.cluster.client().await?, 1_000).await?;
        trial.live().await?;
        ensure!(limit.holds(trial.agent.pid())?, "the agent is not in the group");
        limit.set(trial.agent.resident_bytes()? + 8 * 1024 * 1024)?;
        // What waits during an outage, all that is to be told again after it, and a list that begins anew.
        trial.proxy.set(Link::Cut);
        trial.churn.go_on(1_500).await?;
        trial.proxy.set(Link::Open);
        trial.nats.drop_streams().await?;
        trial.live().await.context("after an outage")?;
        let server = trial.cluster.component("kube-apiserver")?;
        server.kill().await?;
        server.start()?;
        trial.cluster.await_apiserver().await?;
        // Had the kernel ended it, it would not have come back by itself.
        trial.agent.ensure_running()?;
        trial.end().await
    })
}

#[test]
fn its_clock_jumps() -> Result<()> {
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
            // What has to connect, begin again and give up waiting does so, too.
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

/// What a clock that is so many hours wrong shows now, to the hour, as logs have it.
fn hour_in(hours: i64) -> String {
    (Timestamp::now() + SignedDuration::from_hours(hours)).strftime("%Y-%m-%dT%H").to_string()
}

#[test]
fn a_second_one_runs_by_mistake() -> Result<()> {
    shared::run("process-two", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
        let second = lab
            .agent_named("second-agent")?
            .arg("run")
            .arg("--kubeconfig")
            .arg(trial.cluster.kubeconfig())
            .args(["--probe-address", "127.0.0.1:11002", "--debug-address", "127.0.0.1:11003"])
            .env("BROKER_URL", trial.nats.url());
        second.start()?;
        await_condition("the second agent works, too", Duration::from_secs(60), async || {
            Ok(second.log().contains("stream read").then_some(()))
        })
        .await?;
        trial.churn.go_on(1_000).await?;
        // The one that stays may be the slower one.
        trial.proxy.set(Link::Slow(100_000));
        trial.churn.go_on(500).await?;
        trial.proxy.set(Link::Open);
        second.ensure_running()?;
        second.kill().await?;
        trial.end().await
    })
}
