//! Churn: objects that change all the time, in the background of every fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Names that are created, changed, deleted and created again.
const NAMES: u64 = 40;
/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(10);

/// A write that the API server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Uid of the object.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// resourceVersion that the write made; `None` for a delete, whose answer does not say it.
    pub version: Option<u64>,
}

/// Creates, changes and deletes ConfigMaps of one namespace until it is stopped. A write that fails while the API
/// server is away is followed by a write of the next name.
#[derive(Debug)]
pub struct Churn {
    writes: Arc<Mutex<Vec<Write>>>,
    stopping: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Churn {
    /// Begins in `namespace`, which must exist.
    ///
    /// # Errors
    /// When the API server cannot be reached.
    pub async fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let (client, collection) = (cluster.client().await?, format!("/api/v1/namespaces/{namespace}/configmaps"));
        let (writes, stopping) = (Arc::<Mutex<_>>::default(), Arc::<AtomicBool>::default());
        let (log, asked) = (Arc::clone(&writes), Arc::clone(&stopping));
        let task = tokio::spawn(async move {
            for step in (0_u64..).take_while(|_| !asked.load(Ordering::Relaxed)) {
                if let Ok(write) = write(&client, &collection, step).await {
                    lock(&log).push(write);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Self { writes, stopping, task })
    }

    /// Stops, and returns all writes that the API server accepted, in their order.
    pub async fn stop(&mut self) -> Vec<Write> {
        self.stopping.store(true, Ordering::Relaxed);
        // A task that panicked has shown why.
        let _ended = (&mut self.task).await;
        std::mem::take(&mut *lock(&self.writes))
    }

    /// Waits for `count` further writes.
    ///
    /// # Errors
    /// When they do not happen within a minute.
    pub async fn go_on(&self, count: usize) -> Result<()> {
        let until = lock(&self.writes).len() + count;
        crate::await_condition("the churn goes on", Duration::from_secs(60), async || {
            Ok((lock(&self.writes).len() >= until).then_some(()))
        })
        .await
    }
}

fn lock(writes: &Mutex<Vec<Write>>) -> MutexGuard<'_, Vec<Write>> {
    writes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each name is created, changed twice and deleted, all names in turn and each at another point of its life.
async fn write(client: &Client, collection: &str, step: u64) -> Result<Write> {
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
    let answer: Value = client.request(request).await.with_context(|| path.clone())?;
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    // A delete is answered with a Status.
    let uid = text("/metadata/uid").or_else(|| text("/details/uid")).with_context(|| format!("no uid: {path}"))?;
    let version = text("/metadata/resourceVersion").and_then(|version| version.parse().ok());
    Ok(Write { uid: uid.to_owned(), name, version })
}
