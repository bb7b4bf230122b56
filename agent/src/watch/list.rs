//! The paged list: reads a whole collection, a few hundred objects at a time.

use std::time::Duration;

use bytes::BytesMut;
use futures::TryStreamExt;
use kube::Client;
use meshsync_crds::agent_config::SnapshotMode;

use super::request::{ListQuery, RequestError, Source, chunks, send};
use super::spec::WatchSpec;
use super::type_loop::Sink;
use crate::object::{ListPage, Prepared, ResourceVersion, TypeContext, prepare_outline};

/// Objects in the first page.
const FIRST_LIMIT: usize = 125;
/// Bounds of a page.
const LIMITS: std::ops::RangeInclusive<usize> = 10..=1000;
/// A page that stops arriving for this long is given up: its list holds one of a few places.
const SILENCE: Duration = Duration::from_secs(60);
/// What a page should weigh. Small enough that a few lists at once stay cheap, large enough that the API server is not
/// asked thousands of times.
const PAGE_BYTES: usize = 1024 * 1024;
/// The same where only hashes are kept, and pages are a good part of all memory.
const SMALL_PAGE_BYTES: usize = 512 * 1024;

/// A paged list under way: one consistent state of a collection, page by page.
struct Pages<'c> {
    client: &'c Client,
    source: Source,
    limit: usize,
    page_bytes: usize,
    /// Where the next page begins; `None` after the last.
    token: Option<String>,
    body: BytesMut,
}

impl<'c> Pages<'c> {
    fn new(client: &'c Client, source: Source, mode: SnapshotMode) -> Self {
        let page_bytes = match mode {
            SnapshotMode::Full => PAGE_BYTES,
            SnapshotMode::HashOnly => SMALL_PAGE_BYTES,
        };
        Self { client, source, limit: FIRST_LIMIT, page_bytes, token: Some(String::new()), body: BytesMut::new() }
    }

    /// Bytes of the last page.
    fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Reads the next page; none after the last.
    async fn read(&mut self) -> Result<Option<ListPage<'_>>, RequestError> {
        let Some(token) = self.token.take() else { return Ok(None) };
        let request = self.source.list_request(&ListQuery { limit: self.limit, token: &token })?;
        self.body.clear();
        let mut chunks = chunks(send(self.client, request).await?);
        loop {
            let chunk = tokio::time::timeout(SILENCE, chunks.try_next()).await;
            let Some(chunk) = chunk.map_err(|_| RequestError::silent(SILENCE))?? else { break };
            self.body.extend_from_slice(&chunk);
        }
        let page = ListPage::parse(&self.body).map_err(|error| RequestError::transient(&error))?;
        self.limit = next_limit(self.limit, page.items.len(), self.body.len(), self.page_bytes);
        self.token = page.continue_token.as_deref().map(str::to_owned);
        Ok(Some(page))
    }
}

/// Reads the collection into `sink` and returns the version that a watch may begin from.
///
/// What was not seen leaves the snapshot, but only after the last page arrived: a list that breaks off takes nothing out.
pub(super) async fn list(client: &Client, source: Source, sink: &Sink) -> Result<ResourceVersion, RequestError> {
    let relist = sink.table.begin_relist();
    let mut pages = Pages::new(client, source, sink.mode());
    let mut version = None;
    while let Some(page) = pages.read().await? {
        for item in &page.items {
            sink.take_in(item);
        }
        // All pages of one consistent list carry the version of the first.
        version.get_or_insert(page.resource_version);
        sink.board.update(&sink.name, |report| report.bytes += pages.bytes() as u64);
        sink.make_room().await;
    }
    sink.queue.delete(sink.type_id, relist.finish());
    Ok(version.unwrap_or_default())
}

/// A list whose objects are not kept.
pub struct Listing<'a> {
    spec: &'a WatchSpec,
    context: TypeContext,
    pages: Pages<'a>,
}

impl<'a> Listing<'a> {
    /// Of all objects that `spec` wants.
    #[must_use]
    pub fn new(client: &'a Client, spec: &'a WatchSpec) -> Self {
        Self { spec, context: spec.context(), pages: Pages::new(client, Source::of(spec), spec.mode) }
    }

    /// The objects of the next page, which may be none; `None` after the last page.
    ///
    /// # Errors
    /// Why it could not be read.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Prepared>>, RequestError> {
        let Some(page) = self.pages.read().await? else { return Ok(None) };
        let mut objects = Vec::with_capacity(page.items.len());
        for item in &page.items {
            match prepare_outline(item, &self.context) {
                Ok(prepared) if self.spec.wants(&prepared.name) => objects.push(prepared),
                Ok(_) => {}
                Err(error) => {
                    let name = self.spec.selected.served.name();
                    tracing::warn!(r#type = name, %error, "passed over something unreadable");
                }
            }
        }
        Ok(Some(objects))
    }
}

/// Objects that make a page of about `page_bytes`, going by the last one.
fn next_limit(limit: usize, items: usize, bytes: usize, page_bytes: usize) -> usize {
    if items == 0 {
        return limit;
    }
    let bytes_an_item = (bytes / items).max(1);
    (page_bytes / bytes_an_item).clamp(*LIMITS.start(), *LIMITS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sized_by_bytes() {
        assert_eq!(next_limit(250, 250, 250 * 8192, PAGE_BYTES), 128);
        assert_eq!(next_limit(250, 250, 250 * 1_000_000, PAGE_BYTES), 10);
        assert_eq!(next_limit(250, 3, 300, PAGE_BYTES), 1000);
        assert_eq!(next_limit(250, 0, 100, PAGE_BYTES), 250);
    }
}
