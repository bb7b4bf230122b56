//! The benchmarks and the soak, small: they work, and what they measure is measured.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshsync_e2e::bench::contender::Contender;
use meshsync_e2e::bench::large::{self, Size};
use meshsync_e2e::bench::{replay, snapshot};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::faults::soak::{Plan, soak};
use meshsync_e2e::lab;

#[test]
fn a_snapshot_and_a_restart_are_measured() -> Result<()> {
    lab::run("measure-snapshot", async |lab| {
        let agent = binary("meshsync-agent")?;
        let contenders = [Contender::agent(&agent), Contender::hashing_agent(&agent)];
        let report = snapshot::run(lab, &contenders, 500, 1).await?;
        ensure!(report.objects > 500, "{} objects", report.objects);
        for (name, runs) in &report.contenders {
            ensure!(runs.len() == 1, "{name}: {} runs", runs.len());
            for run in runs {
                let used = run.seconds > 0.0 && run.cpu_seconds > 0.0 && run.peak_mib > 1.0;
                ensure!(used && run.requests > 50, "{name} used nothing: {run:?}");
                ensure!(run.broker_bytes > 500 * 1_000, "{name} sent nothing: {run:?}");
                ensure!(run.restart_seconds > 0.0, "{name} was not started again: {run:?}");
                let most = report.list_bytes / 100;
                ensure!(run.restart_bytes <= most, "{name} read {} bytes to begin again", run.restart_bytes);
            }
        }
        Ok(())
    })
}

#[test]
fn large_custom_resources_take_as_much_memory_as_config_maps() -> Result<()> {
    lab::run("measure-large", async |lab| {
        let agent = binary("meshsync-agent")?;
        let contenders = [Contender::agent(&agent), Contender::hashing_agent(&agent)];
        let report = large::run(lab, &contenders, Size { objects: 100, bytes: 600_000 }, 1).await?;
        for measured in &report.contenders {
            ensure!(measured.config_maps.peak_mib > 1.0, "{measured:?}");
            ensure!(measured.ratio < 1.3, "{}", report.table());
        }
        Ok(())
    })
}

#[test]
fn replayed_events_are_measured() -> Result<()> {
    lab::run("measure-replay", async |lab| {
        let agent = binary("meshsync-agent")?;
        let latency = replay::latency(lab, &agent, 500, 200, Duration::from_secs(8)).await?;
        ensure!(latency.events > 1_000 && latency.p50_ms > 0.0 && latency.p99_ms >= latency.p50_ms, "{latency:?}");
        Ok(())
    })
}

#[test]
fn very_many_types_get_ready_on_small_file_limits_and_probes_answer() -> Result<()> {
    lab::run("measure-types", async |lab| {
        let types = replay::types(lab, &binary("meshsync-agent")?, 1_500, 256).await?;
        // A quick answer takes a millisecond; a machine that is busy with other tests is given more.
        ensure!(types.probes > 200 && types.slowest_ms < 1_000.0, "{types:?}");
        Ok(())
    })
}

#[test]
fn a_soak_checks_what_it_damages() -> Result<()> {
    lab::run("measure-soak", async |lab| {
        let plan =
            Plan { duration: Duration::from_secs(20), outage: Some(Duration::from_secs(5)), frozen: None, seed: 3 };
        let outcome = soak(lab, plan).await?;
        ensure!(outcome.faults > 0 && outcome.outage_rss_mib > 1.0 && !outcome.judged, "{outcome:?}");
        Ok(())
    })
}
