//! The paged list: reads a whole collection, a few hundred objects at a time.

use std::time::Duration;

use bytes::BytesMut;
use futures::TryStreamExt;
use kube::Client;

use super::request::{ListQuery, RequestError, Source, chunks, send};
use super::type_loop::Sink;
use crate::object::{ListPage, ResourceVersion};

/// Objects in the first page.
const FIRST_LIMIT: usize = 250;
/// Bounds of a page.
const LIMITS: std::ops::RangeInclusive<usize> = 10..=1000;
/// A page that stops arriving for this long is given up: its list holds one of a few places.
const SILENCE: Duration = Duration::from_secs(60);
/// What a page should weigh. Small enough that a few lists at once stay cheap, large enough that the API server is not
/// asked thousands of times.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Reads the collection into `sink` and returns the version that a watch may begin from.
///
/// What was not seen leaves the snapshot, but only after the last page arrived: a list that breaks off takes nothing out.
pub(super) async fn list(client: &Client, source: &Source, sink: &Sink) -> Result<ResourceVersion, RequestError> {
    sink.board.update(&sink.name, |report| report.lists += 1);
    let relist = sink.table.begin_relist();
    let mut limit = FIRST_LIMIT;
    let mut token = String::new();
    let mut body = BytesMut::new();
    let mut first_version = None;
    loop {
        let request = source.list_request(&ListQuery { limit, token: &token })?;
        body.clear();
        let mut chunks = chunks(send(client, request).await?);
        loop {
            let chunk = tokio::time::timeout(SILENCE, chunks.try_next()).await;
            let Some(chunk) = chunk.map_err(|_| RequestError::silent(SILENCE))?? else { break };
            body.extend_from_slice(&chunk);
        }
        sink.board.update(&sink.name, |report| report.bytes += body.len() as u64);
        let page = ListPage::parse(&body).map_err(|error| RequestError::transient(&error))?;
        limit = next_limit(limit, page.items.len(), body.len());
        for item in &page.items {
            sink.upsert(item.get().as_bytes());
        }
        // All pages of one consistent list carry the version of the first.
        let version = first_version.get_or_insert_with(|| page.resource_version.clone());
        match page.continue_token {
            Some(next) => token = next.into_owned(),
            None => {
                sink.queue.delete(sink.type_id, relist.finish());
                return Ok(version.clone());
            }
        }
        // Pages are parsed on the runtime's threads: let others have a turn.
        tokio::task::yield_now().await;
    }
}

/// Objects that make a page of about [`PAGE_BYTES`], going by the last one.
fn next_limit(limit: usize, items: usize, bytes: usize) -> usize {
    if items == 0 {
        return limit;
    }
    let bytes_an_item = (bytes / items).max(1);
    (PAGE_BYTES / bytes_an_item).clamp(*LIMITS.start(), *LIMITS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sized_by_bytes() {
        assert_eq!(next_limit(250, 250, 250 * 8192), 256);
        assert_eq!(next_limit(250, 250, 250 * 1_000_000), 10);
        assert_eq!(next_limit(250, 3, 300), 1000);
        assert_eq!(next_limit(250, 0, 100), 250);
    }
}
