//! Bringing together what the stream holds and what the snapshot holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_nats::jetstream::stream::Stream;
use meshsync_crds::discovery::ServedType;

use crate::encode::EventType;
use crate::object::Uid;
use crate::outbox::Action;
use crate::outbox::Outbox;
use crate::plan::ActivePlan;
use crate::publish::latecomers::Note;
use crate::snapshot::{Digest, Removed, Restored, Store, Stored, Table, Told, TypeId};
use crate::stream::{Entry, ReadError, Stamp, Subjects, TypeKey, read_headers};

/// What reading back found.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Objects in the stream.
    pub(super) stored: usize,
    /// Objects that were not known, whose watch has yet to tell about them.
    pub(super) taken: usize,
    /// Objects that are to be sent, because the stream holds another state or none.
    pub(super) resent: usize,
    /// Objects in the stream that do not exist, or whose type is not watched.
    pub(super) ghosts: usize,
    /// Types that need a list whatever their checkpoint says.
    pub(super) to_list: Vec<TypeKey>,
    /// Of each type that is watched, what of it is stored.
    pub(super) digests: HashMap<TypeKey, Digest>,
    /// What is stored, and core subscribers may not have heard of.
    pub(super) untold: Vec<Note>,
    /// Sequence of the newest message about an object.
    pub(super) newest: u64,
}

struct Watched {
    type_id: TypeId,
    served: Arc<ServedType>,
    table: Arc<Table>,
    needs_list: bool,
}

/// What the messages in the stream ought to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Name of the encoding.
    pub(super) encoding: &'a str,
    /// What a message may have: one that was shortened for want of it is made anew.
    pub(super) most_bytes: usize,
}

impl Wanted<'_> {
    fn is_met_by(self, stamp: &Stamp) -> bool {
        stamp.encoding == self.encoding && stamp.needs.is_none_or(|needs| needs > self.most_bytes)
    }
}

/// Stored objects of types that are not watched, by type, apiVersion and kind.
type Strangers = BTreeMap<(TypeKey, String, String), Vec<Removed>>;

/// Reads the stream's headers and queues whatever is needed to make it as the snapshot is. Nothing may be sent meanwhile.
/// What is stored behind the sequence `told` is noted.
pub(super) async fn restore(
    stream: &Stream,
    subjects: &Subjects,
    wanted: Wanted<'_>,
    store: &Store,
    queue: &Outbox,
    active_plan: &ActivePlan,
    told: u64,
) -> Result<Report, ReadError> {
    let mut report = Report::default();
    let mut strangers = Strangers::new();
    let watched = |(type_id, served, table): (TypeId, Arc<ServedType>, Arc<Table>)| {
        table.forget_stored();
        (TypeKey::from(&*served), Watched { type_id, served, table, needs_list: false })
    };
    let mut tables: HashMap<TypeKey, Watched> = store.tables().into_iter().map(watched).collect();

    read_headers(stream, subjects, subjects.all_objects(), |entry| {
        report.newest = report.newest.max(entry.sequence);
        if entry.sequence > told {
            let type_id = tables.get(&entry.key).map(|of| of.type_id);
            report.untold.push(note(&entry, type_id.unwrap_or_else(|| store.intern(&stranger_of(&entry)))));
        }
        if entry.stamp.event == EventType::Deleted {
            return;
        }
        report.stored += 1;
        if !tables.contains_key(&entry.key) && active_plan.discovery.is_in_doubt(&stranger_of(&entry)) {
            // Taken in as if it were watched: it may be named in a moment, and is dropped when it turns out to be gone.
            let (type_id, table) = store.open(&stranger_of(&entry));
            let served = Arc::new(stranger_of(&entry));
            tables.insert(entry.key.clone(), Watched { type_id, served, table, needs_list: false });
        }
        match tables.get_mut(&entry.key).filter(|of| of.served.api_version() == entry.stamp.api_version) {
            Some(of) => take_in(entry, of, wanted, queue, &mut report),
            None => {
                let removed = removed(&entry);
                let Entry { key, stamp, .. } = entry;
                strangers.entry((key, stamp.api_version, stamp.kind)).or_default().push(removed);
            }
        }
    })
    .await?;

    resend_what_was_lost(&tables, queue, &mut report);
    delete_strangers(strangers, store, queue, &mut report);
    report.to_list = tables.into_iter().filter(|(_, of)| of.needs_list).map(|(key, _)| key).collect();
    Ok(report)
}

/// Queues objects that the stream does not hold any more.
fn resend_what_was_lost(tables: &HashMap<TypeKey, Watched>, queue: &Outbox, report: &mut Report) {
    for (key, of) in tables {
        report.digests.insert(key.clone(), of.table.stored_digest());
        for (uid, name) in of.table.lost() {
            report.resent += 1;
            queue.upsert(of.type_id, name, uid);
        }
    }
}

/// Queues the deletion of objects whose types are not watched any more.
fn delete_strangers(strangers: Strangers, store: &Store, queue: &Outbox, report: &mut Report) {
    for ((key, api_version, kind), objects) in strangers {
        let served = stranger(&key, &api_version, kind);
        report.ghosts += objects.len();
        queue.delete(store.intern(&served), objects);
    }
}

fn take_in(entry: Entry, of: &mut Watched, wanted: Wanted<'_>, queue: &Outbox, report: &mut Report) {
    let Entry { key: _, name, stamp, sequence, payload: _ } = entry;
    let hash = wanted.is_met_by(&stamp).then_some(stamp.hash);
    let uid = stamp.uid.unwrap_or_else(|| Uid::named(&name));
    let outdated = hash.is_none();
    let restored = of.table.restore(Stored { uid, name, resource_version: stamp.resource_version, hash, sequence });
    match restored {
        Restored::Same => {}
        Restored::Taken => {
            report.taken += 1;
            of.needs_list |= outdated;
        }
        Restored::Differs { name, uid, replaced } => {
            report.resent += 1;
            queue.delete(of.type_id, replaced);
            queue.upsert(of.type_id, name, uid);
        }
        Restored::Ghost(removed) => {
            report.ghosts += 1;
            queue.delete(of.type_id, [removed]);
        }
    }
}

/// What an entry tells core subscribers.
fn note(entry: &Entry, type_id: TypeId) -> Note {
    let removed = removed(entry);
    let action = match entry.stamp.event {
        EventType::Deleted => Action::Delete(Box::new(removed)),
        EventType::Added | EventType::Modified => Action::Upsert { uid: removed.uid, resync: true },
    };
    Note::new(type_id, entry.name.clone(), action)
}

/// What an entry is about, as something to tell the end of.
fn removed(entry: &Entry) -> Removed {
    let Entry { key: _, name, stamp, sequence, payload: _ } = entry;
    Removed {
        uid: stamp.uid.clone().unwrap_or_else(|| Uid::named(name)),
        name: name.clone(),
        resource_version: stamp.resource_version.clone(),
        told: Told::Yes,
        sequence: *sequence,
    }
}

fn stranger_of(entry: &Entry) -> ServedType {
    stranger(&entry.key, &entry.stamp.api_version, entry.stamp.kind.clone())
}

/// A type of which there are objects in the stream, while it is not watched: as much of it as a delete has to tell.
fn stranger(key: &TypeKey, api_version: &str, kind: String) -> ServedType {
    let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
    ServedType {
        preferred: false,
        namespaced: false,
        ..ServedType::named(key.group.clone(), version, kind, key.plural.clone())
    }
}
