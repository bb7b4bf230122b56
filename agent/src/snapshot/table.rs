//! All objects of one type.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshsync_crds::agent_config::SnapshotMode;
use tokio::sync::Notify;

use super::codec::Codec;
use super::digest::Digest;
use super::extent::Extent;
use super::rows::{Row, unpack};
use super::state::State;
use super::types::{Confirmation, Object, Outcome, Removed, Restored, Stored, TableStats, Told};
use crate::object::{ObjectName, Prepared, ResourceVersion, Uid};

/// All objects of one type. Every method takes the table's own lock for a short time; none is held between calls.
#[derive(Default)]
pub struct Table {
    state: Mutex<State>,
    list_wanted: Notify,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An empty table whose bodies are compressed one by one: a dictionary would hold parts of them.
    #[must_use]
    pub fn without_dictionary() -> Arc<Self> {
        let table = Self::new();
        table.lock().forbid_dictionary();
        table
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; if it did, a row at worst would be missing until the next list.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how much of each object is held from here on. Bodies that are not to be held go; those that are, and are not
    /// there, come with the next list.
    pub fn set_mode(&self, mode: SnapshotMode) {
        self.lock().set_mode(mode);
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

    /// Takes out an object by name.
    pub fn remove_named(&self, name: &ObjectName) -> Option<Removed> {
        self.lock().remove_named(name)
    }

    /// Begins a re-list: what is not seen from here to [`Relist::finish`] has left the cluster. Nothing is cleared, and a
    /// later `begin_relist` makes an unfinished one void.
    #[must_use]
    pub fn begin_relist(self: &Arc<Self>) -> Relist {
        let number = self.lock().begin_relist();
        Relist { table: Arc::clone(self), number }
    }

    /// A copy of the object. Neither name nor uid is enough: a name has one incarnation after the other, and several objects
    /// may be given one uid.
    #[must_use]
    pub fn get(&self, name: &ObjectName, uid: &Uid) -> Option<Object> {
        let state = self.lock();
        let row = state.rows.find(name, uid)?.clone();
        let codec = Arc::clone(&state.codec);
        drop(state);
        Some(unpack(row, &codec))
    }

    /// A copy of the object of that name.
    #[must_use]
    pub fn get_named(&self, name: &ObjectName) -> Option<Object> {
        let state = self.lock();
        let row = state.rows.find_named(name)?.clone();
        let codec = Arc::clone(&state.codec);
        drop(state);
        Some(unpack(row, &codec))
    }

    /// A copy of the object in order to send it: from here on consumers may know it, so its delete will be published.
    /// `told` of the copy is what held before.
    #[must_use]
    pub fn get_to_publish(&self, name: &ObjectName, uid: &Uid) -> Option<Object> {
        let mut state = self.lock();
        let row = state.rows.find_mut(name, uid)?;
        let copy = row.clone();
        row.told = row.told.max(Told::Maybe);
        let codec = Arc::clone(&state.codec);
        drop(state);
        Some(unpack(copy, &codec))
    }

    /// Notes what consumers have been told of the object. Without effect if it has left.
    pub fn confirm(&self, name: &ObjectName, uid: &Uid, confirmation: Confirmation) {
        self.lock().confirm(name, uid, confirmation);
    }

    /// Notes that another state may have been told than the one that was confirmed last: whatever the object is like now has
    /// to be sent, even if it is just that one.
    pub fn doubt(&self, name: &ObjectName, uid: &Uid) {
        self.lock().doubt(name, uid);
    }

    /// Forgets which messages the stream holds, before they are read back through [`Table::restore`].
    pub fn forget_stored(&self) {
        self.lock().forget_stored();
    }

    /// Brings in what the stream holds about one object.
    #[must_use = "a difference must reach the outbox"]
    pub fn restore(&self, stored: Stored) -> Restored {
        self.lock().restore(stored)
    }

    /// Objects that consumers were told of and that [`Table::restore`] did not meet since [`Table::forget_stored`].
    #[must_use = "what the stream lost has to be sent again"]
    pub fn lost(&self) -> Vec<(Uid, ObjectName)> {
        self.lock().lost()
    }

    /// Asks for a list: an object is to be sent whose body is not here. When the list brings it, it is sent.
    pub fn want_body(&self, name: &ObjectName, uid: &Uid) {
        if self.lock().want_body(name, uid) {
            self.list_wanted.notify_one();
        }
    }

    /// Whether [`Table::want_body`] was called and no list that began later was finished: what waits for that is in no outbox.
    #[must_use]
    pub fn awaits_list(&self) -> bool {
        self.lock().awaits_list()
    }

    /// Whether there are objects whose body is not here.
    #[must_use]
    pub fn lacks_bodies(&self) -> bool {
        self.lock().rows.iter().any(|row| row.body.is_none())
    }

    /// Waits until somebody wants a list.
    pub async fn list_wanted(&self) {
        self.list_wanted.notified().await;
    }

    /// Number of the objects that are stored in the stream, and a digest of them that does not depend on their order.
    #[must_use]
    pub fn stored_digest(&self) -> Digest {
        self.lock().stored_digest()
    }

    /// Takes the objects for all that existed at the position that a watch now goes on from, as a finished list does.
    pub fn resume(&self) {
        self.lock().resume();
    }

    /// The newest version of any object.
    #[must_use]
    pub fn newest_version(&self) -> ResourceVersion {
        let state = self.lock();
        let versions = state.rows.iter().map(|row| &row.resource_version);
        versions
            .fold(&ResourceVersion::None, |newest, version| {
                if *newest == ResourceVersion::None || newest.is_older_than(version) { version } else { newest }
            })
            .clone()
    }

    /// Uid and name of every object, in no particular order.
    #[must_use]
    pub fn keys(&self) -> Vec<(Uid, ObjectName)> {
        self.lock().rows.iter().map(|row| (row.uid.clone(), row.name.clone())).collect()
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
        self.lock().stats()
    }

    /// Empties the table for good: whoever still holds it can add nothing.
    pub(super) fn close(&self) -> Vec<Removed> {
        self.lock().close()
    }
}

/// A re-list under way. Dropped unfinished, it takes nothing out.
pub struct Relist {
    table: Arc<Table>,
    number: u32,
}

impl Relist {
    /// Lets states with an older resourceVersion replace newer ones until the re-list ends. For a consistent list whose own
    /// version is older than what was seen before, which means that etcd was restored from a backup.
    pub fn accept_older(&self) {
        self.table.lock().accept_older(self.number);
    }

    /// Takes out what was not seen since the re-list began. Objects touched by live events count as seen. Nothing happens
    /// if another re-list began meanwhile.
    #[must_use = "each removed object must reach the outbox as a delete"]
    pub fn finish(self) -> Vec<Removed> {
        self.finish_within(&Extent::All)
    }

    /// As [`Relist::finish`] of a re-list that was not of everything: what it could not have seen stays.
    #[must_use = "each removed object must reach the outbox as a delete"]
    pub fn finish_within(self, extent: &Extent) -> Vec<Removed> {
        self.table.lock().finish_relist(self.number, extent)
    }
}

impl Drop for Relist {
    fn drop(&mut self) {
        self.table.lock().end_relist(self.number);
    }
}
