//! What is measured, and what it is seen to use.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use super::process;
use crate::await_condition;
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::metrics::{AGENT_PROBES, Metrics, get};
use crate::nats::Nats;
use crate::process::Daemon;

/// Where the broker tells what it was sent.
const BROKER_MONITOR: &str = "127.0.0.1:8222";

/// How long an agent may take to stop.
pub(super) const STOPPING: Duration = Duration::from_secs(30);
/// Longest time for one step.
pub(super) const DEADLINE: Duration = Duration::from_secs(600);

/// A program that publishes a cluster.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Name in tables.
    pub name: &'static str,
    /// The executable.
    pub program: PathBuf,
    /// Whether it is ours: then everything it publishes is compared with the cluster.
    pub ours: bool,
    /// Further arguments.
    pub arguments: &'static [&'static str],
    /// Whether it keeps hashes only, which is a matter of its configuration.
    pub hash_only: bool,
}

impl Contender {
    /// Our agent.
    #[must_use]
    pub fn agent(program: &Path) -> Self {
        let arguments = &["run", "--log-level=warn"];
        Self { name: "agent", program: program.to_owned(), ours: true, arguments, hash_only: false }
    }

    /// Our agent, listing by watches that begin with everything there is.
    #[must_use]
    pub fn streaming_agent(program: &Path) -> Self {
        let arguments = &["run", "--log-level=warn", "--lists=stream"];
        Self { name: "agent-stream", arguments, ..Self::agent(program) }
    }

    /// Our agent, keeping hashes only.
    #[must_use]
    pub fn hashing_agent(program: &Path) -> Self {
        Self { name: "agent-hash", hash_only: true, ..Self::agent(program) }
    }

    /// Another build of our agent.
    #[must_use]
    pub fn other_agent(program: &Path) -> Self {
        Self { name: "other", ..Self::agent(program) }
    }

    /// Another build of our agent, keeping hashes only.
    #[must_use]
    pub fn other_hashing_agent(program: &Path) -> Self {
        Self { name: "other-hash", ..Self::hashing_agent(program) }
    }

    /// The Go original.
    #[must_use]
    pub fn peer(program: &Path) -> Self {
        Self { name: "peer", program: program.to_owned(), ours: false, arguments: &[], hash_only: false }
    }

    pub(super) fn daemon(&self, lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
        let daemon = lab
            .daemon(&format!("bench-{}", self.name), &self.program)
            .args(self.arguments)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("BROKER_URL", nats.url());
        Ok(if self.hash_only { daemon.arg("--config").arg(agent_config(lab.dir(), true)?) } else { daemon })
    }
}

/// Writes a configuration of our agent into `dir`.
pub(super) fn agent_config(dir: &Path, hash_only: bool) -> Result<PathBuf> {
    let mode = if hash_only { "hashOnly" } else { "full" };
    let file = dir.join(format!("agent-{mode}.json"));
    std::fs::write(&file, json!({"revision": "", "snapshot": {"mode": mode}}).to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// What one run of one contender used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// From the start to the last object (for the null client: the last byte), in seconds.
    pub seconds: f64,
    /// From the start to the first object at a subscriber, in seconds.
    pub first_seconds: f64,
    /// CPU time for that, in seconds.
    pub cpu_seconds: f64,
    /// Largest resident set, in MiB; 0 for the null client, which keeps nothing.
    pub peak_mib: f64,
    /// Resident set some time later, in MiB.
    pub settled_mib: f64,
    /// Bytes that clients sent to the broker.
    pub broker_bytes: u64,
    /// Bytes that the broker keeps on disk.
    pub stored_bytes: u64,
    /// Requests to the API server.
    pub requests: u64,
    /// Watches that the API server ended because they were not read.
    pub terminated: u64,
    /// CPU time of the API server, in seconds.
    pub server_cpu_seconds: f64,
    /// CPU time of the broker, in seconds.
    pub broker_cpu_seconds: f64,
    /// CPU time of the benchmark itself, which reads what is published, in seconds.
    pub reader_cpu_seconds: f64,
    /// Largest resident set of the API server, in MiB.
    pub server_peak_mib: f64,
    /// Of ours, started once more: time until it is ready, every watch open again, in seconds.
    pub restart_seconds: f64,
    /// Bytes of lists and watches that it read for that.
    pub restart_bytes: u64,
    /// Largest resident set of the restarted agent, in MiB.
    pub restart_peak_mib: f64,
}

/// What other processes counted before a run.
pub(super) struct Counts {
    broker_bytes: u64,
    requests: f64,
    terminated: f64,
    used: Used,
}

/// What the others used so far.
struct Used {
    server: process::Usage,
    broker: process::Usage,
    reader: process::Usage,
}

impl Used {
    fn now(cluster: &Cluster, nats: &Nats) -> Result<Self> {
        Ok(Self {
            server: process::usage(server_pid(cluster)?)?,
            broker: process::usage(nats.pid().context("the broker has ended")?)?,
            reader: process::usage(std::process::id())?,
        })
    }
}

fn server_pid(cluster: &Cluster) -> Result<u32> {
    cluster.component("kube-apiserver")?.pid().context("the API server has ended")
}

impl Counts {
    pub(super) async fn now(cluster: &Cluster, nats: &Nats) -> Result<Self> {
        // Before the questions, which are work, too.
        let used = Used::now(cluster, nats)?;
        let broker: serde_json::Value = serde_json::from_str(&get(BROKER_MONITOR, "/varz").await?)?;
        let server = Metrics(cluster.kubectl(["get", "--raw", "/metrics"]).await?);
        Ok(Self {
            broker_bytes: broker.get("in_bytes").and_then(serde_json::Value::as_u64).context("no in_bytes")?,
            requests: server.sum("apiserver_request_total"),
            terminated: server.sum("apiserver_terminated_watchers_total"),
            used,
        })
    }

    /// As [`Self::now`]; what is used, and the API server's largest resident set, is measured from after the questions.
    pub(super) async fn first(cluster: &Cluster, nats: &Nats) -> Result<Self> {
        let counts = Self::now(cluster, nats).await?;
        process::forget_peak(server_pid(cluster)?)?;
        Ok(Self { used: Used::now(cluster, nats)?, ..counts })
    }

    /// What was counted from `self` to `later`, in a run.
    pub(super) fn until(&self, later: &Self, run: &mut Run) {
        run.broker_bytes = later.broker_bytes - self.broker_bytes;
        run.requests = (later.requests - self.requests) as u64;
        run.terminated = (later.terminated - self.terminated) as u64;
        let (before, after) = (&self.used, &later.used);
        let spent = |before: process::Usage, after: process::Usage| (after.cpu - before.cpu).as_secs_f64();
        run.server_cpu_seconds = spent(before.server, after.server);
        run.broker_cpu_seconds = spent(before.broker, after.broker);
        run.reader_cpu_seconds = spent(before.reader, after.reader);
        run.server_peak_mib = mib(after.server.peak_rss);
    }
}

/// What a process used from its start.
pub(super) struct Meter {
    pid: u32,
    started: Instant,
    /// CPU time at moments: which of them was the last object's is known only later.
    samples: Vec<(Instant, Duration)>,
}

impl Meter {
    /// Starts the process.
    pub(super) fn start(daemon: &Daemon) -> Result<Self> {
        let started = Instant::now();
        daemon.start()?;
        Ok(Self { pid: daemon.pid().context("it ended at once")?, started, samples: Vec::new() })
    }

    /// Notes what the process has used so far.
    pub(super) fn sample(&mut self) -> Result<()> {
        self.samples.push((Instant::now(), process::usage(self.pid)?.cpu));
        Ok(())
    }

    /// Notes time and CPU time at the moment that the work was done: by the first sample after it.
    pub(super) fn done(&self, first: Instant, last: Instant, run: &mut Run) -> Result<()> {
        let (_, cpu) = self.samples.iter().find(|(at, _)| *at >= last).context("no sample after the last object")?;
        run.first_seconds = first.saturating_duration_since(self.started).as_secs_f64();
        run.seconds = last.saturating_duration_since(self.started).as_secs_f64();
        run.cpu_seconds = cpu.as_secs_f64();
        Ok(())
    }

    /// Notes memory after a pause.
    pub(super) async fn settle(&self, pause: Duration, run: &mut Run) -> Result<()> {
        tokio::time::sleep(pause).await;
        let settled = process::usage(self.pid)?;
        run.peak_mib = mib(settled.peak_rss);
        run.settled_mib = mib(settled.rss);
        Ok(())
    }
}

/// Stops our agent and measures how it begins again from what the broker has stored.
///
/// # Errors
/// When it does not end, or is not ready before the deadline.
pub(super) async fn restart(agent: &Daemon, run: &mut Run) -> Result<()> {
    agent.stop(STOPPING).await?;
    let started = Instant::now();
    agent.start()?;
    await_condition("the restarted agent is ready", DEADLINE, async || {
        agent.ensure_running()?;
        get(AGENT_PROBES, "/readyz").await.map(Some)
    })
    .await?;
    run.restart_seconds = started.elapsed().as_secs_f64();
    run.restart_bytes = Metrics::of_agent().await?.sum("meshsync_received_bytes_total") as u64;
    run.restart_peak_mib = mib(process::usage(agent.pid().context("it ended")?)?.peak_rss);
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// The median of each figure by itself.
#[must_use]
pub fn median(runs: &[Run]) -> Option<Run> {
    let of = |figure: fn(&Run) -> f64| -> Option<f64> {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Run {
        seconds: of(|run| run.seconds)?,
        first_seconds: of(|run| run.first_seconds)?,
        cpu_seconds: of(|run| run.cpu_seconds)?,
        peak_mib: of(|run| run.peak_mib)?,
        settled_mib: of(|run| run.settled_mib)?,
        broker_bytes: of(|run| run.broker_bytes as f64)? as u64,
        stored_bytes: of(|run| run.stored_bytes as f64)? as u64,
        requests: of(|run| run.requests as f64)? as u64,
        terminated: of(|run| run.terminated as f64)? as u64,
        server_cpu_seconds: of(|run| run.server_cpu_seconds)?,
        broker_cpu_seconds: of(|run| run.broker_cpu_seconds)?,
        reader_cpu_seconds: of(|run| run.reader_cpu_seconds)?,
        server_peak_mib: of(|run| run.server_peak_mib)?,
        restart_seconds: of(|run| run.restart_seconds)?,
        restart_bytes: of(|run| run.restart_bytes as f64)? as u64,
        restart_peak_mib: of(|run| run.restart_peak_mib)?,
    })
}
