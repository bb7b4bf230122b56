//! One list of one type, for those who do not watch, in as much of the cluster as may be read.

use std::collections::VecDeque;
use std::sync::Arc;

use kube::Client;

use super::board::Board;
use super::intake::Sink;
use super::list::ListTask;
use super::pages::{PageSize, Pages};
use super::places::Place;
use super::scope::Scope;
use crate::apiserver::request::{RequestError, Source};
use crate::object::{Outline, Prepared, ResourceVersion, TypeContext, prepare_outline};
use crate::outbox::Outbox;
use crate::plan::WatchSpec;
use crate::snapshot::{Extent, Store};

/// How far a list came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The one namespace that was read, where all were wanted and are not to be read.
    pub only: Option<String>,
    /// Namespaces that were wanted by name and could not be read.
    pub unread: Vec<(String, RequestError)>,
}

/// Lists one type into `store`, once: in the namespaces that `spec` names, else everywhere. Where that is forbidden, it is
/// listed in the client's own namespace, as `kubectl get` would.
///
/// # Errors
/// Why nothing, or in a single list not all, could be read; what was read until then is in the store.
pub async fn list_once(
    client: &Client,
    spec: &WatchSpec,
    store: &Store,
    queue: &Arc<Outbox>,
    board: &Arc<Board>,
) -> Result<Reach, RequestError> {
    let sink = Sink::new(spec, store.open(&spec.selected.served), Arc::clone(queue), Arc::clone(board));
    let size = PageSize::of(spec.mode);
    let named = &spec.namespaces.include;
    if spec.selected.served.namespaced && !named.is_empty() {
        return list_in(client, spec, &sink, size).await;
    }
    let (source, place) = (Source::of(spec), &mut Place::unlimited());
    let mut task = ListTask { client, source: &source, sink: &sink, place, extent: Extent::All, is_renewed: false };
    match task.run(size, &ResourceVersion::None).await {
        Err(everywhere) if everywhere.is_forbidden() && spec.selected.served.namespaced => {
            let own = client.default_namespace();
            match read_namespace(client, &Source::in_namespace(spec, own), &sink, size).await {
                Ok(()) => Ok(Reach { only: Some(own.to_owned()), unread: Vec::new() }),
                Err(_) => Err(everywhere),
            }
        }
        other => other.map(|_| Reach::default()),
    }
}

/// Lists in each namespace that `spec` names. One that cannot be read does not keep the others from it.
async fn list_in(client: &Client, spec: &WatchSpec, sink: &Sink, size: PageSize) -> Result<Reach, RequestError> {
    let named = spec.namespaces.include.iter().filter(|namespace| spec.namespaces.allows(namespace));
    let (mut read, mut unread) = (0, Vec::new());
    for namespace in named {
        match read_namespace(client, &Source::in_namespace(spec, namespace), sink, size).await {
            Ok(()) => read += 1,
            Err(error) => unread.push((namespace.clone(), error)),
        }
    }
    match unread.pop() {
        Some((_, error)) if read == 0 => Err(error),
        last => {
            unread.extend(last);
            Ok(Reach { only: None, unread })
        }
    }
}

async fn read_namespace(client: &Client, source: &Source, sink: &Sink, size: PageSize) -> Result<(), RequestError> {
    let place = &mut Place::unlimited();
    let mut task = ListTask { client, source, sink, place, extent: Extent::All, is_renewed: false };
    task.read_pages(size).await.map(drop)
}

/// A list whose objects are not kept.
pub struct Listing<'a> {
    client: &'a Client,
    spec: &'a WatchSpec,
    context: TypeContext,
    pages: Pages<'a>,
    /// What follows after these pages.
    sources: VecDeque<Source>,
    only: Option<Vec<String>>,
}

impl<'a> Listing<'a> {
    /// Of all objects that `spec` wants; where it is forbidden to list everywhere, of those in the namespaces that it names,
    /// or in the client's own.
    #[must_use]
    pub fn new(client: &'a Client, spec: &'a WatchSpec) -> Self {
        let pages = Pages::new(client, Source::of(spec), PageSize::small(spec.mode));
        Self { client, spec, context: spec.context(), pages, sources: VecDeque::new(), only: None }
    }

    /// Of all objects that `spec` wants in `scope`, and nowhere else.
    #[must_use]
    pub fn within(client: &'a Client, spec: &'a WatchSpec, scope: &Scope) -> Self {
        let mut this = Self::new(client, spec);
        if let Scope::Namespaces(namespaces) = scope {
            this.sources = scope.sources(spec).into();
            let first = this.sources.pop_front().unwrap_or_else(|| Source::of(spec));
            this.pages = Pages::new(client, first, PageSize::small(spec.mode));
            this.only = Some(namespaces.clone());
        }
        this
    }

    /// The objects of the next page, which may be none; `None` after the last page.
    ///
    /// # Errors
    /// Why it could not be read.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Prepared>>, RequestError> {
        loop {
            let read = self.read_page().await;
            match read {
                Ok(Some(objects)) => return Ok(Some(objects)),
                Err(error) if !(error.is_forbidden() && self.narrow()) => return Err(error),
                Ok(None) | Err(_) => {}
            }
            let Some(source) = self.sources.pop_front() else { return Ok(None) };
            self.pages = Pages::new(self.client, source, PageSize::small(self.spec.mode));
        }
    }

    /// The namespaces that are listed, where it is forbidden to list everywhere.
    #[must_use]
    pub fn only(&self) -> Option<&[String]> {
        self.only.as_deref()
    }

    async fn read_page(&mut self) -> Result<Option<Vec<Prepared>>, RequestError> {
        let Self { spec, context, pages, .. } = self;
        let mut objects = Vec::new();
        let take = |item: &Outline<'_>| match prepare_outline(item, context) {
            Ok(prepared) if spec.wants(&prepared.name) => objects.push(prepared),
            Ok(_) => {}
            Err(error) => {
                let name = spec.selected.served.name();
                tracing::warn!(r#type = name, %error, "passed over something unreadable");
            }
        };
        Ok(pages.next(&mut Place::unlimited(), take).await?.map(|_| objects))
    }

    /// Goes on namespace by namespace; false if there is no such way, or it is already gone.
    fn narrow(&mut self) -> bool {
        if self.only.is_some() {
            return false;
        }
        let scope = Scope::fallback(self.spec, self.client.default_namespace());
        let Some(scope @ Scope::Namespaces(namespaces)) = &scope else { return false };
        self.sources = scope.sources(self.spec).into();
        self.only = Some(namespaces.clone());
        true
    }
}
