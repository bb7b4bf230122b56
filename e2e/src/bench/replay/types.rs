//! Very many types: does an agent get ready on the file limits that a process has by default, and do its probes answer?

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stage::{DEADLINE, kubeconfig, recording};
use super::{Recording, World, serve};
use crate::bench::contender::agent_config;
use crate::bench::process;
use crate::lab::Lab;
use crate::metrics::{AGENT_PROBES, agent_readiness, agent_watches};
use crate::process::Daemon;
use crate::progress::say;

/// Group of the types that no recorded cluster has.
const GROUP: &str = "bench.example.com";
/// Objects of the data set, so that there is something else to do.
const OBJECTS: usize = 1_000;
/// Pause between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Probes after the agent got ready.
const PROBES: usize = 200;

/// What very many types take.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Types {
    /// Types that are watched.
    pub types: usize,
    /// Soft limit of open files that the agent was started with.
    pub soft_limit: u64,
    /// From the start until the agent was ready, in seconds.
    pub ready_seconds: f64,
    /// CPU time until then.
    pub cpu_seconds: f64,
    /// Probes that were answered, meanwhile and after it.
    pub probes: usize,
    /// 99 of 100 answers to `/healthz` and `/readyz` did not take longer, in milliseconds.
    pub p99_ms: f64,
    /// Slowest answer to `/healthz` and `/readyz`, in milliseconds.
    pub slowest_ms: f64,
    /// Files and sockets that the agent has open at the end.
    pub descriptors: usize,
    /// Resident set at the end, in MiB.
    pub rss_mib: f64,
}

/// Starts an agent with `soft_limit` open files before a cluster with `types` more types than usual.
///
/// # Errors
/// The first step that fails, or an agent that does not get ready.
pub async fn types(lab: &Lab, program: &Path, types: usize, soft_limit: u64) -> Result<Types> {
    // For the other ends of the agent's sockets, which are this program's.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut recording = recording(lab).await?;
    add_types(&mut recording, types)?;
    let address = serve(Arc::new(World::new(recording, OBJECTS))).await?;
    let nats = lab.nats().jetstream().max_payload(8 * 1024 * 1024).start().await?;
    let (kubeconfig, config) = (kubeconfig(lab.dir(), address)?, agent_config(lab.dir(), false)?);
    let agent = lab.daemon("bench-agent", program).args(["run", "--log-level=warn", "--config"]).arg(config);
    let agent = agent.env("KUBECONFIG", kubeconfig).env("BROKER_URL", nats.url());
    let agent = agent.through("/usr/bin/prlimit", [format!("--nofile={soft_limit}:")]);
    let mut result = Types { soft_limit, ..Types::default() };
    follow(&agent, types, &mut result).await?;
    agent.stop(Duration::from_secs(30)).await?;
    Ok(result)
}

async fn follow(agent: &Daemon, types: usize, result: &mut Types) -> Result<()> {
    let (started, mut took) = (Instant::now(), Vec::new());
    agent.start()?;
    let mut after = 0;
    while after < PROBES {
        agent.ensure_running()?;
        ensure!(started.elapsed() < DEADLINE, "it is not ready: {:?}", agent_readiness().await);
        for path in ["/healthz", "/readyz"] {
            let asked = Instant::now();
            let answer = probe(path).await;
            // It refuses connections until it listens; after that, a probe that is not answered is one that took long.
            if answer.is_ok() || !took.is_empty() {
                took.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            if path == "/readyz" && answer.is_ok_and(|is_ready| is_ready) && result.types == 0 {
                // The gates of types are there once discovery was read.
                result.types = live().await?;
                result.ready_seconds = started.elapsed().as_secs_f64();
                result.cpu_seconds = process::usage(agent.pid().context("the agent ended")?)?.cpu.as_secs_f64();
                say(format!("ready with {} types after {:.1} s", result.types, result.ready_seconds));
            }
        }
        after += usize::from(result.types > 0);
        tokio::time::sleep(PROBE_EVERY).await;
    }
    ensure!(result.types > types, "{} types are live", result.types);
    let pid = agent.pid().context("the agent ended")?;
    took.sort_by(f64::total_cmp);
    result.probes = took.len();
    result.p99_ms = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
    result.slowest_ms = took.last().copied().unwrap_or_default();
    result.descriptors = process::descriptors(pid)?;
    result.rss_mib = process::usage(pid)?.rss as f64 / 1024.0 / 1024.0;
    Ok(())
}

/// Asks as a kubelet does, with a connection of its own; says whether the answer was 200.
async fn probe(path: &str) -> Result<bool> {
    let mut connection = TcpStream::connect(AGENT_PROBES).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {AGENT_PROBES}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    ensure!(!answer.is_empty(), "no answer");
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

async fn live() -> Result<usize> {
    let watches = agent_watches().await?;
    let is_live = |report: &&Value| report.get("phase").and_then(Value::as_str) == Some("Live");
    Ok(watches.as_object().context("no types")?.values().filter(is_live).count())
}

/// Adds a group with so many types to what discovery says.
fn add_types(recording: &mut Recording, types: usize) -> Result<()> {
    let discovery = recording.fixed.get_mut("/apis").context("no discovery")?;
    let mut document: Value = serde_json::from_str(discovery)?;
    let resource = |number: usize| {
        let (plural, kind) = (format!("things{number:05}"), format!("Thing{number:05}"));
        json!({"resource": plural, "singularResource": kind.to_lowercase(), "scope": "Namespaced",
            "responseKind": {"group": GROUP, "version": "v1", "kind": kind}, "verbs": ["get", "list", "watch"]})
    };
    let resources: Vec<Value> = (0..types).map(resource).collect();
    let version = json!({"version": "v1", "freshness": "Current", "resources": resources});
    let group = json!({"metadata": {"name": GROUP}, "versions": [version]});
    document.get_mut("items").and_then(Value::as_array_mut).context("no groups")?.push(group);
    *discovery = document.to_string();
    Ok(())
}
