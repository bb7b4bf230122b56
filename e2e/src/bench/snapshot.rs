//! The scenario `snapshot`: from the start of a process to the last object at a subscriber.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::contender::{Contender, Counts, DEADLINE, Meter, Run, STOPPING, median, restart};
use super::load::load;
use super::null_client::{self, NullRun};
use crate::await_condition;
use crate::cluster::{Cluster, Level};
use crate::equality::fingerprint::{self, Fingerprints};
use crate::everything::{NOT_WATCHED, collections, fingerprints};
use crate::lab::Lab;
use crate::nats::Nats;
use crate::progress::say;
use crate::stream::{Recorder, View};

/// How long after the last object the memory is read again.
const SETTLE: Duration = Duration::from_secs(30);
/// Silence after which what arrived is looked at: looking takes CPU time that the measured would miss.
const QUIET: Duration = Duration::from_secs(1);
/// Rest before each run: what one leaves to do to the API server and the broker must not burden the next.
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
    let cluster = data_cluster(lab, count).await?;
    let nats = lab.nats().jetstream().max_payload(8 * 1024 * 1024).start().await?;
    let expected = fingerprints(&cluster, &NOT_WATCHED).await?;
    let ground = Ground { lab, cluster: &cluster, nats: &nats, expected, count, settle: SETTLE };
    let nothing_yet = |contender: &Contender| (contender.name, Vec::new());
    let mut report = Report {
        objects: ground.expected.len(),
        contenders: contenders.iter().map(nothing_yet).collect(),
        ..Report::default()
    };
    for number in 1..=runs {
        say(format!("run {number} of {runs}"));
        rest(&cluster).await?;
        let (null, bytes) = null_run(&cluster, &nats).await?;
        report.list_bytes = bytes;
        report.null.push(null);
        for (contender, (_, measured)) in contenders.iter().zip(&mut report.contenders) {
            rest(&cluster).await?;
            let run = ground.run(contender).await.with_context(|| format!("run of {}", contender.name))?;
            measured.push(run);
        }
    }
    Ok(report)
}

/// Starts an API server that holds `count` objects.
///
/// # Errors
/// The first step that fails.
pub async fn data_cluster(lab: &Lab, count: usize) -> Result<Cluster> {
    // Without controllers nobody makes the ServiceAccounts that the plugin asks for.
    let cluster = lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
    load(&cluster.client().await?, count).await?;
    Ok(cluster)
}

/// Lets the API server collect its garbage, and rests. To collect takes it as much CPU time as a run, and would fall into
/// one run or another, whoever's.
async fn rest(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(["get", "--raw", "/debug/pprof/heap?gc=1&debug=1"]).await.context("cannot collect garbage")?;
    tokio::time::sleep(REST).await;
    Ok(())
}

async fn null_run(cluster: &Cluster, nats: &Nats) -> Result<(Run, u64)> {
    let client = cluster.client().await?;
    let paths = collections(cluster, &NOT_WATCHED).await?;
    let before = Counts::first(cluster, nats).await?;
    let NullRun { elapsed, bytes, requests } = null_client::run(&client, paths).await?;
    let mut run = Run { seconds: elapsed.as_secs_f64(), ..Run::default() };
    before.until(&Counts::now(cluster, nats).await?, &mut run);
    run.requests = requests;
    // Here it is the benchmark itself that is measured.
    run.cpu_seconds = std::mem::take(&mut run.reader_cpu_seconds);
    Ok((run, bytes))
}

/// Where contenders run: a cluster, and a broker.
pub(super) struct Ground<'a> {
    pub(super) lab: &'a Lab,
    pub(super) cluster: &'a Cluster,
    pub(super) nats: &'a Nats,
    /// What the cluster holds.
    pub(super) expected: Fingerprints,
    /// How many of these objects the data set has.
    pub(super) count: usize,
    /// How long after the last object the memory is read again.
    pub(super) settle: Duration,
}

impl Ground<'_> {
    /// Lets a contender publish everything to a broker that knows nothing; ours begins once more from what is stored.
    pub(super) async fn run(&self, contender: &Contender) -> Result<Run> {
        let Self { cluster, nats, expected, .. } = self;
        nats.drop_streams().await?;
        let recorder = Recorder::subscribe(nats.client().await?).await?;
        let before = Counts::first(cluster, nats).await?;
        let daemon = contender.daemon(self.lab, cluster, nats)?;
        let mut run = Run::default();
        let mut meter = Meter::start(&daemon)?;
        // The Go original watches fewer types.
        let wanted = if contender.ours { expected.len() } else { self.count };
        let last: Instant = await_condition("the last object arrives", DEADLINE, async || {
            daemon.ensure_running()?;
            meter.sample()?;
            let pause = recorder.len() >= wanted && recorder.quiet_for().is_some_and(|quiet| quiet > QUIET);
            Ok(pause.then(|| done(contender, &recorder.view(), wanted)).flatten())
        })
        .await
        .with_context(|| format!("{} of {wanted} messages arrived", recorder.len()))?;
        let first = recorder.first().context("no message")?;
        meter.done(first, last, &mut run)?;
        Counts::now(cluster, nats).await.map(|now| before.until(&now, &mut run))?;
        run.stored_bytes = nats.stored_bytes();
        meter.settle(self.settle, &mut run).await?;
        if contender.ours {
            let view = recorder.view();
            let view = view.resources().map(|(_, resource)| fingerprint::of_meshery(&resource)).collect();
            let differences = fingerprint::compare(expected, view);
            ensure!(differences.is_empty(), "the snapshot is not the cluster: {differences}");
            restart(&daemon, &mut run).await?;
        }
        daemon.stop(STOPPING).await?;
        say(format!("{}: {:.2} s, {:.2} CPU s, {:.0} MiB", contender.name, run.seconds, run.cpu_seconds, run.peak_mib));
        Ok(run)
    }
}

/// When the last object came, if all did.
fn done(contender: &Contender, view: &View, wanted: usize) -> Option<Instant> {
    let counts = |namespace: &str| contender.ours || namespace.starts_with("bench-");
    let arrived = view.keys().filter(|key| counts(&key.namespace)).count();
    (arrived >= wanted).then_some(view.last_new).flatten()
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
                "{:<12} {:>7} {:>15} {:>7} {:>7} {:>7} {:>9} {:>12} {:>10} {:>10} {:>9} {:>10} {:>12} {:>12} {:>12} {:>15}",
                "",
                "seconds",
                "",
                "x null",
                "first",
                "CPU s",
                "peak MiB",
                "settled MiB",
                "broker MB",
                "stored MB",
                "requests",
                "terminated",
                "server CPU s",
                "broker CPU s",
                "reader CPU s",
                "server peak MiB"
            ),
        ];
        let all = [("null client", &self.null)];
        for (name, runs) in all.into_iter().chain(self.contenders.iter().map(|(name, runs)| (*name, runs))) {
            lines.push(row(name, runs, null.seconds)?);
        }
        lines.extend(self.contenders.iter().filter_map(|(name, runs)| self.restarted(name, runs)));
        lines.extend(self.ratios());
        Ok(lines.join("\n"))
    }

    /// What a restart took, of those that were restarted.
    fn restarted(&self, name: &str, runs: &[Run]) -> Option<String> {
        let run = median(runs).filter(|run| run.restart_seconds > 0.0)?;
        Some(format!(
            "{name} restarted: ready after {:.2} s, {:.1} MiB, {:.2} MB from the API server ({:.2} % of the lists)",
            run.restart_seconds,
            run.restart_peak_mib,
            run.restart_bytes as f64 / 1e6,
            100.0 * run.restart_bytes as f64 / self.list_bytes.max(1) as f64,
        ))
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

/// The row of one contender: the median of its runs, and its time as a multiple of `null_seconds`.
fn row(name: &str, runs: &[Run], null_seconds: f64) -> Result<String> {
    let run = median(runs).with_context(|| format!("{name} did not run"))?;
    let seconds = |pick: fn(f64, f64) -> f64| runs.iter().map(|run| run.seconds).reduce(pick).unwrap_or_default();
    Ok(format!(
        "{name:<12} {:>7.2} {:>15} {:>7.2} {:>7.2} {:>7.2} {:>9.1} {:>12.1} {:>10.1} {:>10.1} {:>9} {:>10} {:>12.2} \
                {:>12.2} {:>12.2} {:>15.1}",
        run.seconds,
        format!("{:.2}-{:.2}", seconds(f64::min), seconds(f64::max)),
        run.seconds / null_seconds,
        run.first_seconds,
        run.cpu_seconds,
        run.peak_mib,
        run.settled_mib,
        run.broker_bytes as f64 / 1e6,
        run.stored_bytes as f64 / 1e6,
        run.requests,
        run.terminated,
        run.server_cpu_seconds,
        run.broker_cpu_seconds,
        run.reader_cpu_seconds,
        run.server_peak_mib,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let runs = |seconds: [f64; 3]| {
            seconds
                .map(|seconds| Run { seconds, first_seconds: 0.1, cpu_seconds: seconds / 2.0, ..Run::default() })
                .to_vec()
        };
        let report = Report {
            objects: 5,
            list_bytes: 2_000_000,
            null: runs([1.0, 9.0, 2.0]),
            contenders: vec![("agent", runs([4.0, 3.0, 8.0])), ("peer", runs([40.0, 30.0, 80.0]))],
        };
        let table = report.table().unwrap();
        assert!(table.starts_with("5 objects, 2 MB of lists; medians of 3"), "{table}");
        assert!(table.contains("agent           4.00       3.00-8.00    2.00    0.10    2.00"), "{table}");
        assert!(table.contains("peer / agent: time 10.0, CPU 10.0"), "{table}");
    }
}
