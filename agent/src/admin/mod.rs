//! What the agent shows on loopback only: the snapshot itself, and what each loop is doing.
//!
//! `kubectl port-forward` reaches it; no other pod does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use futures::stream;
use kube::Client;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::apiserver::RequestError;
use crate::object;
use crate::plan::ActivePlan;
use crate::plan::WatchSpec;
use crate::snapshot::{Store, TypeId};
use crate::watch::{Board, Listing};

/// Lines that wait for the reader.
const LINES_AHEAD: usize = 64;

/// What the pages show.
#[derive(Clone)]
pub struct Admin {
    /// For reading what is not held.
    pub client: Client,
    /// What is watched.
    pub active_plan: watch::Receiver<ActivePlan>,
    /// What is held.
    pub store: Arc<Store>,
    /// What the loops do.
    pub board: Arc<Board>,
}

/// Size of the snapshot, as `/snapshot/summary` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    objects: usize,
    types: usize,
    body_bytes: usize,
    packed_bytes: usize,
    by_type: BTreeMap<String, usize>,
}

/// `/snapshot` (NDJSON), `/snapshot/summary` and `/debug/watches` (JSON).
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/snapshot", get(snapshot))
        .route("/snapshot/summary", get(summary))
        .route("/debug/watches", get(async |State(admin): State<Admin>| Json(admin.board.snapshot())))
        .with_state(admin)
}

/// One object a line, unpacked one by one while the reader takes them. Types whose bodies are not all held, because the
/// agent was restarted, are read from the API server, page by page.
async fn snapshot(State(admin): State<Admin>) -> impl IntoResponse {
    let (lines, body) = mpsc::channel(LINES_AHEAD);
    tokio::spawn(async move {
        if let Err(Stopped::Failed(error)) = write_snapshot(&admin, &lines).await {
            tracing::warn!(error, "the snapshot that was asked for breaks off");
            // Seen by the reader as an answer that breaks off, which a shorter one would not be.
            let _gone = lines.send(Err(io::Error::other(error))).await;
        }
    });
    let body = stream::unfold(body, async |mut body| body.recv().await.map(|line| (line, body)));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body))
}

/// Why a snapshot is not complete.
enum Stopped {
    /// The reader went away.
    Unread,
    /// It cannot be read.
    Failed(String),
}

impl From<RequestError> for Stopped {
    fn from(error: RequestError) -> Self {
        Self::Failed(error.to_string())
    }
}

async fn write_snapshot(admin: &Admin, lines: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Stopped> {
    let plan = Arc::clone(&admin.active_plan.borrow().plan);
    // By identity, as the store has it: short names and verbs of a type may change while it is watched.
    let specs: HashMap<TypeId, &WatchSpec> =
        plan.iter().map(|spec| (admin.store.intern(&spec.selected.served), spec)).collect();
    let mut unread = Vec::new();
    for (id, served, table) in admin.store.tables() {
        if !table.lacks_bodies() {
            for body in table.scan().filter_map(|object| object.body) {
                send_line(lines, body).await?;
            }
            continue;
        }
        let written = match specs.get(&id) {
            Some(spec) => write_listing(admin, spec, lines).await,
            None => Err(Stopped::Failed("it is not watched any more, and not all of it is held".to_owned())),
        };
        match written {
            Err(Stopped::Failed(error)) => unread.push(format!("{}: {error}", served.name())),
            other => other?,
        }
    }
    // Only now: what can be read is written whatever cannot.
    if unread.is_empty() { Ok(()) } else { Err(Stopped::Failed(unread.join("; "))) }
}

/// Writes the objects of one type as the API server has them.
async fn write_listing(
    admin: &Admin,
    spec: &WatchSpec,
    lines: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Stopped> {
    let mut listing = Listing::new(&admin.client, spec);
    while let Some(page) = listing.next_page().await? {
        for object in page {
            send_line(lines, object.body).await?;
        }
    }
    Ok(())
}

async fn send_line(lines: &mpsc::Sender<io::Result<Bytes>>, body: object::Body) -> Result<(), Stopped> {
    let mut line = body.into_json();
    line.push(b'\n');
    lines.send(Ok(line.into())).await.map_err(|_| Stopped::Unread)
}

async fn summary(State(admin): State<Admin>) -> impl IntoResponse {
    let stats = admin.store.stats();
    let mut by_type = BTreeMap::new();
    // While a type moves to another version, it has two tables.
    for (_, served, table) in admin.store.tables() {
        *by_type.entry(served.name()).or_insert(0) += table.len();
    }
    Json(Summary {
        objects: stats.objects,
        types: by_type.len(),
        body_bytes: stats.body_bytes,
        packed_bytes: stats.packed_bytes,
        by_type,
    })
}

#[cfg(test)]
mod tests;
