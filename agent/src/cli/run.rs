//! `run`: arguments → a running agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use meshsync_runtime::client::{ClientArgs, Connected, Retry, connect};
use meshsync_runtime::probes::PROBES_EVERYWHERE;
use meshsync_runtime::shutdown::Shutdown;

use super::broker::{AccessArgs, variable};
use super::narrow::NarrowArgs;
use super::source::SourceArgs;
use crate::BUILD;
use crate::output::Output;
use crate::publish::broker_config::BrokerConfig;
use crate::run::{self, Settings};

/// What to watch, where to publish, where to listen.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Broker, or several of one cluster of them, separated by commas; credentials in the URL, in NATS_TOKEN, in NATS_USER and
    /// NATS_PASSWORD, or in a file. BROKER_URL wins over the flag
    #[arg(long, value_name = "URL")]
    broker_url: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Most bytes that the stream may hold, e.g. 10Gi; else as it is, in a new stream as many as the account may
    #[arg(long, env = "MESHSYNC_STREAM_MAX_BYTES", value_name = "BYTES", value_parser = parse_bytes)]
    stream_max_bytes: Option<i64>,
    /// Where objects go
    #[arg(long, value_enum, default_value_t = OutputKind::Broker)]
    output: OutputKind,
    /// File for --output file
    #[arg(long = "outputFile", value_name = "FILE", default_value = "meshsync-snapshot.yaml")]
    output_file: PathBuf,
    #[command(flatten)]
    narrow: NarrowArgs,
    /// Id under which this cluster is published, whatever the configuration says; else `clusterId` of that, else the uid of the
    /// namespace kube-system
    #[arg(long, env = "MESHSYNC_CLUSTER_ID", value_name = "ID", value_parser = parse_cluster_id)]
    cluster_id: Option<String>,
    /// How a type is read before it is watched
    #[arg(long, env = "MESHSYNC_LISTS", value_enum, value_name = "HOW", default_value_t = Lists::Pages)]
    lists: Lists,
    /// Stop after this time, e.g. 90s or 1m30s
    #[arg(long = "stopAfter", value_name = "DURATION", value_parser = parse_duration)]
    stop_after: Option<Duration>,
    /// Probes and metrics
    #[arg(long, env = "MESHSYNC_PROBE_ADDRESS", value_name = "ADDRESS", default_value_t = PROBES_EVERYWHERE)]
    probe_address: SocketAddr,
    /// Snapshot and debug pages; keep it on loopback
    #[arg(long, env = "MESHSYNC_DEBUG_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:11001")]
    debug_address: SocketAddr,
    /// Name of this pod, for status
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "", hide = true)]
    pod_name: String,
}

/// Where objects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputKind {
    /// To the broker, for ever.
    Broker,
    /// To a file, one YAML document an object, when the agent stops.
    File,
}

/// How a type is read before it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lists {
    /// In pages of up to 8 MiB: the quickest, and the least work for the API server.
    Pages,
    /// By the watch itself where the API server serves that: fewer requests and less memory, twice its CPU time.
    Stream,
}

/// A number of bytes, which may end with `Ki`, `Mi`, `Gi` or `Ti`.
fn parse_bytes(text: &str) -> Result<i64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let unit = units.iter().find_map(|(suffix, power)| Some((text.strip_suffix(suffix)?, *power)));
    let (number, power) = unit.unwrap_or((text, 0));
    let bytes = number.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << power));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a number of bytes above zero, e.g. 10Gi".to_owned())
}

/// What the schema of a MeshSync takes as well.
fn parse_cluster_id(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_plain && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-') {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 63 letters, digits and '-', beginning and ending with a letter or digit".to_owned())
    }
}

/// A Go duration: numbers with units `h`, `m`, `s`, `ms`, the largest first.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 90s, 1m30s or 1h".to_owned())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

impl RunArgs {
    /// Runs until a signal or the given time.
    ///
    /// # Errors
    /// Whatever ends the agent.
    pub async fn execute(self, client: &ClientArgs) -> anyhow::Result<()> {
        BUILD.log();
        let shutdown = Shutdown::from_signals().context("cannot handle signals")?;
        let Connected { client, server } = connect(client, &BUILD, Retry::Caller).await?;
        tracing::info!(server, "the API server");
        run::run(self.settings()?, client, shutdown).await
    }

    fn settings(self) -> anyhow::Result<Settings> {
        let output = match self.output {
            OutputKind::File => Output::File(self.output_file.clone()),
            OutputKind::Broker => Output::Broker(self.broker()?),
        };
        Ok(Settings {
            source: self.narrow.source(&self.source),
            narrowing: self.narrow.narrowing(),
            output,
            probe_address: self.probe_address,
            debug_address: self.debug_address,
            streamed_lists: self.lists == Lists::Stream,
            stop_after: self.stop_after,
            stream_max_bytes: self.stream_max_bytes,
            cluster_id: self.cluster_id,
            pod: self.pod_name,
        })
    }

    fn broker(&self) -> anyhow::Result<BrokerConfig> {
        let url = variable("BROKER_URL").or_else(|| self.broker_url.clone());
        let url =
            url.context("no broker: set BROKER_URL or --broker-url, e.g. nats://localhost:4222; or use --output file")?;
        Ok(self.access.config(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        assert_eq!(parse_bytes("1073741824"), Ok(1 << 30));
        assert_eq!(parse_bytes("10Gi"), Ok(10 << 30));
        assert_eq!(parse_bytes("3Ki"), Ok(3_072));
        for text in ["", "0", "-1", "1.5Gi", "Gi", "10GB", "99999999999Ti"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_names_a_stream_and_a_row() {
        for id in ["c1", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", &"x".repeat(63)] {
            assert_eq!(parse_cluster_id(id), Ok(id.to_owned()));
        }
        for id in ["", "a b", "a.b", "-a", "a-", "a>", &"x".repeat(64)] {
            assert!(parse_cluster_id(id).is_err(), "{id}");
        }
    }
}
