//! The streamed list (KEP-3157): a watch that begins with everything there is, and goes on as the watch.
//!
//! One request instead of some pages and a watch, and no page of some hundred objects in memory. Not the default: the server
//! writes each object as an event of its own, which takes it twice the CPU time that pages take.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::Client;

use super::intake::Sink;
use super::stream::{Seen, Watch, timeout};
use crate::apiserver::request::{RequestError, Source};
use crate::object::ResourceVersion;

/// How long the answer may take to begin. A server that does not know what it is asked for, and has nothing to tell, may
/// well say nothing at all; one that is busy refuses within 15 s.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long a server may pause among the initial events. They come from its memory without a pause; one that does not
/// know that it should end them with a bookmark falls silent after the last.
const SILENCE: Duration = Duration::from_secs(10);

/// Which collections are listed by a stream; to be shared.
#[derive(Debug)]
pub(super) struct Streaming {
    wanted: bool,
    /// Paths of those whose server does not serve it. It will not learn before it is another server, and a process that
    /// asks again at every list would pay [`SILENCE`] each time.
    not_served: Mutex<BTreeSet<String>>,
}

impl Streaming {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, not_served: Mutex::default() }
    }

    /// Whether to ask for a stream of `source`.
    pub(super) fn is_worth_asking(&self, source: &Source) -> bool {
        self.wanted && !self.lock().contains(&source.path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.not_served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no list.
#[derive(Debug)]
pub(super) enum NotListed {
    /// This server does not serve it; noted, so that [`Streaming::is_worth_asking`] says no from here on.
    NotServed,
    /// It broke off among the initial events.
    BrokeOff(RequestError),
    /// It did not begin.
    NotBegun(RequestError),
}

/// Reads the collection into `sink`; gives the watch, which goes on after the version that comes with it.
///
/// What was not seen leaves the snapshot, but only once the server says that everything was sent: a stream that breaks off
/// takes nothing out. Neither may a watch go on from where it broke off: the objects come in the order of their names, and
/// their versions say nothing of those that had not come yet.
pub(super) async fn list_and_watch(
    streaming: &Streaming,
    client: &Client,
    source: &Source,
    sink: &Sink,
) -> Result<(Watch, ResourceVersion), NotListed> {
    let not_served = |why: &str| {
        tracing::debug!(r#type = sink.name, why, "no streamed lists here; reading pages from now on");
        streaming.lock().insert(source.path.clone());
        NotListed::NotServed
    };
    let timeout = timeout();
    let request = source.initial_watch_request(timeout).map_err(NotListed::NotBegun)?;
    let mut watch = match tokio::time::timeout(HEAD_WITHIN, Watch::answer(client, request, timeout)).await {
        Ok(Ok(watch)) => watch,
        Ok(Err(RequestError::Invalid { message, .. })) => return Err(not_served(&message)),
        Ok(Err(error)) => return Err(NotListed::NotBegun(error)),
        Err(_) => return Err(not_served("no answer")),
    };
    sink.board.update(&sink.name, |report| report.watch_opens += 1);
    let relist = sink.table.begin_relist();
    loop {
        while let Some(seen) = watch.next_event(sink).map_err(NotListed::BrokeOff)? {
            match seen {
                Seen::Object(_) => {}
                Seen::Bookmark(bookmark) if bookmark.initial_events_end => {
                    sink.queue.delete(sink.type_id, relist.finish());
                    return Ok((watch, bookmark.resource_version));
                }
                // One that serves it holds all others back until then.
                Seen::Bookmark(_) => return Err(not_served("a bookmark without the end of the initial events")),
            }
        }
        match tokio::time::timeout(SILENCE, watch.read(sink)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(NotListed::BrokeOff(watch.rest(sink).err().unwrap_or_else(ended))),
            Ok(Err(error)) => return Err(NotListed::BrokeOff(error)),
            Err(_) => return Err(not_served("silence instead of the end of the initial events")),
        }
    }
}

fn ended() -> RequestError {
    RequestError::Transient("the watch ended before everything there is had come".to_owned())
}
