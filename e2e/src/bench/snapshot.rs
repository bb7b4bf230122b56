//! The scenario `snapshot`: from the start of a process to the last object at a subscriber.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::contender::{Contender, Counts, Meter, Run, median};
use super::load::load;
use super::{null_client, process};
use crate::await_condition;
use crate::cluster::{Cluster, Level};
use crate::equality::compare;
use crate::everything::{NOT_WATCHED, collections, objects};
use crate::lab::Lab;
use crate::nats::Nats;
use crate::progress::say;
use crate::stream::{Consumer, View};

/// Longest time for one snapshot.
const DEADLINE: Duration = Duration::from_secs(600);
/// How long after the last object the memory is read again.
const SETTLE: Duration = Duration::from_secs(30);
/// Rest between two runs: what one leaves to do to the API server and the broker must not burden the next.
const REST: Duration = Duration::from_secs(5);

/// What a benchmark found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Objects in the cluster that an agent is to hold.
    pub objects: usize,
    /// Bytes of all lists.
    pub list_bytes: u64,
    /// Runs of the null client.
    pub null: Vec<Run>,
    /// Runs of each contender.
    pub contenders: Vec<(&'static str, Vec<Run>)>,
}

/// Makes a cluster with `count` objects in `lab` and lets everybody run in turn, `runs` times.
///
/// # Errors
/// The first step that fails, or a snapshot of ours that is not the cluster's.
pub async fn run(lab: &Lab, contenders: &[Contender], count: usize, runs: usize) -> Result<Report> {
    // Without controllers nobody makes the ServiceAccounts that the plugin asks for.
    let cluster = lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
    let nats = lab.nats().jetstream().max_payload(8 * 1024 * 1024).start().await?;
    load(&cluster.client().await?, count).await?;
    let expected = objects(&cluster, &NOT_WATCHED).await?;
    let nothing_yet = |contender: &Contender| (contender.name, Vec::new());
    let mut report = Report {
        objects: expected.len(),
        contenders: contenders.iter().map(nothing_yet).collect(),
        ..Report::default()
    };
    for number in 1..=runs {
        say(format!("run {number} of {runs}"));
        let (null, bytes) = null_run(&cluster).await?;
        report.list_bytes = bytes;
        report.null.push(null);
        for (contender, (_, measured)) in contenders.iter().zip(&mut report.contenders) {
            tokio::time::sleep(REST).await;
            let run = contender_run(lab, &cluster, &nats, contender, &expected, count);
            let run = run.await.with_context(|| format!("run of {}", contender.name))?;
            say(format!(
                "{}: {:.2} s, {:.2} CPU s, {:.0} MiB",
                contender.name, run.seconds, run.cpu_seconds, run.peak_mib
            ));
            measured.push(run);
        }
    }
    Ok(report)
}

async fn null_run(cluster: &Cluster) -> Result<(Run, u64)> {
    let client = cluster.client().await?;
    let paths = collections(cluster, &NOT_WATCHED).await?;
    let before = process::usage(std::process::id())?;
    let run = null_client::run(&client, paths).await?;
    let after = process::usage(std::process::id())?;
    let cpu_seconds = (after.cpu - before.cpu).as_secs_f64();
    let run_of = Run { seconds: run.elapsed.as_secs_f64(), cpu_seconds, requests: run.requests, ..Run::default() };
    Ok((run_of, run.bytes))
}

async fn contender_run(
    lab: &Lab,
    cluster: &Cluster,
    nats: &Nats,
    contender: &Contender,
    expected: &[Value],
    count: usize,
) -> Result<Run> {
    nats.drop_streams().await?;
    let consumer = Consumer::subscribe(nats.client().await?, None).await?;
    let before = Counts::now(cluster).await?;
    let daemon = contender.daemon(lab, cluster, nats);
    let mut run = Run::default();
    let meter = Meter::start(&daemon)?;
    let done = |view: &View| match contender.ours {
        true => (view.len() >= expected.len()).then_some(view.last_new).flatten(),
        // It watches fewer types.
        false => (view.keys().filter(|key| key.namespace.starts_with("bench-")).count() >= count)
            .then_some(view.last_new)
            .flatten(),
    };
    let last = await_condition("the last object arrives", DEADLINE, async || {
        daemon.ensure_running()?;
        Ok(done(&consumer.view()))
    });
    let last: Instant = last.await.with_context(|| format!("{} objects arrived", consumer.view().len()))?;
    meter.done(last, &mut run)?;
    Counts::now(cluster).await.map(|now| before.until(&now, &mut run))?;
    run.stored_bytes = nats.stored_bytes();
    meter.settle(SETTLE, &mut run).await?;
    if contender.ours {
        let view: Vec<Value> = consumer.view().resources().map(|(_, resource)| resource).collect();
        let differences = compare(expected, &view);
        ensure!(differences.is_empty(), "the snapshot is not the cluster: {differences}");
    }
    daemon.stop(Duration::from_secs(30)).await?;
    Ok(run)
}

impl Report {
    /// One table for people.
    ///
    /// # Errors
    /// When there was no run.
    pub fn table(&self) -> Result<String> {
        let null = median(&self.null).context("the null client did not run")?;
        let mut lines = vec![
            format!(
                "{} objects, {:.0} MB of lists; medians of {}, and from the smallest to the largest",
                self.objects,
                self.list_bytes as f64 / 1e6,
                self.null.len()
            ),
            format!(
                "{:<12} {:>7} {:>15} {:>7} {:>7} {:>9} {:>12} {:>10} {:>10} {:>9} {:>10}",
                "",
                "seconds",
                "",
                "x null",
                "CPU s",
                "peak MiB",
                "settled MiB",
                "broker MB",
                "stored MB",
                "requests",
                "terminated"
            ),
        ];
        let all = [("null client", &self.null)];
        for (name, runs) in all.into_iter().chain(self.contenders.iter().map(|(name, runs)| (*name, runs))) {
            let run = median(runs).with_context(|| format!("{name} did not run"))?;
            let seconds =
                |pick: fn(f64, f64) -> f64| runs.iter().map(|run| run.seconds).reduce(pick).unwrap_or_default();
            lines.push(format!(
                "{name:<12} {:>7.2} {:>15} {:>7.2} {:>7.2} {:>9.1} {:>12.1} {:>10.1} {:>10.1} {:>9} {:>10}",
                run.seconds,
                format!("{:.2}-{:.2}", seconds(f64::min), seconds(f64::max)),
                run.seconds / null.seconds,
                run.cpu_seconds,
                run.peak_mib,
                run.settled_mib,
                run.broker_bytes as f64 / 1e6,
                run.stored_bytes as f64 / 1e6,
                run.requests,
                run.terminated,
            ));
        }
        lines.extend(self.ratios());
        Ok(lines.join("\n"))
    }

    /// The first contender beside each of the others.
    fn ratios(&self) -> Vec<String> {
        let Some(((first, own), others)) = self.contenders.split_first() else { return Vec::new() };
        let Some(own) = median(own) else { return Vec::new() };
        let ratio = |(name, runs): &(&str, Vec<Run>)| {
            let other = median(runs)?;
            let times = |figure: fn(&Run) -> f64| figure(&other) / figure(&own).max(1e-9);
            Some(format!(
                "{name} / {first}: time {:.1}, CPU {:.1}, peak memory {:.1}, settled memory {:.1}, broker bytes {:.1}",
                times(|run| run.seconds),
                times(|run| run.cpu_seconds),
                times(|run| run.peak_mib),
                times(|run| run.settled_mib),
                times(|run| run.broker_bytes as f64),
            ))
        };
        others.iter().filter_map(ratio).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let runs = |seconds: [f64; 3]| {
            seconds.map(|seconds| Run { seconds, cpu_seconds: seconds / 2.0, ..Run::default() }).to_vec()
        };
        let report = Report {
            objects: 5,
            list_bytes: 2_000_000,
            null: runs([1.0, 9.0, 2.0]),
            contenders: vec![("agent", runs([4.0, 3.0, 8.0])), ("peer", runs([40.0, 30.0, 80.0]))],
        };
        let table = report.table().unwrap();
        assert!(table.starts_with("5 objects, 2 MB of lists; medians of 3"), "{table}");
        assert!(table.contains("agent           4.00       3.00-8.00    2.00"), "{table}");
        assert!(table.contains("peer / agent: time 10.0, CPU 10.0"), "{table}");
    }
}
