//! The pages of one list: how large they are, what is asked for again, and what is no list any more.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::Client;
use meshsync_crds::agent_config::SnapshotMode;
use xxhash_rust::xxh3::xxh3_64;

use super::places::Place;
use crate::apiserver::backoff::{Backoff, jitter};
use crate::apiserver::request::{ListQuery, Reason, RequestError, Source, chunks, send};
use crate::object::{ListBody, ObjectError, Outline, ResourceVersion};

/// Bounds of a page, in objects.
const LIMITS: std::ops::RangeInclusive<usize> = 10..=1000;
/// A page that stops arriving for this long is given up: its list holds one of a few places.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a page may take to arrive: a server gives a request up after a minute, unless it is told otherwise.
const PAGE_WITHIN: Duration = Duration::from_secs(10);
/// How often one page is asked for while the server says that it is busy.
const BUSY_TRIES: u32 = 6;
/// Pages in a row that may bring nothing new. A server that filters after it has read may well give some.
const IDLE_PAGES: u32 = 20;
/// Wait after a page that brought nothing new.
const IDLE_WAIT: Duration = Duration::from_millis(250);

/// How much of a list is asked for at once.
///
/// Each page costs the server about 2 ms whatever is in it, so few large ones are best. Objects are taken as they arrive:
/// memory is none of the reasons for smaller ones, but where it matters how many bodies come in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageSize {
    /// Objects in the first page; the following ones go by that one. All there are, if 0.
    pub(super) first: usize,
    /// What a page should weigh.
    bytes: usize,
}

impl PageSize {
    /// Few at first: 500 objects of 1 MB would be half a gigabyte to the server. The next page goes by what they weigh.
    const LARGE: Self = Self { first: 50, bytes: 8 * 1024 * 1024 };
    const SMALL: Self = Self { first: 25, bytes: 1024 * 1024 };
    /// Where only hashes are kept, the bodies of a page are a good part of all memory.
    const SMALLEST: Self = Self { first: 50, bytes: 512 * 1024 };
    /// Everything in one answer, for a server that forgets the state of a list before its last page is asked for.
    pub(super) const WHOLE: Self = Self { first: 0, bytes: 0 };
    /// As little as there can be, for who wants the version alone.
    pub(super) const ONE: Self = Self { first: 1, bytes: 0 };

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
        if objects == 0 || self == Self::WHOLE {
            return limit;
        }
        let by_size = self.bytes / (bytes / objects).max(1);
        let by_time = PAGE_WITHIN.as_secs_f64() / took.as_secs_f64().max(0.001) * objects as f64;
        by_size.min(by_time as usize).clamp(*LIMITS.start(), *LIMITS.end())
    }
}

/// What is left of a page when its objects were taken.
pub(super) struct Page {
    /// Version of the collection.
    pub(super) version: ResourceVersion,
    /// Bytes of the response.
    pub(super) bytes: usize,
    /// What there is to say of objects that were too large to be read.
    pub(super) passed_over: Vec<ObjectError>,
}

/// A paged list under way, page by page: one consistent state of a collection, unless the server forgot that meanwhile.
pub(super) struct Pages<'c> {
    client: &'c Client,
    source: Source,
    size: PageSize,
    limit: usize,
    /// Where the next page begins; `None` after the last.
    token: Option<String>,
    body: ListBody,
    circle: Circle,
    /// Whether the server forgot the state that the list began with: what followed is newer.
    pub(super) is_renewed: bool,
}

impl<'c> Pages<'c> {
    pub(super) fn new(client: &'c Client, source: Source, size: PageSize) -> Self {
        let token = Some(String::new());
        let (body, circle) = (ListBody::default(), Circle::default());
        Self { client, source, size, limit: size.first, token, body, circle, is_renewed: false }
    }

    /// Reads the next page, and gives each object to `take` as it arrives; none after the last page. What was taken before an
    /// error was read whole.
    ///
    /// A server that is busy in the middle of a list is asked for the same page again, later: what it has given so far is not
    /// asked of it again. Of one that no longer has the state of the first page, the rest is taken as it is now. (What is created
    /// or deleted among the objects before it is told by a watch from the version of the first page, and by no other.)
    pub(super) async fn next(
        &mut self,
        place: &mut Place<'_>,
        mut take: impl FnMut(&Outline<'_>),
    ) -> Result<Option<Page>, RequestError> {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            let Some(token) = self.token.clone() else { return Ok(None) };
            let error = match self.read(&token, &mut take).await {
                Ok(page) => {
                    if let Some(wait) = self.circle.idle_wait() {
                        place.rest(wait).await;
                    }
                    return Ok(Some(page));
                }
                Err(error) => error,
            };
            let is_first = token.is_empty();
            match error {
                RequestError::Relist(Reason::Expired { go_on: Some(go_on) }) if !is_first => {
                    tracing::debug!(path = self.source.path, "the list took too long: reading its rest as it is now");
                    self.circle.turn(&go_on)?;
                    self.is_renewed = true;
                    self.token = Some(go_on);
                }
                RequestError::Unavailable { retry_after, .. } if error.is_busy() && !is_first && tries < BUSY_TRIES => {
                    tries += 1;
                    let wait = backoff.failed(Instant::now(), retry_after, jitter());
                    tracing::debug!(path = self.source.path, %error, retry_in = ?wait, "waiting for a page");
                    place.rest(wait).await;
                }
                error => return Err(error),
            }
        }
    }

    async fn read(&mut self, token: &str, take: &mut impl FnMut(&Outline<'_>)) -> Result<Page, RequestError> {
        let request = self.source.list_request(&ListQuery { limit: self.limit, token })?;
        self.body.clear();
        let began = Instant::now();
        let (mut objects, mut bytes, mut first) = (0, 0, None);
        let mut taking = |item: &Outline<'_>| {
            first.get_or_insert_with(|| identity(item));
            objects += 1;
            take(item);
        };
        let mut chunks = chunks(send(self.client, request).await?);
        loop {
            let chunk = tokio::time::timeout(SILENCE, chunks.try_next()).await;
            let Some(chunk) = chunk.map_err(|_| RequestError::silent(SILENCE))?? else { break };
            bytes += chunk.len();
            self.body.push(&chunk).iter().for_each(&mut taking);
        }
        let passed_over = self.body.take_passed_over();
        let rest = self.body.finish().map_err(|error| RequestError::transient(&error))?;
        rest.items.iter().for_each(&mut taking);
        self.limit = self.size.next_limit(self.limit, objects, bytes, began.elapsed());
        let next = rest.continue_token.as_deref().map(str::to_owned);
        let version = rest.resource_version;
        if let Some(next) = &next {
            // What is too large to be read is something new, too.
            if passed_over.is_empty() {
                self.circle.page(first)?;
            }
            self.circle.turn(next)?;
        }
        self.token = next;
        Ok(Page { version, bytes, passed_over })
    }
}

/// Tells apart the objects that pages begin with.
fn identity(item: &Outline<'_>) -> u64 {
    let mut text = Vec::new();
    for field in item.metadata().unwrap_or_default() {
        if ["namespace", "name", "uid"].iter().any(|key| field.is(key)) {
            text.extend_from_slice(field.value.as_bytes());
            text.push(b'\n');
        }
    }
    xxh3_64(&text)
}

/// Finds out a list that has no end: one whose tokens or objects come again, or that goes on and brings nothing.
#[derive(Debug, Default)]
struct Circle {
    /// Hashes of the tokens so far.
    tokens: HashSet<u64>,
    /// What the pages so far began with.
    beginnings: HashSet<u64>,
    /// Pages in a row that brought nothing new.
    idle: u32,
}

impl Circle {
    /// A page came that is not the last; `first` is what it began with.
    fn page(&mut self, first: Option<u64>) -> Result<(), RequestError> {
        let is_new = first.is_some_and(|first| self.beginnings.insert(first));
        self.idle = if is_new { 0 } else { self.idle + 1 };
        if self.idle < IDLE_PAGES {
            return Ok(());
        }
        Err(RequestError::Transient(format!("the list has no end: {IDLE_PAGES} pages in a row brought nothing new")))
    }

    /// The list goes on with `token`.
    fn turn(&mut self, token: &str) -> Result<(), RequestError> {
        if self.tokens.insert(xxh3_64(token.as_bytes())) {
            return Ok(());
        }
        Err(RequestError::Transient("the list has no end: the server gave a continue token a second time".to_owned()))
    }

    /// How long to wait before the next page.
    fn idle_wait(&self) -> Option<Duration> {
        (self.idle > 0).then(|| IDLE_WAIT * self.idle)
    }
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
