//! `cargo lab bench`: measures the agent, alone under load and beside other programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output::print;
use crate::assets;
use crate::bench::contender::Contender;
use crate::bench::large::{self, LARGEST, Size};
use crate::bench::{replay, snapshot};
use crate::cluster::Level;
use crate::lab::{self, Lab};

/// Soft limit of open files that a process has by default.
const DEFAULT_FILES: u64 = 1_024;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure
    #[arg(long, value_enum, default_value = "snapshot")]
    scenario: Scenario,
    /// Objects to create, or to replay
    #[arg(long, default_value_t = 20_000, value_name = "NUMBER")]
    objects: usize,
    /// Runs of each contender, in turn (snapshot, large)
    #[arg(long, default_value_t = 3, value_name = "NUMBER")]
    runs: usize,
    /// Executable of the Go original, to run beside ours (snapshot)
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// Executable of another build of our agent, to run beside this one (snapshot, large)
    #[arg(long, value_name = "PATH")]
    other: Option<PathBuf>,
    /// Let our agent run beside itself, listing by streams (snapshot)
    #[arg(long)]
    streamed: bool,
    /// Keep hashes only (memory); let our agent run beside itself, keeping hashes only (snapshot)
    #[arg(long)]
    hash_only: bool,
    /// Events a second [default: 1000, of an outage 5000]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u64>,
    /// Seconds of events (latency, outage)
    #[arg(long, default_value_t = 60, value_name = "NUMBER")]
    seconds: u64,
    /// Events to send (throughput)
    #[arg(long, default_value_t = 300_000, value_name = "NUMBER")]
    events: u64,
    /// Types beside the usual ones (types)
    #[arg(long, default_value_t = 5_000, value_name = "NUMBER")]
    types: usize,
    /// Objects to create (large)
    #[arg(long, default_value_t = 300, value_name = "NUMBER")]
    large: usize,
    /// Bytes of each of them, as the API server sends it (large)
    #[arg(long, default_value_t = 900_000, value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1_000..=i64::from(LARGEST)))]
    large_bytes: u32,
    /// Measure the binary of the tests instead of an optimised one: quick, to see that the benchmark works
    #[arg(long)]
    debug: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Time from the start to the last object, beside a null client and others; on a real API server
    Snapshot,
    /// Memory with very many objects, and a restart; replayed
    Memory,
    /// Memory with large objects: custom resources beside as many ConfigMaps, with bodies and with hashes only; on a real
    /// API server
    Large,
    /// Events per second that an agent on one core can process; replayed
    Throughput,
    /// Latency of an event; replayed
    Latency,
    /// An outage of the broker while events continue; replayed
    Outage,
    /// Very many types, on the file limits that a process has by default; replayed
    Types,
}

/// Measures and prints.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    for (option, program) in [("--peer", &args.peer), ("--other", &args.other)] {
        if let Some(program) = program {
            ensure!(program.is_file(), "{option} {}: there is no such file", program.display());
        }
    }
    assets::ensure_all(Level::Api.tools())?;
    assets::ensure_all(&[assets::Tool::NatsServer])?;
    let agent = super::test::build_agent(!args.debug)?;
    let mut report = (String::new(), Value::Null);
    lab::run("bench", async |lab| {
        report = measure(lab, &agent, args).await?;
        Ok(())
    })?;
    print(&report.0)?;
    if args.json {
        print(report.1.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was found, for people and as JSON.
async fn measure(lab: &Lab, agent: &Path, args: &BenchArgs) -> Result<(String, Value)> {
    let (objects, duration) = (args.objects, Duration::from_secs(args.seconds));
    let value = match args.scenario {
        Scenario::Snapshot => {
            let streaming = args.streamed.then(|| Contender::streaming_agent(agent));
            let hashing = args.hash_only.then(|| Contender::hashing_agent(agent));
            let beside = args.other.as_deref().map(Contender::other_agent);
            let peer = args.peer.as_deref().map(Contender::peer);
            let others = beside.into_iter().chain(streaming).chain(hashing).chain(peer);
            let contenders: Vec<_> = [Contender::agent(agent)].into_iter().chain(others).collect();
            let report = snapshot::run(lab, &contenders, objects, args.runs).await?;
            return Ok((report.table()?, serde_json::to_value(&report)?));
        }
        Scenario::Large => {
            let mut contenders = vec![Contender::agent(agent), Contender::hashing_agent(agent)];
            if let Some(other) = &args.other {
                contenders.extend([Contender::other_agent(other), Contender::other_hashing_agent(other)]);
            }
            let size = Size { objects: args.large, bytes: args.large_bytes as usize };
            let report = large::run(lab, &contenders, size, args.runs).await?;
            return Ok((report.table(), serde_json::to_value(&report)?));
        }
        Scenario::Memory => json!(replay::memory(lab, agent, objects, args.hash_only).await?),
        Scenario::Throughput => json!(replay::throughput(lab, agent, objects, args.events).await?),
        Scenario::Latency => json!(replay::latency(lab, agent, objects, args.rate.unwrap_or(1_000), duration).await?),
        Scenario::Outage => json!(replay::outage(lab, agent, objects, args.rate.unwrap_or(5_000), duration).await?),
        Scenario::Types => json!(replay::types(lab, agent, args.types, DEFAULT_FILES).await?),
    };
    let line = |(name, value): (&String, &Value)| match value.as_f64() {
        Some(number) if value.is_f64() => format!("{name:<18} {number:>14.2}"),
        _ => format!("{name:<18} {value:>14}"),
    };
    let lines: Vec<String> = value.as_object().into_iter().flatten().map(line).collect();
    Ok((lines.join("\n"), value))
}
