//! `cargo lab bench`: the agent beside the null client.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use super::print;
use crate::assets;
use crate::bench::{Report, Run, run as measure};
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
    /// Measure the binary of the tests instead of an optimised one: quick, to see that the benchmark works
    #[arg(long)]
    debug: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints one table.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    assets::ensure_all(Level::Api.tools())?;
    assets::ensure_all(&[assets::Tool::NatsServer])?;
    let agent = super::test::build_agent(!args.debug)?;
    let mut report = Report::default();
    lab::run("bench", async |lab| {
        report = measure(lab, &agent, args.objects, args.runs).await?;
        Ok(())
    })?;
    print(table(&report)?)?;
    if args.json {
        print(serde_json::to_string(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(report: &Report) -> Result<String> {
    let null = median(&report.null).context("the null client did not run")?;
    let agent = median(&report.agent).context("the agent did not run")?;
    let row = |name: &str, run: &Run| {
        format!(
            "{name:<12} {:>9.2} {:>9.2} {:>10.1} {:>12.1} {:>12.1}",
            run.seconds,
            run.cpu_seconds,
            run.peak_mib,
            run.settled_mib,
            run.broker_bytes as f64 / 1e6
        )
    };
    Ok(format!(
        "{} objects, {:.0} MB of lists; medians of {}\n{:<12} {:>9} {:>9} {:>10} {:>12} {:>12}\n{}\n{}\n{:<12} {:>8.2}x {:>8.2}x",
        report.objects,
        report.list_bytes as f64 / 1e6,
        report.agent.len(),
        "",
        "seconds",
        "CPU s",
        "peak MiB",
        "settled MiB",
        "broker MB",
        row("null client", &null),
        row("agent", &agent),
        "ratio",
        agent.seconds / null.seconds,
        agent.cpu_seconds / null.cpu_seconds.max(0.01),
    ))
}

/// The median of each figure by itself.
fn median(runs: &[Run]) -> Option<Run> {
    let of = |figure: fn(&Run) -> f64| -> Option<f64> {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Run {
        seconds: of(|run| run.seconds)?,
        cpu_seconds: of(|run| run.cpu_seconds)?,
        peak_mib: of(|run| run.peak_mib)?,
        settled_mib: of(|run| run.settled_mib)?,
        broker_bytes: of(|run| run.broker_bytes as f64)? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let runs = |seconds: [f64; 3]| {
            seconds.map(|seconds| Run { seconds, cpu_seconds: seconds / 2.0, ..Run::default() }).to_vec()
        };
        let report =
            Report { objects: 5, list_bytes: 2_000_000, null: runs([1.0, 9.0, 2.0]), agent: runs([4.0, 3.0, 8.0]) };
        let table = table(&report).unwrap();
        assert!(table.starts_with("5 objects, 2 MB of lists; medians of 3\n"), "{table}");
        assert!(table.ends_with("2.00x     2.00x"), "{table}");
    }
}
