//! The command line of `cargo lab`.

mod bench;
mod check;
mod clusters;
mod demo;
mod output;
mod soak;
mod test;
mod test_run;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "Examples:
  cargo lab demo                  the main job, for real
  cargo lab check                 what this machine lacks, and what to do about it
  cargo lab test                  every test: unit, API server, real pods
  cargo lab up                    a cluster to try things on; stays up
  cargo lab kubectl get pods -A   kubectl inside that cluster
  cargo lab down                  removes it without a trace";

/// Real Kubernetes clusters on one machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says within a second what is missing, and how to install it.
    Check(check::CheckArgs),
    /// Starts a cluster that stays up.
    Up(clusters::UpArgs),
    /// Removes a cluster: processes, mounts, namespace, files.
    Down(clusters::DownArgs),
    /// Lists the labs that run.
    Status(clusters::StatusArgs),
    /// Runs kubectl against a cluster that is up.
    Kubectl(clusters::KubectlArgs),
    /// Measures the agent beside a client that reads the same lists and throws them away.
    Bench(bench::BenchArgs),
    /// Injects random faults under churn, and checks that nothing is lost and nothing grows.
    Soak(soak::SoakArgs),
    /// Demonstrates the system on a real cluster: installation, snapshot, blacklisting a type, events.
    Demo(demo::DemoArgs),
    /// Builds and runs all tests of the workspace; the last line is `N passed, N failed`.
    Test(test::TestArgs),
}

/// Runs the command line. The exit code is 0 for success, 1 for a failure (explained on standard error), 2 for a wrong
/// command line.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Up(args) => clusters::up(&args),
        Command::Down(args) => clusters::down(&args),
        Command::Status(args) => clusters::status(&args),
        Command::Kubectl(args) => clusters::kubectl(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        // If standard error is closed, only the exit code reports the failure.
        let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
        ExitCode::FAILURE
    })
}
