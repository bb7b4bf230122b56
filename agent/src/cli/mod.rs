//! The command line.

mod broker;
mod narrow;
mod progress;
mod run;
mod snapshot;
mod source;
mod tail;
mod verify;

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use meshsync_runtime::client::ClientArgs;
use meshsync_runtime::open_files;
use meshsync_runtime::telemetry::{self, LogArgs};

pub use run::RunArgs;

/// Keeps a live snapshot of a Kubernetes cluster and publishes it to NATS
#[derive(Debug, Parser)]
#[command(name = "meshsync-agent", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

const EXAMPLES: &str = "\
Examples:
  # In a pod, as the operator starts it
  meshsync-agent run --config-map meshery/meshsync-agent

  # From a laptop, everything that the kubeconfig may read, to a local broker
  meshsync-agent run --broker-url nats://localhost:4222

  # One snapshot to a file; nothing is installed, no broker is needed
  meshsync-agent snapshot --kubeconfig ~/.kube/config -o cluster.ndjson

  # The same with rights in one namespace only; without -n, that of the kubeconfig's context is read
  meshsync-agent snapshot -n shop -o shop.ndjson

  # Follow what is published
  meshsync-agent tail --broker-url nats://localhost:4222 --type deployments

  # Does the broker hold what the cluster is?
  meshsync-agent verify --config-map meshery/meshsync-agent --broker-url nats://localhost:4222

Exit codes:
  0 done, or stopped by a signal or --stopAfter; 1 an error, or (verify) something differs; 2 wrong arguments;
  3 (snapshot, verify) not all could be read: types, or namespaces, are missing";

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch and publish until stopped (also without a subcommand, as the original agent is started)
    Run(Box<RunArgs>),
    /// Write all objects once, to a file or to standard output
    Snapshot(snapshot::SnapshotArgs),
    /// Print what is published, one line an event
    Tail(tail::TailArgs),
    /// Compare what the broker holds with the cluster; exit code 1 if anything differs, 3 if some types could not be compared
    Verify(Box<verify::VerifyArgs>),
}

/// Flags of the original agent. Go takes them with one dash as well as with two.
const GO_FLAGS: [&str; 6] = ["output", "outputFile", "outputNamespaces", "outputResources", "stopAfter", "broker-url"];

impl Cli {
    /// Reads the arguments of the process; ends it where they are wrong.
    #[must_use]
    pub fn from_process() -> Self {
        Self::parse_from(with_two_dashes(std::env::args_os()))
    }

    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever ends the command, told in one line.
    pub async fn execute(self) -> anyhow::Result<()> {
        let Self { log, client, command, run } = self;
        telemetry::init(&log)?;
        open_files::raise_limit();
        match command {
            None => run.execute(&client).await,
            Some(Command::Run(args)) => args.execute(&client).await,
            Some(Command::Snapshot(args)) => args.execute(&client).await,
            Some(Command::Tail(args)) => args.execute().await,
            Some(Command::Verify(args)) => args.execute(&client).await,
        }
    }
}

/// `-output=file` as `--output=file`, for the flags of the original agent only.
fn with_two_dashes(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.map(|arg| {
        let flag = arg.to_str().and_then(|text| text.strip_prefix('-'));
        let name = flag.map(|flag| flag.split_once('=').map_or(flag, |(name, _)| name));
        if name.is_some_and(|name| GO_FLAGS.contains(&name)) {
            let mut two = OsString::from("-");
            two.push(&arg);
            return two;
        }
        arg
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_original_are_accepted_with_and_without_run() {
        let flags = [
            "--output",
            "file",
            "--outputFile",
            "x.yaml",
            "--outputNamespaces",
            "a,b",
            "--outputResources",
            "pod,replicaset",
            "--stopAfter",
            "1m30s",
        ];
        for prefix in [&["meshsync-agent"][..], &["meshsync-agent", "run"]] {
            let args = prefix.iter().chain(&flags);
            Cli::try_parse_from(args).unwrap();
        }
    }

    #[test]
    fn one_dash_will_do_for_the_flags_of_the_original() {
        let read =
            |args: &[&str]| -> Vec<OsString> { with_two_dashes(args.iter().map(|arg| OsString::from(*arg))).collect() };
        let given = ["a", "-output", "file", "-stopAfter=1m", "--outputFile", "x", "-o", "-outputs", "-", "--"];
        let expected = ["a", "--output", "file", "--stopAfter=1m", "--outputFile", "x", "-o", "-outputs", "-", "--"];
        assert_eq!(read(&given), expected);
        assert!(
            Cli::try_parse_from(read(&["a", "-output", "file", "-outputResources=pod", "-stopAfter", "1s"])).is_ok()
        );
    }

    #[test]
    fn wrong_input_is_refused_with_the_field_and_the_value() {
        for (flag, value) in [("--stopAfter", "soon"), ("--config-map", "no-namespace"), ("--output", "paper")] {
            let error = Cli::try_parse_from(["meshsync-agent", "run", flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}
