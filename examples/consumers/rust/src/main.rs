//! Keeps the state of a cluster in memory, as MeshSync stores it in NATS JetStream, and prints every change.

use std::collections::HashMap;
use std::env;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use bytes::Bytes;
use futures::StreamExt as _;

#[tokio::main]
async fn main() -> Result<()> {
    let url = env::var("NATS_URL").context("set NATS_URL, for example to nats://localhost:4222")?;
    let options = ConnectOptions::with_token(env::var("NATS_TOKEN").unwrap_or_default());
    let client = options.connect(&url).await.with_context(|| format!("cannot connect to {url}"))?;
    let context = jetstream::new(client);
    // Each cluster has a stream of its own. This program follows the first one.
    let stream = context.stream_by_subject("meshsync.state.>").await.context("found no stream of a cluster")?;
    // An ordered consumer starts at the first message, and recovers by itself from gaps and reconnects.
    let config = OrderedConfig { filter_subject: "meshsync.state.>".to_owned(), ..OrderedConfig::default() };
    let consumer = context.create_consumer_on_stream(config, stream).await?;
    let mut messages = consumer.messages().await?;

    // The subject names an object; the message under it is its newest state.
    let mut objects: HashMap<String, Bytes> = HashMap::new();
    let mut output = io::stdout().lock();
    while let Some(message) = messages.next().await {
        let message = message?;
        let event = message.headers.as_ref().and_then(|headers| headers.get("Meshsync-Event"));
        let event = event.map(ToString::to_string).unwrap_or_default();
        match event.as_str() {
            "DELETED" => drop(objects.remove(message.subject.as_str())),
            _ => drop(objects.insert(message.subject.to_string(), message.payload.clone())),
        }
        writeln!(output, "{event} {}", message.subject)?;
        let pending = message.info().map_or(0, |info| info.pending);
        if pending == 0 {
            writeln!(output, "current: {} objects", objects.len())?;
        }
    }
    Ok(())
}
