//! `tail`: what is published, readably.

use std::io::{self, Write};

use anyhow::Context as _;
use async_nats::jetstream::consumer::push;
use async_nats::{Client, jetstream};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

use super::broker::BrokerArgs;
use crate::publish::parts::DATA_SUBJECT;
use crate::stream::ALL_STATES;

/// What to follow.
#[derive(Args, Debug)]
pub(super) struct TailArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Only this kind, e.g. Deployment or deployments
    #[arg(short, long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Only this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only objects whose name begins like this
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Begin with the state that the broker holds (needs JetStream)
    #[arg(long)]
    all: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Stop after this many events
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One readable line an event.
    Text,
    /// The message as it came, one a line.
    Json,
}

impl TailArgs {
    /// Follows until interrupted, or until the count is reached.
    ///
    /// # Errors
    /// When the broker cannot be reached, its address cannot be used, or standard output is gone.
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        let client = self.broker.connect().await?;
        let mut messages = if self.all {
            stored(client).await.context("cannot read the state that the broker holds")?
        } else {
            let messages = client.subscribe(DATA_SUBJECT).await.context("cannot subscribe")?;
            messages.map(|message| Ok(message.payload)).boxed()
        };
        let mut left = self.count;
        while left != Some(0) {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(message) = message else { break };
            let message = message.context("the broker does not go on")?;
            let Ok(event) = serde_json::from_slice::<Value>(&message) else { continue };
            if !self.wants(&event) {
                continue;
            }
            let mut out = io::stdout().lock();
            let written = match self.output {
                Format::Text => writeln!(out, "{}", line(&event)),
                Format::Json => out.write_all(&message).and_then(|()| out.write_all(b"\n")),
            };
            match written.and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                other => other.context("cannot write to standard output")?,
            }
            left = left.map(|left| left - 1);
        }
        Ok(())
    }

    fn wants(&self, event: &Value) -> bool {
        let kind = at(event, "/Object/kind");
        let is_kind = |wanted: &String| {
            let wanted = wanted.to_lowercase();
            let kind = kind.to_lowercase();
            wanted == kind || wanted.strip_suffix('s') == Some(&kind) || wanted.strip_suffix("es") == Some(&kind)
        };
        self.kind.as_ref().is_none_or(is_kind)
            && self.namespace.as_ref().is_none_or(|wanted| at(event, "/Object/metadata/namespace") == wanted)
            && self.name.as_ref().is_none_or(|wanted| at(event, "/Object/metadata/name").starts_with(wanted))
    }
}

/// The state of the cluster, then what changes.
async fn stored(client: Client) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
    let context = jetstream::new(client.clone());
    let name = context.stream_by_subject(ALL_STATES).await.context("there is no stream with a cluster's state")?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: ALL_STATES.to_owned(),
        ..push::OrderedConfig::default()
    };
    let stream = context.get_stream_no_info(name).await?;
    let messages = stream.create_consumer(config).await?.messages().await?;
    Ok(messages.map(|message| Ok(message?.message.payload)).boxed())
}

fn at<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `ADDED    apps/v1 Deployment default/web @1234`
fn line(event: &Value) -> String {
    let namespace = at(event, "/Object/metadata/namespace");
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!(
        "{:<8} {} {} {namespace}{separator}{} @{}",
        at(event, "/EventType"),
        at(event, "/Object/apiVersion"),
        at(event, "/Object/kind"),
        at(event, "/Object/metadata/name"),
        at(event, "/Object/metadata/resourceVersion"),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tail: TailArgs,
    }

    fn event() -> Value {
        json!({"EventType": "ADDED", "Object": {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web-1", "namespace": "shop", "resourceVersion": "7"}}})
    }

    #[test]
    fn filters_combine() {
        let wants = |args: &[&str]| Cli::parse_from(["t"].iter().chain(args)).tail.wants(&event());
        assert!(wants(&[]));
        assert!(wants(&["--type", "deployments", "-n", "shop", "--name", "web"]));
        assert!(!wants(&["--type", "pods"]));
        assert!(!wants(&["-n", "other"]));
        assert!(!wants(&["--name", "db"]));
    }

    #[test]
    fn a_broker_with_a_certificate_of_its_own_can_be_followed() {
        assert!(Cli::try_parse_from(["t", "--broker-url", "tls://b", "--broker-ca-file", "/ca.pem"]).is_ok());
    }

    #[test]
    fn a_line_says_what_happened_to_what() {
        assert_eq!(line(&event()), "ADDED    apps/v1 Deployment shop/web-1 @7");
    }
}
