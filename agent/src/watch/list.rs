//! The paged list: reads a whole collection, a few hundred objects at a time.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::Client;
use meshsync_crds::agent_config::SnapshotMode;

use super::request::{ListQuery, RequestError, Source, chunks, send};
use super::type_loop::Sink;
use crate::object::{ListBody, ObjectError, Outline, ResourceVersion};

/// Bounds of a page, in objects.
const LIMITS: std::ops::RangeInclusive<usize> = 10..=1000;
/// A page that stops arriving for this long is given up: its list holds one of a few places.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a page may take to arrive: a server gives a request up after a minute, unless it is told otherwise.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// How much of a list is asked for at once.
///
/// Each page costs the server about 2 ms whatever is in it, so few large ones are best. Objects are taken as they arrive:
/// memory is none of the reasons for smaller ones, but where it matters how many bodies come in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageSize {
    /// Objects in the first page; the following ones go by that one.
    first: usize,
    /// What a page should weigh.
    bytes: usize,
}

impl PageSize {
    /// Few at first: 500 objects of 1 MB would be half a gigabyte to the server. The next page goes by what they weigh.
    const LARGE: Self = Self { first: 50, bytes: 8 * 1024 * 1024 };
    const SMALL: Self = Self { first: 25, bytes: 1024 * 1024 };
    /// Where only hashes are kept, the bodies of a page are a good part of all memory.
    const SMALLEST: Self = Self { first: 50, bytes: 512 * 1024 };

    /// For lists whose objects are kept in this way.
    pub(super) fn of(mode: SnapshotMode) -> Self {
        match mode {
            SnapshotMode::Full => Self::LARGE,
            SnapshotMode::HashOnly => Self::SMALLEST,
        }
    }

    /// The same for a connection that did not bring such pages, and where a page is held as a whole.
    pub(super) fn small(mode: SnapshotMode) -> Self {
        match mode {
            SnapshotMode::Full => Self::SMALL,
            SnapshotMode::HashOnly => Self::SMALLEST,
        }
    }

    /// Objects in the page after one of `objects` objects and `bytes` bytes, which took so long.
    fn next_limit(self, limit: usize, objects: usize, bytes: usize, took: Duration) -> usize {
        if objects == 0 {
            return limit;
        }
        let by_size = self.bytes / (bytes / objects).max(1);
        let by_time = PAGE_WITHIN.as_secs_f64() / took.as_secs_f64().max(0.001) * objects as f64;
        by_size.min(by_time as usize).clamp(*LIMITS.start(), *LIMITS.end())
    }
}

/// A paged list under way: one consistent state of a collection, page by page.
pub(super) struct Pages<'c> {
    client: &'c Client,
    source: Source,
    size: PageSize,
    limit: usize,
    /// Where the next page begins; `None` after the last.
    token: Option<String>,
    body: ListBody,
}

impl<'c> Pages<'c> {
    pub(super) fn new(client: &'c Client, source: Source, size: PageSize) -> Self {
        Self { client, source, size, limit: size.first, token: Some(String::new()), body: ListBody::default() }
    }

    /// Reads the next page, and gives each object to `take` as it arrives; none after the last page. What was taken before an
    /// error was read whole.
    pub(super) async fn read(&mut self, mut take: impl FnMut(&Outline<'_>)) -> Result<Option<Page>, RequestError> {
        let Some(token) = self.token.take() else { return Ok(None) };
        let request = self.source.list_request(&ListQuery { limit: self.limit, token: &token })?;
        self.body.clear();
        let began = Instant::now();
        let (mut objects, mut bytes) = (0, 0);
        let mut chunks = chunks(send(self.client, request).await?);
        loop {
            let chunk = tokio::time::timeout(SILENCE, chunks.try_next()).await;
            let Some(chunk) = chunk.map_err(|_| RequestError::silent(SILENCE))?? else { break };
            bytes += chunk.len();
            for item in self.body.push(&chunk) {
                objects += 1;
                take(&item);
            }
        }
        let passed_over = self.body.take_passed_over();
        let rest = self.body.finish().map_err(|error| RequestError::transient(&error))?;
        rest.items.iter().for_each(take);
        objects += rest.items.len();
        self.limit = self.size.next_limit(self.limit, objects, bytes, began.elapsed());
        self.token = rest.continue_token.as_deref().map(str::to_owned);
        Ok(Some(Page { version: rest.resource_version, bytes, passed_over }))
    }
}

/// What is left of a page when its objects were taken.
pub(super) struct Page {
    /// Version of the collection.
    version: ResourceVersion,
    /// Bytes of the response.
    bytes: usize,
    /// What there is to say of objects that were too large to be read.
    passed_over: Vec<ObjectError>,
}

/// Reads the collection into `sink` and returns the version that a watch may begin from.
///
/// What was not seen leaves the snapshot, but only after the last page arrived: a list that breaks off takes nothing out.
/// A consistent list is never older than what was `seen` of the collection, unless etcd is: then it is read once more, and what
/// it says holds although the snapshot knows later versions. (Which pages are of such a list is known only at their end.)
pub(super) async fn list(
    client: &Client,
    source: Source,
    sink: &Sink,
    size: PageSize,
    seen: Option<&ResourceVersion>,
) -> Result<ResourceVersion, RequestError> {
    let version = read_all(client, source.clone(), sink, size, false).await?;
    if !seen.is_some_and(|seen| version.is_older_than(seen)) {
        return Ok(version);
    }
    tracing::warn!(
        r#type = sink.name, %version, seen = seen.map(tracing::field::display),
        "the cluster is older than it was, as after a restore from a backup: taking it as it is"
    );
    read_all(client, source, sink, size, true).await
}

/// The version of the collection as it is now, which a watch from a later one would never say: it waits until that comes.
pub(super) async fn current_version(client: &Client, source: &Source) -> Result<ResourceVersion, RequestError> {
    let source = Source { metadata_only: true, ..source.clone() };
    let page = Pages::new(client, source, PageSize { first: 1, bytes: 0 }).read(|_| {}).await?;
    Ok(page.map(|page| page.version).unwrap_or_default())
}

async fn read_all(
    client: &Client,
    source: Source,
    sink: &Sink,
    size: PageSize,
    accept_older: bool,
) -> Result<ResourceVersion, RequestError> {
    let relist = sink.table.begin_relist();
    if accept_older {
        relist.accept_older();
    }
    let version = read_pages(client, source, sink, size).await?;
    sink.queue.delete(sink.type_id, relist.finish());
    Ok(version)
}

/// Reads the collection into `sink`, which loses nothing by it; gives the version of the collection.
pub(super) async fn read_pages(
    client: &Client,
    source: Source,
    sink: &Sink,
    size: PageSize,
) -> Result<ResourceVersion, RequestError> {
    let mut pages = Pages::new(client, source, size);
    let mut version = None;
    while let Some(page) = pages.read(|object| sink.take_in(object)).await? {
        // All pages of one consistent list carry the version of the first.
        version.get_or_insert(page.version);
        sink.board.update(&sink.name, |report| report.bytes += page.bytes as u64);
        page.passed_over.iter().for_each(|error| sink.unreadable(error));
        sink.make_room().await;
    }
    Ok(version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKLY: Duration = Duration::from_millis(1);

    #[test]
    fn pages_are_sized_by_bytes() {
        let next = |objects, bytes| PageSize::SMALL.next_limit(250, objects, bytes, QUICKLY);
        assert_eq!(next(250, 250 * 8192), 128);
        assert_eq!(next(250, 250 * 1_000_000), 10);
        assert_eq!(next(3, 300), 1000);
        assert_eq!(next(0, 100), 250);
    }

    #[test]
    fn a_slow_connection_gets_pages_that_arrive_in_time() {
        let next = |seconds| PageSize::LARGE.next_limit(500, 500, 500 * 8192, Duration::from_secs(seconds));
        assert_eq!(next(1), 1000);
        assert_eq!(next(10), 500);
        assert_eq!(next(50), 100);
        assert_eq!(next(100_000), 10);
    }
}
