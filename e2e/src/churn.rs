//! A cluster in which something always changes: the background of every fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use kube::Client;
use serde_json::json;

use crate::cluster::Cluster;

/// Names that are created, changed, deleted and created again.
const NAMES: u64 = 40;
/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(10);

/// Creates, changes and deletes ConfigMaps of one namespace until it is stopped; what fails while the API server is away
/// is tried again with the next name.
#[derive(Debug)]
pub struct Churn {
    writes: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Churn {
    /// Begins in `namespace`, which must exist.
    ///
    /// # Errors
    /// When the API server cannot be reached.
    pub async fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let (client, writes) = (cluster.client().await?, Arc::new(AtomicU64::new(0)));
        let (count, collection) = (writes.clone(), format!("/api/v1/namespaces/{namespace}/configmaps"));
        let task = tokio::spawn(async move {
            for step in 0_u64.. {
                if write(&client, &collection, step).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Self { writes, task })
    }

    /// Writes that the API server accepted.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Waits for `count` further writes.
    ///
    /// # Errors
    /// When they do not happen within a minute.
    pub async fn go_on(&self, count: u64) -> Result<()> {
        let until = self.writes() + count;
        crate::await_condition("the churn goes on", Duration::from_secs(60), async || {
            Ok((self.writes() >= until).then_some(()))
        })
        .await
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each name is created, changed twice and deleted, all names in turn and each at another point of its life.
async fn write(client: &Client, collection: &str, step: u64) -> Result<()> {
    let (number, round) = (step % NAMES, step / NAMES);
    let name = format!("churn-{number}");
    let (method, path, body) = match (round + number) % 4 {
        0 => {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"step": step.to_string()}});
            (Method::POST, collection.to_owned(), body)
        }
        3 => (Method::DELETE, format!("{collection}/{name}"), json!({})),
        _ => (Method::PATCH, format!("{collection}/{name}"), json!({"data": {"step": step.to_string()}})),
    };
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(&path)
        .header(http::header::CONTENT_TYPE, content)
        .body(serde_json::to_vec(&body)?)?;
    client.request_text(request).await.map(drop).with_context(|| path)
}
