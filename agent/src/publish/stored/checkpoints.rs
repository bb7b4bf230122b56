//! Which positions may be stored: those before which nothing waits, be it in the outbox or for a list.

use std::collections::HashMap;

use crate::object::ResourceVersion;
use crate::outbox::Outbox;
use crate::snapshot::TypeId;
use crate::stream::{Position, Progress};

/// Follows the positions of all watches and gives each out once everything before it is confirmed.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// A position, and the place in the outbox that all of its changes are before.
    candidates: HashMap<TypeId, (Position, u64)>,
    /// What was given out last.
    given: HashMap<TypeId, ResourceVersion>,
}

impl Checkpoints {
    /// Positions that may be stored now and were not before. Of a type that `awaits_list` there is none: objects are to be
    /// sent that no outbox knows of, until the list has brought them.
    pub(super) fn due(
        &mut self,
        progress: &Progress,
        queue: &Outbox,
        awaits_list: impl Fn(TypeId) -> bool,
    ) -> Vec<(TypeId, Position)> {
        // The positions first, the place in the outbox last: whatever is recorded between them may be missing from the
        // positions, never the other way round.
        let mut positions = progress.positions();
        positions.retain(|type_id, _| !awaits_list(*type_id));
        let next_order = queue.next_order();
        self.candidates.retain(|type_id, _| positions.contains_key(type_id));
        self.given.retain(|type_id, _| positions.contains_key(type_id));
        for (type_id, position) in positions {
            if self.given.get(&type_id) != Some(&position.version) {
                self.candidates.entry(type_id).or_insert((position, next_order));
            }
        }
        let oldest = queue.oldest_orders();
        let ready = |type_id: &TypeId, order: u64| oldest.get(type_id).is_none_or(|oldest| *oldest >= order);
        let due: Vec<_> = self.candidates.extract_if(|type_id, (_, order)| ready(type_id, *order)).collect();
        due.into_iter()
            .map(|(type_id, (position, _))| {
                self.given.insert(type_id, position.version.clone());
                (type_id, position)
            })
            .collect()
    }

    /// A checkpoint was not stored: it is due again.
    pub(super) fn failed(&mut self, type_id: TypeId) {
        self.given.remove(&type_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Next;
    use crate::snapshot::tests::object;
    use crate::snapshot::{Outcome, Store};
    use crate::stream::TypeKey;

    struct Bench {
        progress: Progress,
        queue: Outbox,
        checkpoints: Checkpoints,
        type_id: TypeId,
        awaits_list: bool,
    }

    impl Bench {
        fn new() -> Self {
            let type_id = Store::new().open(&crate::snapshot::tests::served("things", &[])).0;
            Self {
                progress: Progress::default(),
                queue: Outbox::default(),
                checkpoints: Checkpoints::default(),
                type_id,
                awaits_list: false,
            }
        }

        fn change(&self, name: &str, version: u64) {
            let prepared = object(name, &format!("uid-{name}"), version, "x");
            self.queue.record(self.type_id, &prepared, Outcome::Added { replaced: None });
            self.advance(version);
        }

        fn advance(&self, version: u64) {
            let key = TypeKey { group: String::new(), plural: "things".into() };
            let position = Position { key, version: ResourceVersion::Number(version), fingerprint: 1 };
            self.progress.advance(self.type_id, position);
        }

        fn due(&mut self) -> Vec<String> {
            let due = self.checkpoints.due(&self.progress, &self.queue, |_| self.awaits_list);
            due.into_iter().map(|(_, position)| position.version.to_string()).collect()
        }

        fn confirm_next(&self) {
            let Next::Item(item) = self.queue.next() else { panic!("nothing waits") };
            self.queue.confirm(item);
        }
    }

    #[test]
    fn no_position_is_given_before_its_changes_are_confirmed() {
        let mut bench = Bench::new();
        bench.change("a", 5);
        assert_eq!(bench.due(), Vec::<String>::new());
        let Next::Item(in_flight) = bench.queue.next() else { panic!() };
        assert_eq!(bench.due(), Vec::<String>::new(), "in flight is not confirmed");
        bench.queue.return_unconfirmed(in_flight);
        assert_eq!(bench.due(), Vec::<String>::new());
        bench.confirm_next();
        assert_eq!(bench.due(), ["5"]);
        assert_eq!(bench.due(), Vec::<String>::new(), "once is enough");
    }

    #[test]
    fn a_type_that_never_rests_has_checkpoints_nevertheless() {
        let mut bench = Bench::new();
        bench.change("a", 5);
        assert_eq!(bench.due(), Vec::<String>::new());
        bench.change("b", 6);
        bench.confirm_next();
        assert_eq!(bench.due(), ["5"], "what came later does not hold it up");
        bench.change("c", 7);
        assert_eq!(bench.due(), Vec::<String>::new());
        bench.confirm_next();
        assert_eq!(bench.due(), Vec::<String>::new(), "c came before the candidate 7 was taken");
        bench.confirm_next();
        assert_eq!(bench.due(), ["7"]);
    }

    #[test]
    fn no_position_is_given_while_a_list_has_yet_to_bring_what_is_to_be_sent() {
        let mut bench = Bench::new();
        bench.advance(5);
        bench.awaits_list = true;
        assert_eq!(bench.due(), Vec::<String>::new());
        // The list has brought it, and the position has yet to move.
        bench.change("a", 5);
        bench.awaits_list = false;
        assert_eq!(bench.due(), Vec::<String>::new(), "it is not stored yet");
        bench.confirm_next();
        assert_eq!(bench.due(), ["5"]);
    }

    #[test]
    fn a_bookmark_alone_moves_the_checkpoint_and_a_failure_repeats_it() {
        let mut bench = Bench::new();
        bench.advance(9);
        assert_eq!(bench.due(), ["9"]);
        bench.checkpoints.failed(bench.type_id);
        assert_eq!(bench.due(), ["9"]);
        bench.progress.forget(bench.type_id);
        assert_eq!(bench.due(), Vec::<String>::new());
    }
}
