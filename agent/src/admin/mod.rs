//! What the agent shows on loopback only: the snapshot itself, and what each loop is doing.
//!
//! `kubectl port-forward` reaches it; no other pod does.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde::Serialize;

use crate::snapshot::Store;
use crate::watch::Board;

/// What the pages show.
#[derive(Clone)]
pub struct Admin {
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
    by_type: std::collections::BTreeMap<String, usize>,
}

/// `/snapshot` (NDJSON), `/snapshot/summary` and `/debug/watches` (JSON).
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/snapshot", get(snapshot))
        .route("/snapshot/summary", get(summary))
        .route("/debug/watches", get(async |State(admin): State<Admin>| Json(admin.board.snapshot())))
        .with_state(admin)
}

/// One object a line, unpacked one by one while the reader takes them.
async fn snapshot(State(admin): State<Admin>) -> impl IntoResponse {
    let objects = admin.store.tables().into_iter().flat_map(|(_, _, table)| table.scan()).filter_map(|object| {
        let mut line = object.body?;
        line.push(b'\n');
        Some(Ok::<_, io::Error>(Bytes::from(line)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(futures::stream::iter(objects)))
}

async fn summary(State(admin): State<Admin>) -> impl IntoResponse {
    let stats = admin.store.stats();
    let by_type: std::collections::BTreeMap<String, usize> =
        admin.store.tables().into_iter().map(|(_, served, table)| (served.name(), table.len())).collect();
    Json(Summary {
        objects: stats.objects,
        types: by_type.len(),
        body_bytes: stats.body_bytes,
        packed_bytes: stats.packed_bytes,
        by_type,
    })
}
