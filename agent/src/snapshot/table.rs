//! All objects of one type.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::{Codec, Packed};
use super::rows::{Row, Rows};
use super::scan::Scan;
use crate::object::{ObjectName, Prepared, ResourceVersion, Uid};

/// A dictionary is trained once a table holds this many objects.
const TRAIN_AT: usize = 128;

/// What consumers know of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Nothing was ever sent.
    #[default]
    No,
    /// Something was sent and is not confirmed: they may know it.
    Maybe,
    /// A message about it was confirmed.
    Yes,
}

/// What [`Table::upsert`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object was not known.
    Added {
        /// An earlier incarnation under the same name, whose delete nobody reported.
        replaced: Option<Removed>,
    },
    /// The object changed in something that is published.
    Modified,
    /// The same state, or a new resourceVersion with the same content: nothing to publish.
    Unchanged,
    /// Older than what the table holds, or the table is closed: ignored.
    Stale,
}

/// An object that left a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its uid.
    pub uid: Uid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The last version that was known.
    pub resource_version: ResourceVersion,
    /// Whether consumers have to be told.
    pub told: Told,
}

impl From<Row> for Removed {
    fn from(row: Row) -> Self {
        let Row { uid, name, resource_version, told, hash: _, body: _, seen: _ } = row;
        Self { uid, name, resource_version, told }
    }
}

/// A copy of one row, its body unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its uid.
    pub uid: Uid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The newest version that was seen. `body` may hold an older one whose content is the same.
    pub resource_version: ResourceVersion,
    /// See [`Prepared::hash`].
    pub hash: u64,
    /// What consumers knew when the copy was made.
    pub told: Told,
    /// See [`Prepared::body`].
    pub body: Vec<u8>,
}

/// Size of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Objects held.
    pub objects: usize,
    /// Bytes of their bodies.
    pub body_bytes: usize,
    /// Bytes that the bodies take compressed, dictionary included.
    pub packed_bytes: usize,
}

/// All objects of one type. Every method takes the table's own lock for a short time; none is held between calls.
#[derive(Default)]
pub struct Table {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    codec: Arc<Codec>,
    trained: bool,
    /// Number of the newest re-list; rows carry the number of the last one that saw them.
    relist: u32,
    /// Objects that left while a re-list was running: a page made before that may still show them.
    departed: Option<HashMap<Uid, ResourceVersion>>,
    body_bytes: usize,
    packed_bytes: usize,
    closed: bool,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; if it did, a row at worst would be missing until the next list.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a state of an object, from a list or from a watch.
    pub fn upsert(&self, prepared: &Prepared) -> Outcome {
        self.lock().upsert(prepared)
    }

    /// Takes out an object that a `DELETED` event reports; `last` is the state that came with the event.
    ///
    /// `None` when the table holds nothing that the event can mean.
    pub fn delete(&self, last: &Prepared) -> Option<Removed> {
        self.lock().delete(last)
    }

    /// Takes out an object by uid.
    pub fn remove(&self, uid: &Uid) -> Option<Removed> {
        self.lock().remove(uid)
    }

    /// Takes out an object by name.
    pub fn remove_named(&self, name: &ObjectName) -> Option<Removed> {
        let mut state = self.lock();
        let uid = state.rows.find_named(name)?.uid.clone();
        state.remove(&uid)
    }

    /// Begins a re-list: what is not seen from here to [`Relist::finish`] has left the cluster. Nothing is cleared, and a
    /// later `begin_relist` makes an unfinished one void.
    #[must_use]
    pub fn begin_relist(self: &Arc<Self>) -> Relist {
        let mut state = self.lock();
        state.relist = state.relist.wrapping_add(1);
        state.departed = Some(HashMap::new());
        Relist { table: Arc::clone(self), number: state.relist }
    }

    /// A copy of the object.
    #[must_use]
    pub fn get(&self, uid: &Uid) -> Option<Object> {
        let state = self.lock();
        let row = state.rows.find(uid)?.clone();
        let codec = Arc::clone(&state.codec);
        drop(state);
        unpack(row, &codec)
    }

    /// A copy of the object of that name.
    #[must_use]
    pub fn get_named(&self, name: &ObjectName) -> Option<Object> {
        let state = self.lock();
        let row = state.rows.find_named(name)?.clone();
        let codec = Arc::clone(&state.codec);
        drop(state);
        unpack(row, &codec)
    }

    /// A copy of the object in order to send it: from here on consumers may know it, so its delete will be published.
    /// `told` of the copy is what held before.
    #[must_use]
    pub fn get_to_publish(&self, uid: &Uid) -> Option<Object> {
        let mut state = self.lock();
        let row = state.rows.find_mut(uid)?;
        let copy = row.clone();
        row.told = row.told.max(Told::Maybe);
        let codec = Arc::clone(&state.codec);
        drop(state);
        unpack(copy, &codec)
    }

    /// Notes that consumers have been told of the object. Without effect if it has left.
    pub fn confirm(&self, uid: &Uid) {
        if let Some(row) = self.lock().rows.find_mut(uid) {
            row.told = Told::Yes;
        }
    }

    /// Uid and name of every object, in no particular order.
    #[must_use]
    pub fn keys(&self) -> Vec<(Uid, ObjectName)> {
        self.lock().rows.iter().map(|row| (row.uid.clone(), row.name.clone())).collect()
    }

    /// Walks over copies of all objects, taking the lock only now and then. An object that is there during the whole walk
    /// is given exactly once; others at most once.
    #[must_use]
    pub fn scan(self: &Arc<Self>) -> Scan {
        Scan::new(Arc::clone(self))
    }

    /// Copies up to `limit` rows from slot `from` on, with the slot to go on from and the codec that packed them.
    pub(super) fn copy_rows(&self, from: usize, limit: usize) -> (Vec<Row>, Option<usize>, Arc<Codec>) {
        let state = self.lock();
        let end = state.rows.slots().min(from.saturating_add(limit));
        let rows = (from..end).filter_map(|slot| state.rows.slot(slot).cloned()).collect();
        (rows, (end < state.rows.slots()).then_some(end), Arc::clone(&state.codec))
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().rows.len()
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the table.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        let state = self.lock();
        TableStats {
            objects: state.rows.len(),
            body_bytes: state.body_bytes,
            packed_bytes: state.packed_bytes + state.codec.memory(),
        }
    }

    /// Empties the table for good: whoever still holds it can add nothing.
    pub(super) fn close(&self) -> Vec<Removed> {
        let mut state = self.lock();
        let removed = state.rows.remove_unless(|_| false).into_iter().map(Removed::from).collect();
        *state = State { closed: true, ..State::default() };
        removed
    }

    fn finish_relist(&self, number: u32) -> Vec<Removed> {
        let mut state = self.lock();
        if state.relist != number || state.closed {
            return Vec::new();
        }
        state.departed = None;
        let gone = state.rows.remove_unless(|row| row.seen == number);
        for row in &gone {
            state.forget_size(&row.body);
        }
        gone.into_iter().map(Removed::from).collect()
    }

    fn abandon_relist(&self, number: u32) {
        let mut state = self.lock();
        if state.relist == number {
            state.departed = None;
        }
    }
}

impl State {
    fn upsert(&mut self, prepared: &Prepared) -> Outcome {
        if self.closed || self.has_departed(prepared) {
            return Outcome::Stale;
        }
        let relist = self.relist;
        let Some(row) = self.rows.find_mut(&prepared.uid) else { return self.insert(prepared) };
        row.seen = relist;
        if prepared.resource_version.is_older_than(&row.resource_version) {
            return Outcome::Stale;
        }
        row.resource_version = prepared.resource_version.clone();
        if row.hash == prepared.hash && row.name == prepared.name {
            return Outcome::Unchanged;
        }
        let body = self.codec.pack(&prepared.body);
        row.hash = prepared.hash;
        let before = std::mem::replace(&mut row.body, body);
        self.packed_bytes += row.body.packed_len();
        self.body_bytes += row.body.len();
        self.forget_size(&before);
        Outcome::Modified
    }

    fn insert(&mut self, prepared: &Prepared) -> Outcome {
        let namesake = self.rows.find_named(&prepared.name).map(|row| (row.uid.clone(), row.resource_version.clone()));
        let replaced = match namesake {
            // A late message about an incarnation that this one followed.
            Some((_, version)) if prepared.resource_version.is_older_than(&version) => return Outcome::Stale,
            Some((uid, _)) => self.remove(&uid),
            None => None,
        };
        let Prepared { uid, name, resource_version, hash, body, deleting: _ } = prepared;
        let body = self.codec.pack(body);
        self.packed_bytes += body.packed_len();
        self.body_bytes += body.len();
        self.rows.insert(Row {
            uid: uid.clone(),
            name: name.clone(),
            resource_version: resource_version.clone(),
            hash: *hash,
            body,
            told: Told::No,
            seen: self.relist,
        });
        if !self.trained && self.rows.len() >= TRAIN_AT {
            self.train();
        }
        Outcome::Added { replaced }
    }

    /// Trains a dictionary on the rows there are and packs them again with it.
    fn train(&mut self) {
        self.trained = true;
        let bodies: Vec<_> = self.rows.iter().filter_map(|row| self.codec.unpack(&row.body)).collect();
        let Some(codec) = Codec::train(bodies.iter().map(Vec::as_slice)) else { return };
        let before = std::mem::replace(&mut self.codec, Arc::new(codec));
        self.packed_bytes = 0;
        for row in self.rows.iter_mut() {
            if let Some(body) = before.unpack(&row.body) {
                row.body = self.codec.pack(&body);
            }
            self.packed_bytes += row.body.packed_len();
        }
    }

    fn delete(&mut self, last: &Prepared) -> Option<Removed> {
        let row = match self.rows.find(&last.uid) {
            Some(row) => row,
            // Names are unique: an event about a later namesake says that ours is gone, too.
            None => self.rows.find_named(&last.name)?,
        };
        let is_final = row.uid == last.uid && !row.uid.is_named();
        if !is_final && last.resource_version.is_older_than(&row.resource_version) {
            return None;
        }
        let uid = row.uid.clone();
        let mut removed = self.remove(&uid)?;
        if removed.resource_version.is_older_than(&last.resource_version) {
            removed.resource_version = last.resource_version.clone();
        }
        Some(removed)
    }

    fn remove(&mut self, uid: &Uid) -> Option<Removed> {
        let row = self.rows.remove(uid)?;
        self.forget_size(&row.body);
        if let Some(departed) = &mut self.departed {
            departed.insert(row.uid.clone(), row.resource_version.clone());
        }
        Some(row.into())
    }

    /// Whether the object left during the re-list that is running, and this is a state from before.
    fn has_departed(&self, prepared: &Prepared) -> bool {
        let Some(last) = self.departed.as_ref().and_then(|departed| departed.get(&prepared.uid)) else { return false };
        !prepared.uid.is_named() || !last.is_older_than(&prepared.resource_version)
    }

    fn forget_size(&mut self, body: &Packed) {
        self.body_bytes = self.body_bytes.saturating_sub(body.len());
        self.packed_bytes = self.packed_bytes.saturating_sub(body.packed_len());
    }
}

/// A re-list under way. Dropped unfinished, it takes nothing out.
pub struct Relist {
    table: Arc<Table>,
    number: u32,
}

impl Relist {
    /// Takes out what was not seen since the re-list began. Objects touched by live events count as seen. Nothing happens
    /// if another re-list began meanwhile.
    #[must_use = "each removed object must reach the outbox as a delete"]
    pub fn finish(self) -> Vec<Removed> {
        self.table.finish_relist(self.number)
    }
}

impl Drop for Relist {
    fn drop(&mut self) {
        self.table.abandon_relist(self.number);
    }
}

pub(super) fn unpack(row: Row, codec: &Codec) -> Option<Object> {
    let body = codec.unpack(&row.body)?;
    let Row { uid, name, resource_version, hash, told, body: _, seen: _ } = row;
    Some(Object { uid, name, resource_version, hash, told, body })
}
