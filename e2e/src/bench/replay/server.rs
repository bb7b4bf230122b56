//! Serves a [`World`] as an API server does: discovery, paged lists, watches.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use futures::stream;

use super::record::AGGREGATED_TYPE;
use super::world::World;
use crate::progress::say;

/// Begins to serve on loopback; gives the address. It ends with the runtime.
///
/// # Errors
/// When there is no port.
pub async fn serve(world: Arc<World>) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the replay")?;
    let address = listener.local_addr()?;
    // As Go's servers do. Otherwise an event waits for the acknowledgement of the one before, which comes after 40 ms.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            say(format!("replay: cannot set TCP_NODELAY: {error}"));
        }
    });
    let router = Router::new().fallback(answer).with_state(world);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// What is recorded never changes while it is replayed.
const ETAG: &str = "\"recorded\"";

async fn answer(
    State(world): State<Arc<World>>,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let path = uri.path();
    let value = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    if let Some(fixed) = world.fixed(path) {
        if headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == ETAG) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        let kind = if matches!(path, "/api" | "/apis") { AGGREGATED_TYPE } else { "application/json" };
        return ([(header::CONTENT_TYPE, kind), (header::ETAG, ETAG)], fixed.to_owned()).into_response();
    }
    if value("watch") != "true" {
        let page = world.page(path, value("continue").parse().unwrap_or(0), value("limit").parse().unwrap_or(500));
        return ([(header::CONTENT_TYPE, "application/json")], page).into_response();
    }
    let Some(events) = world.watch(path, value("resourceVersion")) else {
        let status = r#"{"kind":"Status","code":410,"reason":"Expired","message":"the replay keeps no history"}"#;
        return (StatusCode::GONE, status).into_response();
    };
    let body = stream::unfold(events, async |mut events| {
        let mut chunk: Vec<u8> = events.recv().await?.into();
        // What waits goes out together, as from a busy server.
        while let Ok(next) = events.try_recv() {
            chunk.extend_from_slice(&next);
            if chunk.len() > 64 * 1024 {
                break;
            }
        }
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), events))
    });
    Body::from_stream(body).into_response()
}
