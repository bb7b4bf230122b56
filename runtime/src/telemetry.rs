//! Logs: text for people, JSON for machines, always on stderr.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What is logged: a level, or directives such as `info,meshsync_agent::watch=debug`
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true, value_name = "FILTER")]
    log_level: String,
    /// Form of a log line
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
    /// Log at level debug; the environment variable of the original agent
    #[arg(long, env = "DEBUG", global = true, hide = true, num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    debug: String,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level `{filter}` is not a log filter: {source}; use a level such as `info`, or `info,meshsync_agent=debug`"
)]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Installs the process-wide subscriber. A second call in one process leaves the first in place.
///
/// # Errors
/// [`FilterError`] when the filter cannot be read.
pub fn init(args: &LogArgs) -> Result<(), FilterError> {
    let filter = filter(args)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is installed already, by a test for instance.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// The client libraries log each failed request and each failed attempt to connect, without saying what it was for.
/// Directives that come later and name them win.
const CLIENT_SILENT: &str = "kube_client::client::builder=off,async_nats::connector=off,async_nats=warn";

fn filter(args: &LogArgs) -> Result<EnvFilter, FilterError> {
    let wants_debug = !matches!(args.debug.as_str(), "" | "0" | "false");
    let directives = if wants_debug && args.log_level == "info" { "debug" } else { args.log_level.as_str() };
    // Whoever asked tells what went wrong, with what it was for.
    let all = format!("{CLIENT_SILENT},{directives}");
    EnvFilter::try_new(all).map_err(|source| FilterError { filter: directives.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        log: LogArgs,
    }

    fn filter_of(args: &[&str]) -> Result<String, String> {
        let cli = Cli::parse_from(["test"].iter().chain(args));
        filter(&cli.log).map(|f| f.to_string()).map_err(|e| e.to_string())
    }

    fn silent(directives: &str) -> String {
        format!("{CLIENT_SILENT},{directives}")
    }

    #[test]
    fn debug_raises_the_default_but_not_an_explicit_filter() {
        assert_eq!(filter_of(&["--log-level", "info", "--debug=true"]).unwrap(), silent("debug"));
        assert_eq!(filter_of(&["--log-level", "warn", "--debug"]).unwrap(), silent("warn"));
        assert_eq!(filter_of(&["--log-level", "info", "--debug=false"]).unwrap(), silent("info"));
    }

    #[test]
    fn a_filter_that_is_none_is_quoted() {
        let error = filter_of(&["--log-level", "a=b=c"]).unwrap_err();
        assert!(error.contains("`a=b=c`"), "{error}");
    }
}
