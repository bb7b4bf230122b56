//! The paged list: reads a whole collection, a few hundred objects at a time.

use kube::Client;

use super::intake::Sink;
use super::pages::{PageSize, Pages};
use super::places::Place;
use super::resume::is_known;
use crate::apiserver::request::{Reason, RequestError, Source};
use crate::object::ResourceVersion;
use crate::snapshot::Extent;

/// What is listed, and how.
pub(super) struct ListTask<'a, 'p> {
    pub(super) client: &'a Client,
    pub(super) source: &'a Source,
    pub(super) sink: &'a Sink,
    pub(super) place: &'a mut Place<'p>,
    /// What of the type is in it.
    pub(super) extent: Extent,
    /// Set where the server forgot the state of the list, so that its rest is newer than its beginning.
    pub(super) is_renewed: bool,
}

impl ListTask<'_, '_> {
    /// Reads the collection and returns the version that a watch may begin from.
    ///
    /// What was not seen leaves the snapshot, but only after the last page arrived: a list that breaks off takes nothing out.
    /// A consistent list is never older than what was `seen` of the collection, unless etcd is: then it is read once more, and
    /// what it says holds although the snapshot knows later versions. (Which pages are of such a list is known only at their
    /// end.)
    ///
    /// A list that its server forgets before the end is read once more in one answer: by pages it would end there again.
    pub(super) async fn run(
        &mut self,
        size: PageSize,
        seen: &ResourceVersion,
    ) -> Result<ResourceVersion, RequestError> {
        let version = match self.read_all(size, false).await {
            Err(RequestError::Relist(Reason::Expired { .. })) if size != PageSize::WHOLE => {
                tracing::debug!(r#type = self.sink.name, "the list took too long: reading it in one answer");
                self.read_all(PageSize::WHOLE, false).await?
            }
            listed => listed?,
        };
        if !is_known(&version) || !version.is_older_than(seen) {
            return Ok(version);
        }
        tracing::warn!(
            r#type = self.sink.name, %version, %seen,
            "the cluster is older than it was, as after a restore from a backup: taking it as it is"
        );
        self.read_all(size, true).await
    }

    async fn read_all(&mut self, size: PageSize, accept_older: bool) -> Result<ResourceVersion, RequestError> {
        let relist = self.sink.table.begin_relist();
        if accept_older {
            relist.accept_older();
        }
        let version = self.read_pages(size).await?;
        // An object that no page showed did not exist at the version of the page that it would have been on.
        self.sink.queue.delete(self.sink.type_id, relist.finish_within(&self.extent));
        Ok(version)
    }

    /// Reads the collection into the sink, which loses nothing by it; gives the version of its first page.
    pub(super) async fn read_pages(&mut self, size: PageSize) -> Result<ResourceVersion, RequestError> {
        let Self { client, source, sink, place, is_renewed, extent: _ } = self;
        let mut pages = Pages::new(client, (*source).clone(), size);
        let mut version: Option<ResourceVersion> = None;
        while let Some(page) = pages.next(place, |object| sink.take_in(object)).await? {
            // All pages of one consistent list carry the version of the first. Of one whose rest is newer, a watch from that
            // version tells what the first pages missed.
            let seen = version.get_or_insert_with(|| page.version.clone());
            if is_known(&page.version) && page.version.is_older_than(seen) {
                let (server, seen) = (page.version, seen.clone());
                return Err(RequestError::Relist(Reason::ServerIsOlder { server, seen }));
            }
            sink.board.update(&sink.name, |report| report.bytes += page.bytes as u64);
            page.passed_over.iter().for_each(|error| sink.unreadable(error));
            sink.make_room().await;
        }
        *is_renewed = pages.is_renewed;
        Ok(version.unwrap_or_default())
    }
}

/// The version of the collection as it is now, which a watch from a later one would never say: it waits until that comes.
pub(super) async fn current_version(client: &Client, source: &Source) -> Result<ResourceVersion, RequestError> {
    let source = Source { metadata_only: true, ..source.clone() };
    let page = Pages::new(client, source, PageSize::ONE).next(&mut Place::unlimited(), |_| {}).await?;
    Ok(page.map(|page| page.version).unwrap_or_default())
}
