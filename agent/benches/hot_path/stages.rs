//! Each step alone.

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use meshsync_agent::encode::{Detail, EventType, kubernetes, meshery};
use meshsync_agent::object::{FrameSplitter, ListPage, Outline, Prepared, WatchEvent, prepare, prepare_outline};
use meshsync_agent::outbox::{Next, Outbox};
use meshsync_agent::snapshot::{Codec, Outcome, Table};
use xxhash_rust::xxh3::xxh3_64;

use crate::objects::{KINDS, Kind};
use crate::path::{CLUSTER_ID, pods_type, prepared};

/// Bytes that a connection gives at a time.
const CHUNK: usize = 16 * 1024;

#[divan::bench]
fn frames(bencher: Bencher<'_, '_>) {
    let stream: String = (0..64).map(|index| Kind::Pod.event(index) + "\n").collect();
    bencher.counter(BytesCount::of_str(&stream)).bench_local(|| {
        let mut frames = FrameSplitter::default();
        for chunk in black_box(stream.as_bytes()).chunks(CHUNK) {
            frames.push(chunk);
            while let Some(frame) = frames.next_frame().unwrap() {
                black_box(frame);
            }
        }
    });
}

#[divan::bench]
fn list_page(bencher: Bencher<'_, '_>) {
    let page = Kind::Pod.page(0..100);
    bencher.counter(BytesCount::of_str(&page)).bench_local(|| ListPage::parse(black_box(page.as_bytes())).unwrap());
}

#[divan::bench(args = KINDS)]
fn watch_event(bencher: Bencher<'_, '_>, kind: Kind) {
    let event = kind.event(1);
    bencher.counter(BytesCount::of_str(&event)).bench_local(|| WatchEvent::parse(black_box(event.as_bytes())).unwrap());
}

#[divan::bench(name = "prepare", args = KINDS)]
fn prepare_object(bencher: Bencher<'_, '_>, kind: Kind) {
    let (raw, context) = (kind.object(1), kind.context());
    bencher.counter(BytesCount::of_str(&raw)).bench_local(|| prepare(black_box(raw.as_bytes()), &context).unwrap());
}

#[divan::bench(name = "prepare_outline", args = KINDS)]
fn prepare_listed(bencher: Bencher<'_, '_>, kind: Kind) {
    let (raw, context) = (kind.object(1), kind.context());
    let outline = Outline::parse(&raw).unwrap();
    bencher.counter(BytesCount::of_str(&raw)).bench_local(|| prepare_outline(black_box(&outline), &context).unwrap());
}

#[divan::bench(args = KINDS)]
fn hash(bencher: Bencher<'_, '_>, kind: Kind) {
    let body = prepared(kind, 1).body;
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| xxh3_64(black_box(&body)));
}

/// A codec as a table of that kind has it.
fn trained(kind: Kind) -> Codec {
    let bodies: Vec<_> = (0..128).map(|index| prepared(kind, index).body).collect();
    Codec::train(bodies.iter().map(|body| &**body)).unwrap()
}

#[divan::bench(args = KINDS)]
fn pack(bencher: Bencher<'_, '_>, kind: Kind) {
    let (codec, body) = (trained(kind), prepared(kind, 1_000).body);
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| codec.pack(black_box(&body)));
}

#[divan::bench(args = KINDS)]
fn unpack(bencher: Bencher<'_, '_>, kind: Kind) {
    let (codec, body) = (trained(kind), prepared(kind, 1_000).body);
    let packed = codec.pack(&body);
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| codec.unpack(black_box(&packed)).unwrap());
}

/// A table that has its dictionary, and 1,000 pods.
fn table() -> (Arc<Table>, Vec<Prepared>) {
    let table = Table::new();
    let pods: Vec<_> = (0..1_000).map(|index| prepared(Kind::Pod, index)).collect();
    pods.iter().for_each(|pod| drop(table.upsert(pod)));
    (table, pods)
}

#[divan::bench]
fn upsert_unchanged(bencher: Bencher<'_, '_>) {
    let (table, pods) = table();
    bencher.counter(BytesCount::of_slice(&pods[1].body)).bench_local(|| table.upsert(black_box(&pods[1])));
}

#[divan::bench]
fn upsert_modified(bencher: Bencher<'_, '_>) {
    let (table, mut pods) = table();
    let pod = &mut pods[1];
    bencher.counter(BytesCount::of_slice(&pod.body)).bench_local(|| {
        pod.hash = pod.hash.wrapping_add(1);
        table.upsert(black_box(pod))
    });
}

#[divan::bench]
fn upsert_added(bencher: Bencher<'_, '_>) {
    let (table, pods) = table();
    bencher.counter(BytesCount::of_slice(&pods[1].body)).bench_local(|| {
        table.remove_named(&pods[1].name);
        table.upsert(black_box(&pods[1]))
    });
}

#[divan::bench]
fn outbox(bencher: Bencher<'_, '_>) {
    let pods: Vec<_> = (0..1_000).map(|index| prepared(Kind::Pod, index)).collect();
    let (_, type_id, _) = pods_type();
    let outbox = Outbox::default();
    bencher.counter(ItemsCount::new(pods.len())).bench_local(|| {
        for pod in &pods {
            outbox.record(type_id, pod, Outcome::Modified);
        }
        while let Next::Item(item) = outbox.next() {
            outbox.confirm(item);
        }
    });
}

#[divan::bench(args = KINDS)]
fn encode_meshery(bencher: Bencher<'_, '_>, kind: Kind) {
    let body = prepared(kind, 1).body;
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| {
        let mut out = Vec::with_capacity(2 * body.len());
        meshery::encode_event(EventType::Modified, black_box(&body), CLUSTER_ID, Detail::Full, &mut out).unwrap();
        out
    });
}

#[divan::bench(args = KINDS)]
fn encode_kubernetes(bencher: Bencher<'_, '_>, kind: Kind) {
    let body = prepared(kind, 1).body;
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| {
        let mut out = Vec::with_capacity(2 * body.len());
        kubernetes::encode_event(EventType::Modified, black_box(&body), Detail::Full, &mut out).unwrap();
        out
    });
}

#[divan::bench(args = KINDS)]
fn unpack_and_encode(bencher: Bencher<'_, '_>, kind: Kind) {
    let (codec, body) = (trained(kind), prepared(kind, 1_000).body);
    let packed = codec.pack(&body);
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| {
        let body = codec.unpack(black_box(&packed)).unwrap();
        let mut out = Vec::with_capacity(2 * body.len());
        meshery::encode_event(EventType::Modified, &body, CLUSTER_ID, Detail::Full, &mut out).unwrap();
        out
    });
}
