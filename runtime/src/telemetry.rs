//! Logs: text for people, JSON for machines, always on stderr.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Arguments of logging.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: a level, or directives such as `info,meshsync_agent::watch=debug`
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
    /// A text line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// A log filter could not be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level `{filter}` is not a log filter: {source}; use a level such as `info`, or `info,meshsync_agent=debug`"
)]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Installs the process-wide subscriber. A second call in the same process has no effect.
///
/// # Errors
/// [`FilterError`] if the filter cannot be parsed.
pub fn init(args: &LogArgs) -> Result<(), FilterError> {
    let filter = filter(args)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is already installed, for instance by a test.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Silences client libraries that log each failed request and connection attempt without its purpose. Later directives
/// that name them take precedence.
const CLIENT_SILENT: &str = "kube_client::client::builder=off,async_nats::connector=off,async_nats=warn";

fn filter(args: &LogArgs) -> Result<EnvFilter, FilterError> {
    let wants_debug = !matches!(args.debug.as_str(), "" | "0" | "false");
    let directives = if wants_debug && args.log_level == "info" { "debug" } else { args.log_level.as_str() };
    // The caller reports the error, with its purpose.
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
    fn error_quotes_an_invalid_filter() {
        let error = filter_of(&["--log-level", "a=b=c"]).unwrap_err();
        assert!(error.contains("`a=b=c`"), "{error}");
    }
}
