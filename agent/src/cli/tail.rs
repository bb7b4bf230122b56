//! `tail`: what is published, readably.

mod follow;
mod types;

use std::io::{self, Write};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use meshsync_crds::pattern::TypePattern;

use self::follow::{Came, Message};
use self::types::{TypeFilter, type_of};
use super::broker::BrokerArgs;
use crate::object::fields::{Field, find};
use crate::object::split::split;
use crate::object::{Outline, text};

/// What to follow.
#[derive(Args, Debug)]
pub(super) struct TailArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Only this type: its kind, plural or built-in short name, alone or with its group, e.g. Pod, networkpolicies, po,
    /// deployments.apps; or all of a group: *.istio.io. If nothing is of that type, standard error says so
    #[arg(short, long = "type", value_name = "TYPE", value_parser = TypePattern::parse)]
    kind: Option<TypePattern>,
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
        let mut followed = if self.all {
            follow::stored(&client).await.context("cannot read the state that the broker holds")?
        } else {
            follow::events(&client).await?
        };
        let mut types = self.kind.clone().map(TypeFilter::new);
        let mut left = self.count;
        while left != Some(0) {
            let came = tokio::select! {
                came = followed.next() => came,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(came) = came else { break };
            let message = match came.context("the broker does not go on")? {
                Came::Message(message) => message,
                Came::Begun => {
                    say(types.as_ref().and_then(TypeFilter::nothing));
                    continue;
                }
            };
            let Some(event) = Event::read(&message.payload) else { continue };
            if !self.wants(&event, &message, types.as_mut()) {
                continue;
            }
            if !self.print(&event, &message)? {
                break;
            }
            left = left.map(|left| left - 1);
        }
        Ok(())
    }

    fn wants(&self, event: &Event, message: &Message, types: Option<&mut TypeFilter>) -> bool {
        let found = || type_of(&event.api_version, &event.kind, message.key.clone());
        types.is_none_or(|types| types.wants(found()))
            && self.namespace.as_ref().is_none_or(|wanted| event.namespace == *wanted)
            && self.name.as_ref().is_none_or(|wanted| event.name.starts_with(wanted))
    }

    /// Whether somebody still reads.
    fn print(&self, event: &Event, message: &Message) -> anyhow::Result<bool> {
        let mut out = io::stdout().lock();
        let written = match self.output {
            Format::Text => writeln!(out, "{}", line(event)),
            Format::Json => out.write_all(&message.payload).and_then(|()| out.write_all(b"\n")),
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true).context("cannot write to standard output"),
        }
    }
}

/// Tells a person something, beside what standard output is read for.
fn say(text: Option<String>) {
    if let Some(text) = text {
        // Who closed standard error does not want to know.
        let _ = writeln!(io::stderr().lock(), "{}", printable(&text));
    }
}

/// What is shown of a message, or filtered by; empty where the message does not say it.
#[derive(Debug, Default)]
struct Event {
    event: String,
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    resource_version: String,
}

impl Event {
    /// Reads a message; `None` if it is no JSON object. No tree is made of it: those have a greatest depth, and an object that
    /// is nested deeper would be missing without a word.
    fn read(message: &[u8]) -> Option<Self> {
        let envelope = split(str::from_utf8(message).ok()?, "message").ok()?;
        let object = find(&envelope, "Object").and_then(|object| Outline::parse(object).ok());
        let top = object.as_ref().and_then(|object| object.top().ok()).unwrap_or_default();
        let metadata = object.as_ref().and_then(|object| object.metadata().ok()).unwrap_or_default();
        let says =
            |fields: &[Field<'_>], name| find(fields, name).and_then(text::decode).unwrap_or_default().into_owned();
        Some(Self {
            event: says(&envelope, "EventType"),
            api_version: says(top, "apiVersion"),
            kind: says(top, "kind"),
            namespace: says(metadata, "namespace"),
            name: says(metadata, "name"),
            resource_version: says(metadata, "resourceVersion"),
        })
    }
}

/// `ADDED    apps/v1 Deployment default/web @1234`
fn line(event: &Event) -> String {
    let Event { event, api_version, kind, namespace, name, resource_version } = event;
    let separator = if namespace.is_empty() { "" } else { "/" };
    printable(&format!("{event:<8} {api_version} {kind} {namespace}{separator}{name} @{resource_version}"))
}

/// Anybody may publish anything: what would steer a terminal is replaced.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tail: TailArgs,
    }

    fn message() -> Value {
        json!({"EventType": "ADDED", "Object": {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web-1", "namespace": "shop", "resourceVersion": "7"}}})
    }

    fn read(message: &Value) -> Event {
        Event::read(message.to_string().as_bytes()).unwrap()
    }

    fn wants(args: &[&str]) -> bool {
        let tail = Cli::parse_from(["t"].iter().chain(args)).tail;
        let message = Message { key: None, payload: Bytes::new() };
        let mut types = tail.kind.clone().map(TypeFilter::new);
        tail.wants(&read(&self::message()), &message, types.as_mut())
    }

    #[test]
    fn filters_combine() {
        assert!(wants(&[]));
        assert!(wants(&["--type", "deployments", "-n", "shop", "--name", "web"]));
        assert!(wants(&["--type", "deploy", "--name", "web"]));
        assert!(!wants(&["--type", "pods"]));
        assert!(!wants(&["--type", "deployments", "-n", "other"]));
        assert!(!wants(&["--name", "db"]));
    }

    #[test]
    fn a_type_that_cannot_be_is_refused() {
        let error = Cli::try_parse_from(["t", "--type", "pods/log"]).err().unwrap().to_string();
        assert!(error.contains("--type") && error.contains("pods/log"), "{error}");
    }

    #[test]
    fn a_broker_with_a_certificate_of_its_own_can_be_followed() {
        assert!(Cli::try_parse_from(["t", "--broker-url", "tls://b", "--broker-ca-file", "/ca.pem"]).is_ok());
    }

    #[test]
    fn a_line_steers_no_terminal() {
        let mut message = message();
        message["Object"]["metadata"]["name"] = "\u{1b}[2Jgone\nADDED".into();
        assert_eq!(line(&read(&message)), "ADDED    apps/v1 Deployment shop/\u{fffd}[2Jgone\u{fffd}ADDED @7");
    }

    #[test]
    fn a_line_says_what_happened_to_what() {
        assert_eq!(line(&read(&message())), "ADDED    apps/v1 Deployment shop/web-1 @7");
    }

    #[test]
    fn an_event_is_told_however_deeply_its_object_is_nested_and_whatever_it_lacks() {
        let deep = message()
            .to_string()
            .replace(r#""kind""#, &format!(r#""spec":{}{},"kind""#, "[".repeat(10_000), "]".repeat(10_000)));
        assert_eq!(line(&Event::read(deep.as_bytes()).unwrap()), "ADDED    apps/v1 Deployment shop/web-1 @7");
        assert_eq!(line(&read(&json!({"EventType": "DELETED", "Object": [7]}))), "DELETED     @");
        assert!(Event::read(b"7").is_none() && Event::read(b"{").is_none() && Event::read(&[0xff]).is_none());
    }
}
