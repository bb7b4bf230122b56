//! What the stream holds, brought together with what the snapshot holds.
//!
//! Reading back may happen at any time: before the first list (the agent was restarted), after it (the broker came late),
//! or long after (the broker lost something). Whatever the order, the stream ends up as the cluster is.

use super::digest::Digest;
use super::extent::Extent;
use super::rows::Row;
use super::state::State;
use super::types::{Removed, Restored, Stored, Told};
use crate::object::{ObjectName, Uid};

impl State {
    /// Forgets what is stored; objects keep what consumers were told.
    pub(super) fn forget_stored(&mut self) {
        for row in self.rows.iter_mut() {
            row.sequence = 0;
        }
    }

    pub(super) fn restore(&mut self, stored: Stored) -> Restored {
        let Stored { uid, name, resource_version, hash, sequence } = stored;
        if let Some(row) = self.rows.find_mut(&name, &uid) {
            row.sequence = sequence;
            row.told = Told::Yes;
            row.confirmed_hash = hash.unwrap_or(!row.hash);
            return if row.is_confirmed() { Restored::Same } else { Restored::Differs { name, uid, replaced: None } };
        }
        let gone = Removed { uid, name, resource_version, told: Told::Yes, sequence };
        if let Some(namesake) = self.rows.find_named(&gone.name).map(|row| row.uid.clone()) {
            return Restored::Differs { name: gone.name.clone(), uid: namesake, replaced: Some(gone) };
        }
        if self.closed || self.complete.as_ref().is_some_and(|extent| extent.covers(&gone.name)) {
            return Restored::Ghost(gone);
        }
        let Removed { uid, name, resource_version, told, sequence } = gone;
        // An unknown hash differs from whatever a list shows.
        let hash = hash.unwrap_or_default();
        let row = Row { uid, name, resource_version, hash, body: None, told, confirmed_hash: hash, sequence, seen: 0 };
        self.rows.insert(row);
        Restored::Taken
    }

    /// Objects that consumers were told of and that [`Self::restore`] did not meet since [`Self::forget_stored`]: the
    /// stream lost them, or never had them.
    pub(super) fn lost(&mut self) -> Vec<(Uid, ObjectName)> {
        let lost = self.rows.iter_mut().filter(|row| row.sequence == 0 && row.told == Told::Yes);
        lost.map(|row| {
            row.confirmed_hash = !row.hash;
            (row.uid.clone(), row.name.clone())
        })
        .collect()
    }

    pub(super) fn stored_digest(&self) -> Digest {
        let stored = self.rows.iter().filter(|row| row.sequence > 0);
        stored.fold(Digest::default(), |digest, row| digest.with(&row.uid, &row.name, row.confirmed_hash))
    }

    /// Takes the rows for all that exist, as of the position that a watch goes on from.
    pub(super) fn resume(&mut self) {
        self.complete = Some(Extent::All);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::object::Prepared;
    use crate::snapshot::tests::object;
    use crate::snapshot::{Confirmation, Outcome, Table};

    fn stored(prepared: &Prepared, sequence: u64) -> Stored {
        let Prepared { uid, name, resource_version, hash, deleting: _, body: _ } = prepared.clone();
        Stored { uid, name, resource_version, hash: Some(hash), sequence }
    }

    #[test]
    fn after_a_restart_a_list_tells_only_what_changed_meanwhile() {
        let table = Table::new();
        for (name, uid, sequence) in [("same", "u1", 1), ("changed", "u2", 2), ("gone", "u3", 3)] {
            assert_eq!(table.restore(stored(&object(name, uid, 5, "one"), sequence)), Restored::Taken);
        }
        let relist = table.begin_relist();
        assert_eq!(table.upsert(&object("same", "u1", 5, "one")), Outcome::Unchanged);
        assert_eq!(table.upsert(&object("changed", "u2", 9, "two")), Outcome::Modified);
        assert_eq!(table.upsert(&object("new", "u4", 9, "one")), Outcome::Added { replaced: None });
        let gone = relist.finish();
        assert_eq!(gone.len(), 1);
        assert_eq!((gone[0].name.name(), gone[0].told, gone[0].sequence), ("gone", Told::Yes, 3));
        let same = table.get(&ObjectName::new(Some("ns"), "same"), &Uid::new("u1")).unwrap();
        assert!(same.confirmed && same.body.is_some(), "the list brings the body");
    }

    #[test]
    fn a_stream_that_comes_after_the_list_is_brought_in_line_with_it() {
        let table = Table::new();
        let relist = table.begin_relist();
        table.upsert(&object("same", "u1", 5, "one"));
        table.upsert(&object("changed", "u2", 9, "two"));
        table.upsert(&object("again", "u5", 9, "one"));
        assert_eq!(relist.finish(), []);
        assert_eq!(table.restore(stored(&object("same", "u1", 5, "one"), 1)), Restored::Same);
        let name = |name| ObjectName::new(Some("ns"), name);
        assert_eq!(
            table.restore(stored(&object("changed", "u2", 5, "one"), 2)),
            Restored::Differs { name: name("changed"), uid: Uid::new("u2"), replaced: None }
        );
        let before = stored(&object("again", "u4", 5, "one"), 3);
        let Restored::Differs { uid, replaced: Some(replaced), .. } = table.restore(before) else { panic!() };
        assert_eq!((uid, replaced.uid, replaced.sequence), (Uid::new("u5"), Uid::new("u4"), 3));
        let Restored::Ghost(ghost) = table.restore(stored(&object("gone", "u3", 5, "one"), 4)) else { panic!() };
        assert_eq!((ghost.name, ghost.told, ghost.sequence), (name("gone"), Told::Yes, 4));
    }

    #[test]
    fn what_the_stream_lost_is_found() {
        let table = Table::new();
        for (name, uid) in [("kept", "u1"), ("lost", "u2"), ("unsent", "u3")] {
            table.upsert(&object(name, uid, 5, "one"));
        }
        for (name, uid) in [("kept", "u1"), ("lost", "u2")] {
            let (name, uid) = (ObjectName::new(Some("ns"), name), Uid::new(uid));
            let hash = table.get(&name, &uid).unwrap().hash;
            table.confirm(&name, &uid, Confirmation { hash, sequence: 7 });
        }
        table.forget_stored();
        assert_eq!(table.restore(stored(&object("kept", "u1", 5, "one"), 7)), Restored::Same);
        let lost: BTreeSet<_> = table.lost().into_iter().map(|(_, name)| name.name().to_owned()).collect();
        assert_eq!(lost, BTreeSet::from(["lost".to_owned()]));
        assert!(!table.get(&ObjectName::new(Some("ns"), "lost"), &Uid::new("u2")).unwrap().confirmed);
    }

    #[test]
    fn a_state_that_may_not_be_the_last_one_told_is_told_again() {
        let table = Table::new();
        let one = object("a", "u1", 5, "one");
        table.upsert(&one);
        table.confirm(&one.name, &one.uid, Confirmation { hash: one.hash, sequence: 0 });
        // Another was sent, and nobody knows whether it arrived; then the object was as before again.
        table.upsert(&object("a", "u1", 6, "two"));
        table.doubt(&one.name, &one.uid);
        table.upsert(&object("a", "u1", 7, "one"));
        assert!(!table.get(&one.name, &one.uid).unwrap().confirmed);
    }

    #[test]
    fn a_message_of_another_encoding_is_made_again() {
        let table = Table::new();
        let known = object("a", "u1", 5, "one");
        table.upsert(&known);
        let other = Stored { hash: None, ..stored(&known, 1) };
        assert!(matches!(table.restore(other.clone()), Restored::Differs { replaced: None, .. }));
        let table = Table::new();
        assert_eq!(table.restore(other), Restored::Taken);
        assert_eq!(table.upsert(&known), Outcome::Modified);
    }
}
