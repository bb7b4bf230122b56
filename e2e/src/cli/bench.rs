//! `cargo lab bench`: the agent beside others.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use super::print;
use crate::assets;
use crate::bench::contender::Contender;
use crate::bench::snapshot;
use crate::cluster::Level;
use crate::lab;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Objects to create
    #[arg(long, default_value_t = 20_000, value_name = "NUMBER")]
    objects: usize,
    /// Runs of each contender, in turn
    #[arg(long, default_value_t = 3, value_name = "NUMBER")]
    runs: usize,
    /// Executable of the Go original, to run beside ours
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// Measure the binary of the tests instead of an optimised one: quick, to see that the benchmark works
    #[arg(long)]
    debug: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints one table.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    if let Some(peer) = &args.peer {
        ensure!(peer.is_file(), "--peer {}: there is no such file", peer.display());
    }
    assets::ensure_all(Level::Api.tools())?;
    assets::ensure_all(&[assets::Tool::NatsServer])?;
    let agent = super::test::build_agent(!args.debug)?;
    let ours = [Contender::agent(&agent)];
    let contenders: Vec<Contender> = ours.into_iter().chain(args.peer.as_deref().map(Contender::peer)).collect();
    let mut report = snapshot::Report::default();
    lab::run("bench", async |lab| {
        report = snapshot::run(lab, &contenders, args.objects, args.runs).await?;
        Ok(())
    })?;
    print(report.table()?)?;
    if args.json {
        print(serde_json::to_string(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
