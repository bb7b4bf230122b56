//! A broker begins to take larger messages: what was shortened for its sake is whole from then on.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use meshsync_e2e::faults::{NAMESPACE, Trial};
use meshsync_e2e::{await_condition, shared};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);
const KIB: usize = 1024;

/// Bytes and sequence of the message about a ConfigMap.
async fn stored(trial: &Trial, name: &str) -> Result<(usize, u64)> {
    let jetstream = jetstream::new(trial.nats.client().await?);
    let stream = jetstream.get_stream(jetstream.stream_by_subject("meshsync.state.>").await?).await?;
    let cluster = stream.cached_info().config.name.trim_start_matches("meshsync-").to_owned();
    let message = stream
        .direct_get_last_for_subject(format!("meshsync.state.{cluster}.core.configmaps.{NAMESPACE}.{name}"))
        .await?;
    Ok((message.payload.len(), message.sequence))
}

async fn becomes_whole(trial: &Trial, name: &str, bytes: usize) -> Result<u64> {
    await_condition(&format!("{name} is whole"), DEADLINE, async || {
        let (found, sequence) = stored(trial, name).await?;
        Ok((found >= bytes).then_some(sequence))
    })
    .await
}

async fn raise(trial: &Trial, bytes: usize) -> Result<()> {
    trial.nats.stop().await?;
    trial.nats.configure("max_payload", json!(bytes))?;
    trial.nats.start().await
}

#[test]
fn what_was_shortened_is_published_whole_once_it_fits() -> Result<()> {
    shared::run("payload-raised", async |lab, cluster| {
        let trial = Trial::begin(lab, cluster, lab.nats().jetstream().max_payload(64 * 1024)).await?;
        for (name, bytes) in [("large", 200 * KIB), ("larger", 500 * KIB)] {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
                "data": {"text": "x".repeat(bytes)},
            });
            trial.cluster.kubectl_with_input(["create", "-f", "-"], object.to_string()).await?;
            await_condition("it is told of", DEADLINE, async || stored(&trial, name).await.map(Some)).await?;
        }
        ensure!(stored(&trial, "large").await?.0 < 64 * KIB, "nothing was shortened");

        // The agent runs.
        raise(&trial, 300 * KIB).await?;
        let sequence = becomes_whole(&trial, "large", 200 * KIB).await?;
        trial.live().await?;
        let larger = stored(&trial, "larger").await?;
        ensure!(larger.0 < 64 * KIB, "{} bytes", larger.0);

        // The agent begins on what another one left, and does so without a list of what is whole.
        trial.agent.stop(Duration::from_secs(20)).await?;
        raise(&trial, KIB * KIB).await?;
        trial.agent.start()?;
        becomes_whole(&trial, "larger", 500 * KIB).await?;
        ensure!(stored(&trial, "large").await?.1 == sequence, "what is whole was published once more");
        trial.end().await
    })
}
