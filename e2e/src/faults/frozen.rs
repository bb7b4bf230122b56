//! Freezes open connections to the API server for minutes, while new connections work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::server_link::ServerLink;
use super::trial::Trial;
use crate::await_condition;
use crate::custom_type::custom_type;
use crate::progress::say;

/// Longest time until a new type is watched, with or without frozen connections.
const WATCHED_WITHIN: Duration = Duration::from_secs(90);
/// Interval between new types.
const NEW_TYPE_EVERY: Duration = Duration::from_secs(60);

/// Freezes open connections, and checks that each type created afterwards is watched soon.
pub(super) async fn be_frozen(trial: &Trial, link: &ServerLink, duration: Duration) -> Result<()> {
    let began = Instant::now();
    link.proxy.freeze();
    let mut number = 0;
    while began.elapsed() < duration {
        let (made, kind) = (Instant::now(), format!("Frozen{number}"));
        make_type(trial, &kind).await?;
        await_condition(&format!("{kind} is watched"), WATCHED_WITHIN, async || {
            Ok((trial.stored("frozen.example.com/v1", &kind) == 1).then_some(()))
        })
        .await?;
        say(format!("frozen for {} s: {kind} after {:.1} s", began.elapsed().as_secs(), made.elapsed().as_secs_f64()));
        trial.live().await.context("while connections are frozen")?;
        let left = duration.saturating_sub(began.elapsed());
        tokio::time::sleep(NEW_TYPE_EVERY.saturating_sub(made.elapsed()).min(left)).await;
        number += 1;
    }
    Ok(())
}

/// Creates a type with one object.
async fn make_type(trial: &Trial, kind: &str) -> Result<()> {
    trial.cluster.apply(custom_type("frozen.example.com", kind)).await?;
    let object = json!({"apiVersion": "frozen.example.com/v1", "kind": kind, "metadata": {"name": "one", "namespace": "default"}});
    await_condition("its object is accepted", WATCHED_WITHIN, async || {
        Ok(trial.cluster.apply(object.to_string()).await.ok().map(drop))
    })
    .await
}
