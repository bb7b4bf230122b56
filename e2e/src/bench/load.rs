//! Brings a data set into a cluster.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use kube::Client;
use serde_json::json;

use super::dataset::{Item, items, namespaces};
use crate::progress::say;

/// Objects that are created at the same time.
const WRITERS: usize = 24;

/// Creates `count` objects through the API; those that are there already are left as they are.
///
/// # Errors
/// The first write that fails.
pub async fn load(client: &Client, count: usize) -> Result<()> {
    let started = Instant::now();
    for namespace in namespaces(count) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        create(client, "/api/v1/namespaces", &body).await?;
    }
    let mut done = 0;
    let mut writes = stream::iter(items(count)).map(|item| create_item(client, item)).buffer_unordered(WRITERS);
    while writes.try_next().await?.is_some() {
        done += 1;
        if done % 2000 == 0 {
            say(format!("{done} of {count} objects created, {:.0} s", started.elapsed().as_secs_f64()));
        }
    }
    Ok(())
}

async fn create_item(client: &Client, item: Item) -> Result<()> {
    let collection = item.kind.collection(&item.namespace);
    create(client, &collection, &item.body).await?;
    if let Some(status) = item.status {
        let path = format!("{collection}/{}/status", item.name);
        send(client, "PATCH", &path, &json!({"status": status})).await?;
    }
    Ok(())
}

/// Creates an object; one that is there already is left as it is.
pub(super) async fn create(client: &Client, collection: &str, body: &serde_json::Value) -> Result<()> {
    match send(client, "POST", collection, body).await {
        Err(error) if is_conflict(&error) => Ok(()),
        created => created,
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 409)
}

pub(super) async fn send(client: &Client, method: &str, path: &str, body: &serde_json::Value) -> Result<()> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content)
        .body(serde_json::to_vec(body)?)?;
    client.request_text(request).await.map(drop).with_context(|| format!("{method} {path}"))
}
