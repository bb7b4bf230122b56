//! The outbox, case by case.

mod model;

use meshsync_crds::discovery::ServedType;

use super::*;
use crate::object::Uid;
use crate::snapshot::tests::object;
use crate::snapshot::{Confirmation, Store, Table, Told};

struct Bench {
    outbox: OutboxState,
    type_id: TypeId,
    table: std::sync::Arc<Table>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let served = ServedType::named("", "v1", "Thing", "things");
        let (type_id, table) = Store::new().open(&served);
        Self { outbox: OutboxState::default(), type_id, table, now: Instant::now() }
    }

    fn upsert(&mut self, name: &str, uid: &str, version: u64) {
        let prepared = object(name, uid, version, &version.to_string());
        let outcome = self.table.upsert(&prepared);
        self.outbox.record(self.type_id, &prepared, outcome, self.now);
    }

    fn delete(&mut self, uid: &str) {
        let (_, name) = self.table.keys().into_iter().find(|(known, _)| *known == Uid::new(uid)).expect("known");
        let removed = self.table.remove_named(&name).expect("known");
        self.outbox.push(Change::Delete { type_id: self.type_id, removed }, self.now);
    }

    fn resync(&mut self) {
        for (uid, name) in self.table.keys() {
            self.outbox.push(Change::Resync { type_id: self.type_id, name, uid }, self.now);
        }
    }

    fn item(&mut self) -> Item {
        match self.outbox.next(self.now) {
            Next::Item(item) => item,
            other => panic!("no item but {other:?}"),
        }
    }

    /// Takes the next item, makes its message and says what it is.
    fn send(&mut self) -> (String, Item) {
        let item = self.item();
        let told = match &item.action {
            Action::Upsert { uid, .. } => self.table.get_to_publish(&item.name, uid).expect("in the snapshot").told,
            Action::Delete(_) => Told::Yes,
        };
        (format!("{} {}", item.action.event_type(told).as_str(), item.name.name()), item)
    }

    fn confirm(&mut self, item: Item) {
        if let Action::Upsert { uid, .. } = &item.action {
            let hash = self.table.get(&item.name, uid).map_or(0, |object| object.hash);
            self.table.confirm(&item.name, uid, Confirmation { hash, sequence: 0 });
        }
        self.outbox.confirm(item, self.now);
    }

    fn send_and_confirm(&mut self) -> String {
        let (message, item) = self.send();
        self.confirm(item);
        message
    }

    fn idle(&mut self) {
        assert_eq!(self.outbox.next(self.now), Next::Empty);
        assert!(self.outbox.is_empty() && self.outbox.oldest_since().is_none());
    }
}

#[test]
fn names_go_out_in_the_order_of_their_first_change() {
    let mut bench = Bench::new();
    for (name, version) in [("a", 1), ("b", 2), ("c", 3), ("a", 4)] {
        bench.upsert(name, name, version);
    }
    assert_eq!(bench.outbox.len(), 3);
    let sent: Vec<_> = (0..3).map(|_| bench.send_and_confirm()).collect();
    assert_eq!(sent, ["ADDED a", "ADDED b", "ADDED c"]);
    bench.upsert("b", "b", 5);
    assert_eq!(bench.send_and_confirm(), "MODIFIED b");
    bench.idle();
}

#[test]
fn ten_thousand_updates_are_one_message_at_a_time() {
    let mut bench = Bench::new();
    bench.upsert("hot", "hot", 1);
    let (_, item) = bench.send();
    for version in 2..10_000 {
        bench.upsert("hot", "hot", version);
    }
    assert_eq!(bench.outbox.next(bench.now), Next::Empty, "one in flight for a name");
    assert_eq!(bench.outbox.len(), 1);
    bench.confirm(item);
    assert_eq!(bench.send_and_confirm(), "MODIFIED hot");
    bench.idle();
}

#[test]
fn what_nobody_heard_of_leaves_without_a_word() {
    let mut bench = Bench::new();
    bench.upsert("a", "a", 1);
    bench.delete("a");
    bench.idle();
    assert!(bench.outbox.entries.is_empty() && bench.outbox.ready.is_empty(), "nothing may be left behind");
}

#[test]
fn a_delete_beats_the_update_before_it() {
    let mut bench = Bench::new();
    bench.upsert("a", "a", 1);
    bench.send_and_confirm();
    bench.upsert("a", "a", 2);
    bench.delete("a");
    assert_eq!(bench.send_and_confirm(), "DELETED a");
    bench.idle();
}

#[test]
fn a_delete_follows_an_add_that_is_in_flight() {
    let mut bench = Bench::new();
    bench.upsert("a", "a", 1);
    let (_, item) = bench.send();
    bench.delete("a");
    assert_eq!(bench.outbox.next(bench.now), Next::Empty);
    bench.outbox.return_unconfirmed(item);
    assert_eq!(bench.send_and_confirm(), "DELETED a", "the add may have arrived");
    bench.idle();
}

#[test]
fn a_recreation_waits_a_second_after_the_delete_went_out() {
    let mut bench = Bench::new();
    bench.upsert("a", "a1", 1);
    bench.send_and_confirm();
    bench.delete("a1");
    bench.upsert("a", "a2", 2);
    bench.upsert("a", "a2", 3);
    bench.now += RECREATE_DELAY * 5;
    assert_eq!(bench.send_and_confirm(), "DELETED a");
    let until = bench.now + RECREATE_DELAY;
    assert_eq!(bench.outbox.next(bench.now), Next::WaitUntil(until));
    bench.upsert("b", "b", 4);
    assert_eq!(bench.send_and_confirm(), "ADDED b", "others do not wait");
    bench.now = until - Duration::from_millis(1);
    assert_eq!(bench.outbox.next(bench.now), Next::WaitUntil(until));
    bench.now = until;
    assert_eq!(bench.send_and_confirm(), "ADDED a");
    bench.idle();
}

#[test]
fn a_recreation_after_the_delete_was_confirmed_waits_too() {
    let mut bench = Bench::new();
    bench.upsert("a", "a1", 1);
    bench.send_and_confirm();
    bench.delete("a1");
    bench.send_and_confirm();
    bench.now += RECREATE_DELAY / 2;
    bench.upsert("a", "a2", 2);
    assert_eq!(bench.outbox.next(bench.now), Next::WaitUntil(bench.now + RECREATE_DELAY / 2));
    bench.delete("a2");
    assert_eq!(bench.outbox.next(bench.now), Next::Empty, "nobody heard of the second");
    bench.now += RECREATE_DELAY;
    bench.idle();
    assert!(bench.outbox.entries.is_empty() && bench.outbox.held.is_empty(), "nothing may be left behind");
}

#[test]
fn a_missed_delete_becomes_two_messages() {
    let mut bench = Bench::new();
    bench.upsert("a", "a1", 1);
    bench.send_and_confirm();
    bench.upsert("a", "a2", 2);
    assert_eq!(bench.send_and_confirm(), "DELETED a");
    bench.now += RECREATE_DELAY;
    assert_eq!(bench.send_and_confirm(), "ADDED a");
    bench.idle();
}

#[test]
fn what_comes_back_keeps_its_place_and_does_not_overtake_newer_state() {
    let mut bench = Bench::new();
    bench.upsert("a", "a", 1);
    bench.upsert("b", "b", 2);
    let began = bench.now;
    let (_, first) = bench.send();
    bench.now += RECREATE_DELAY;
    bench.upsert("a", "a", 3);
    bench.outbox.return_unconfirmed(first);
    assert_eq!(bench.outbox.oldest_since(), Some(began));
    assert_eq!(bench.outbox.len(), 2);
    let (message, item) = bench.send();
    assert_eq!((message.as_str(), item.since()), ("ADDED a", began), "not confirmed, so still new");
    bench.confirm(item);
    assert_eq!(bench.send_and_confirm(), "ADDED b");
    bench.idle();
}

#[test]
fn telling_of_a_state_is_left_to_what_waits_and_telling_of_a_delete_is_not() {
    let mut bench = Bench::new();
    bench.upsert("a", "u1", 1);
    let (_, sent) = bench.send();
    assert!(!bench.outbox.hand_over(&sent));
    bench.upsert("b", "u2", 2);
    assert!(!bench.outbox.hand_over(&sent), "another name");
    bench.upsert("a", "u1", 3);
    assert!(bench.outbox.hand_over(&sent));
    bench.confirm(sent);
    assert_eq!(bench.send_and_confirm(), "ADDED b");
    assert_eq!(bench.send_and_confirm(), "ADDED a", "whatever state it is by then");
    bench.delete("u1");
    let (message, gone) = bench.send();
    assert_eq!(message, "DELETED a");
    bench.upsert("a", "u3", 4);
    assert!(!bench.outbox.hand_over(&gone));
}

#[test]
fn a_returned_delete_goes_before_the_recreation() {
    let mut bench = Bench::new();
    bench.upsert("a", "a1", 1);
    bench.send_and_confirm();
    bench.delete("a1");
    let (_, delete) = bench.send();
    bench.upsert("a", "a2", 2);
    bench.outbox.return_unconfirmed(delete);
    assert_eq!(bench.send_and_confirm(), "DELETED a");
    bench.now += RECREATE_DELAY;
    assert_eq!(bench.send_and_confirm(), "ADDED a");
    bench.idle();
}

#[test]
fn a_resync_sends_everything_once_more_as_new() {
    let mut bench = Bench::new();
    bench.upsert("a", "a", 1);
    bench.send_and_confirm();
    bench.resync();
    bench.upsert("a", "a", 2);
    bench.resync();
    assert_eq!(bench.outbox.len(), 1, "bursts collapse");
    assert_eq!(bench.send_and_confirm(), "ADDED a");
    bench.idle();
}

#[test]
fn what_was_confirmed_can_be_repeated_unless_something_newer_waits() {
    let mut bench = Bench::new();
    bench.upsert("a", "a1", 1);
    let (_, item) = bench.send();
    let (type_id, name, action) = (item.type_id, item.name.clone(), item.action.clone());
    bench.confirm(item);
    bench.outbox.repeat(type_id, name.clone(), action.clone(), bench.now);
    assert_eq!(bench.send_and_confirm(), "ADDED a", "a state is repeated as new");
    bench.delete("a1");
    bench.outbox.repeat(type_id, name, action, bench.now);
    let (message, delete) = bench.send();
    assert_eq!(message, "DELETED a", "the newer message is enough");
    let (name, action) = (delete.name.clone(), delete.action.clone());
    bench.confirm(delete);
    bench.now += RECREATE_DELAY;
    bench.outbox.repeat(type_id, name, action, bench.now);
    assert_eq!(bench.send_and_confirm(), "DELETED a");
    bench.now += RECREATE_DELAY;
    bench.idle();
}
