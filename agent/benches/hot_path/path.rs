//! All steps after each other, as the agent takes them.

use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use meshsync_agent::encode::{Detail, meshery};
use meshsync_agent::object::{FrameSplitter, ListPage, Prepared, TypeContext, WatchEvent, prepare, prepare_outline};
use meshsync_agent::outbox::{Action, Next, Outbox};
use meshsync_agent::snapshot::{Confirmation, Store, Table, TypeId};
use meshsync_crds::discovery::ServedType;

use crate::objects::Kind;

pub(crate) const CLUSTER_ID: &str = "0b0c7f3e-1f0a-4b7e-9d55-6f0c5d6c1a2b";

/// Objects on a page, and pages: 2,000 pods.
const PAGE: usize = 500;
const PAGES: usize = 4;

pub(crate) fn prepared(kind: Kind, index: usize) -> Prepared {
    prepare(kind.object(index).as_bytes(), &kind.context()).unwrap()
}

/// A store with a table for pods.
pub(crate) fn pods_type() -> (Arc<Store>, TypeId, Arc<Table>) {
    let served = ServedType { singular: "pod".to_owned(), ..ServedType::named("", "v1", "Pod", "pods") };
    let store = Store::new();
    let (type_id, table) = store.open(&served);
    (store, type_id, table)
}

struct Path {
    context: TypeContext,
    type_id: TypeId,
    table: Arc<Table>,
    outbox: Outbox,
}

impl Path {
    fn new() -> Self {
        let (_, type_id, table) = pods_type();
        Self { context: Kind::Pod.context(), type_id, table, outbox: Outbox::default() }
    }

    fn take_in(&self, prepared: &Prepared) {
        let outcome = self.table.upsert(prepared);
        self.outbox.record(self.type_id, prepared, outcome);
    }

    fn publish(&self) {
        while let Next::Item(item) = self.outbox.next() {
            if let Action::Upsert { uid, .. } = &item.action {
                let object = self.table.get_to_publish(&item.name, uid).unwrap();
                let body = object.body.unwrap();
                let mut out = Vec::with_capacity(body.len() + body.len() / 4 + 512);
                let event = item.action.event_type(object.told);
                meshery::encode_event(event, &body, CLUSTER_ID, Detail::Full, &mut out).unwrap();
                black_box(out);
                self.table.confirm(&item.name, uid, Confirmation { hash: object.hash, sequence: 1 });
            }
            self.outbox.confirm(item);
        }
    }

    #[inline(never)]
    fn measured_list(&self, pages: &[String]) {
        for page in pages {
            for item in ListPage::parse(page.as_bytes()).unwrap().items {
                self.take_in(&prepare_outline(&item, &self.context).unwrap());
            }
            self.publish();
        }
    }

    #[inline(never)]
    fn measured_events(&self, chunks: &[&[u8]]) {
        let mut frames = FrameSplitter::default();
        for chunk in chunks {
            frames.push(chunk);
            while let Some(frame) = frames.next_frame().unwrap() {
                let event = WatchEvent::parse(frame).unwrap();
                self.take_in(&event.prepare(&self.context).unwrap());
                self.publish();
            }
        }
    }
}

fn pages() -> Vec<String> {
    (0..PAGES).map(|page| Kind::Pod.page(page * PAGE..(page + 1) * PAGE)).collect()
}

/// First list of 2,000 pods, all of which are published.
#[divan::bench(sample_count = 10)]
fn list_to_messages(bencher: Bencher<'_, '_>) {
    let pages = pages();
    let bytes = BytesCount::new(pages.iter().map(String::len).sum::<usize>());
    bencher.counter(bytes).with_inputs(Path::new).bench_local_refs(|path| path.measured_list(&pages));
}

/// 2,000 events about pods that are known; each says something new and is published.
#[divan::bench(sample_count = 10)]
fn events_to_messages(bencher: Bencher<'_, '_>) {
    let stream: String = (0..PAGE * PAGES).map(|index| Kind::Pod.event(index) + "\n").collect();
    let old: Vec<_> = (0..PAGE * PAGES).map(|index| Prepared { hash: 1, ..prepared(Kind::Pod, index) }).collect();
    let known = || {
        let path = Path::new();
        old.iter().for_each(|pod| path.take_in(pod));
        path.publish();
        path
    };
    let chunks: Vec<_> = stream.as_bytes().chunks(16 * 1024).collect();
    bencher
        .counter(BytesCount::of_str(&stream))
        .with_inputs(known)
        .bench_local_refs(|path| path.measured_events(&chunks));
}
