//! What a table holds, under its lock.

use std::collections::HashMap;
use std::sync::Arc;

use meshsync_crds::agent_config::SnapshotMode;

use super::codec::{Codec, Packed};
use super::extent::Extent;
use super::rows::{Row, Rows};
use super::types::{Confirmation, Outcome, Removed, TableStats, Told};
use crate::object::{ObjectName, Prepared, ResourceVersion, Uid};

/// A dictionary is trained once a table holds this many bodies.
const TRAIN_AT: usize = 128;

#[derive(Default)]
pub(super) struct State {
    pub(super) rows: Rows,
    pub(super) codec: Arc<Codec>,
    /// Whether there is a dictionary.
    trained: bool,
    /// Whether there is to be none.
    untrainable: bool,
    mode: SnapshotMode,
    /// Rows with a body.
    bodies: usize,
    /// Number of the newest re-list; rows carry the number of the last one that saw them.
    relist: u32,
    /// Set while that re-list is running.
    running: Option<Running>,
    /// In what the rows are known to be all that exist: a list was finished, or a watch goes on from where one left off.
    pub(super) complete: Option<Extent>,
    /// The newest re-list when a body was last wanted: objects are to be sent whose bodies a later one has yet to bring.
    wanted_at: Option<u32>,
    body_bytes: usize,
    packed_bytes: usize,
    pub(super) closed: bool,
}

/// What only a running re-list needs.
#[derive(Default)]
struct Running {
    /// Objects that left meanwhile: a page made before that may still show them.
    departed: HashMap<ObjectName, Vec<(Uid, ResourceVersion)>>,
    /// See [`super::Relist::accept_older`].
    accept_older: bool,
}

impl State {
    pub(super) fn upsert(&mut self, prepared: &Prepared) -> Outcome {
        if self.closed || self.has_departed(prepared) {
            return Outcome::Stale;
        }
        let relist = self.relist;
        let accept_older = self.accepts_older();
        let Prepared { name, uid, .. } = prepared;
        let Some(row) = self.rows.find_mut(name, uid) else { return self.insert(prepared) };
        row.seen = relist;
        if !accept_older && prepared.resource_version.is_older_than(&row.resource_version) {
            return Outcome::Stale;
        }
        row.resource_version = prepared.resource_version.clone();
        let unchanged = row.hash == prepared.hash;
        row.hash = prepared.hash;
        let confirmed = unchanged && row.is_confirmed();
        let is_wanted = self.mode == SnapshotMode::Full || !confirmed;
        if (unchanged && row.body.is_some()) || !is_wanted {
            return Outcome::Unchanged;
        }
        let body = self.codec.pack(&prepared.body);
        let size = (body.len(), body.packed_len());
        let before = row.body.replace(body);
        self.note_size(size);
        self.forget_size(before.as_ref());
        self.train_if_due();
        // What could not be sent for want of its body can be now.
        if confirmed { Outcome::Unchanged } else { Outcome::Modified }
    }

    pub(super) fn confirm(&mut self, name: &ObjectName, uid: &Uid, confirmation: Confirmation) {
        let mode = self.mode;
        let Some(row) = self.rows.find_mut(name, uid) else { return };
        row.told = Told::Yes;
        row.confirmed_hash = confirmation.hash;
        row.sequence = confirmation.sequence;
        if mode == SnapshotMode::HashOnly && row.is_confirmed() {
            let body = row.body.take();
            self.forget_size(body.as_ref());
        }
    }

    pub(super) fn set_mode(&mut self, mode: SnapshotMode) {
        self.mode = mode;
        if mode == SnapshotMode::Full {
            return;
        }
        let confirmed = self.rows.iter_mut().filter(|row| row.is_confirmed());
        let dropped: Vec<_> = confirmed.filter_map(|row| row.body.take()).collect();
        dropped.iter().for_each(|body| self.forget_size(Some(body)));
        if self.bodies == 0 {
            self.codec = Arc::default();
            self.trained = false;
        }
    }

    fn insert(&mut self, prepared: &Prepared) -> Outcome {
        let is_older = |namesake: &Row| prepared.resource_version.is_older_than(&namesake.resource_version);
        // A late message about an incarnation that the namesake followed.
        if !self.accepts_older() && self.rows.find_named(&prepared.name).is_some_and(is_older) {
            return Outcome::Stale;
        }
        let replaced = self.remove_named(&prepared.name);
        let Prepared { uid, name, resource_version, hash, body, deleting: _ } = prepared;
        let body = self.codec.pack(body);
        self.note_size((body.len(), body.packed_len()));
        self.rows.insert(Row {
            uid: uid.clone(),
            name: name.clone(),
            resource_version: resource_version.clone(),
            hash: *hash,
            body: Some(body),
            told: Told::No,
            confirmed_hash: 0,
            sequence: 0,
            seen: self.relist,
        });
        self.train_if_due();
        Outcome::Added { replaced }
    }

    /// Of Secrets: pieces of values do not belong into memory that outlives them.
    pub(super) fn forbid_dictionary(&mut self) {
        self.untrainable = true;
    }

    /// A dictionary takes memory, too: it is not worth it for bodies that are held for a moment.
    fn train_if_due(&mut self) {
        let may_train = !self.trained && !self.untrainable;
        if may_train && self.mode == SnapshotMode::Full && self.bodies >= TRAIN_AT {
            self.train();
        }
    }

    /// Trains a dictionary on the rows there are and packs them again with it.
    fn train(&mut self) {
        self.trained = true;
        let packed = self.rows.iter().filter_map(|row| row.body.as_ref());
        let bodies: Vec<_> = packed.filter_map(|body| self.codec.unpack(body)).collect();
        let Some(codec) = Codec::train(bodies.iter().map(|body| &**body)) else { return };
        let before = std::mem::replace(&mut self.codec, Arc::new(codec));
        self.packed_bytes = 0;
        for packed in self.rows.iter_mut().filter_map(|row| row.body.as_mut()) {
            if let Some(body) = before.unpack(packed) {
                *packed = self.codec.pack(&body);
            }
            self.packed_bytes += packed.packed_len();
        }
    }

    pub(super) fn delete(&mut self, last: &Prepared) -> Option<Removed> {
        // Whichever incarnation it is: an event about a later one says that ours is gone, too.
        let row = self.rows.find_named(&last.name)?;
        let is_final = row.uid == last.uid && !row.uid.is_named();
        if !is_final && last.resource_version.is_older_than(&row.resource_version) {
            return None;
        }
        let mut removed = self.remove_named(&last.name)?;
        if removed.resource_version.is_older_than(&last.resource_version) {
            removed.resource_version = last.resource_version.clone();
        }
        Some(removed)
    }

    pub(super) fn remove_named(&mut self, name: &ObjectName) -> Option<Removed> {
        let row = self.rows.remove_named(name)?;
        self.forget_size(row.body.as_ref());
        if let Some(running) = &mut self.running {
            let departed = running.departed.entry(row.name.clone()).or_default();
            departed.push((row.uid.clone(), row.resource_version.clone()));
        }
        Some(row.into())
    }

    /// Whether the object left during the re-list that is running, and this is a state from before.
    fn has_departed(&self, prepared: &Prepared) -> bool {
        let departed = self.running.as_ref().and_then(|running| running.departed.get(&prepared.name));
        departed.into_iter().flatten().any(|(uid, last)| {
            let may_be_back = uid.is_named() && last.is_older_than(&prepared.resource_version);
            *uid == prepared.uid && !may_be_back
        })
    }

    fn note_size(&mut self, (body, packed): (usize, usize)) {
        self.bodies += 1;
        self.body_bytes += body;
        self.packed_bytes += packed;
    }

    fn forget_size(&mut self, body: Option<&Packed>) {
        let Some(body) = body else { return };
        self.bodies -= 1;
        self.body_bytes = self.body_bytes.saturating_sub(body.len());
        self.packed_bytes = self.packed_bytes.saturating_sub(body.packed_len());
    }

    pub(super) fn stats(&self) -> TableStats {
        TableStats {
            objects: self.rows.len(),
            body_bytes: self.body_bytes,
            packed_bytes: self.packed_bytes + self.codec.memory(),
        }
    }

    pub(super) fn close(&mut self) -> Vec<Removed> {
        let rows = self.rows.remove_unless(|_| false);
        *self = Self { closed: true, mode: self.mode, ..Self::default() };
        rows.into_iter().map(Removed::from).collect()
    }

    /// Takes the object for one whose state was not confirmed; whether it is known at all.
    pub(super) fn doubt(&mut self, name: &ObjectName, uid: &Uid) -> bool {
        let Some(row) = self.rows.find_mut(name, uid) else { return false };
        row.confirmed_hash = !row.hash;
        true
    }

    /// Notes that the object is to be sent, although its body is not here; whether it is known at all.
    pub(super) fn want_body(&mut self, name: &ObjectName, uid: &Uid) -> bool {
        if !self.doubt(name, uid) {
            return false;
        }
        self.wanted_at = Some(self.relist);
        true
    }

    pub(super) const fn awaits_list(&self) -> bool {
        self.wanted_at.is_some()
    }

    pub(super) fn begin_relist(&mut self) -> u32 {
        self.relist = self.relist.wrapping_add(1);
        self.running = Some(Running::default());
        self.relist
    }

    pub(super) fn accept_older(&mut self, number: u32) {
        if let Some(running) = self.running.as_mut().filter(|_| self.relist == number) {
            running.accept_older = true;
        }
    }

    pub(super) fn finish_relist(&mut self, number: u32, extent: &Extent) -> Vec<Removed> {
        if self.running.is_none() || self.relist != number {
            return Vec::new();
        }
        let gone = self.rows.remove_unless(|row| row.seen == number || !extent.covers(&row.name));
        for row in &gone {
            self.forget_size(row.body.as_ref());
        }
        self.complete = Some(match self.complete.take() {
            Some(before) => before.and_then(extent),
            None => extent.clone(),
        });
        // One that was running may have passed the object by, and one of a namespace is not about those of others.
        if *extent == Extent::All {
            self.wanted_at.take_if(|wanted_at| *wanted_at != number);
        }
        gone.into_iter().map(Removed::from).collect()
    }

    pub(super) fn end_relist(&mut self, number: u32) {
        if self.relist == number {
            self.running = None;
        }
    }

    fn accepts_older(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.accept_older)
    }
}
