//! The outbox by case, and against a consumer that must end up with the truth.

use std::collections::BTreeMap;

use meshsync_crds::discovery::ServedType;
use proptest::prelude::*;

use super::*;
use crate::snapshot::tests::object;
use crate::snapshot::{Confirmation, Store, Table};

struct Bench {
    outbox: Outbox,
    type_id: TypeId,
    table: std::sync::Arc<Table>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let served = ServedType {
            group: String::new(),
            version: "v1".to_owned(),
            preferred: true,
            kind: "Thing".to_owned(),
            plural: "things".to_owned(),
            singular: String::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let (type_id, table) = Store::new().open(&served);
        Self { outbox: Outbox::new(), type_id, table, now: Instant::now() }
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

#[derive(Clone, Debug)]
enum Step {
    Upsert(u8),
    Recreate(u8),
    Delete(u8),
    Send,
    Confirm,
    /// The broker is lost; whether what was in flight had arrived is open.
    Lose(bool),
    Wait,
    Resync,
    /// What was confirmed lately is published again.
    Repeat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4).prop_map(Step::Upsert),
        2 => (0_u8..4).prop_map(Step::Recreate),
        3 => (0_u8..4).prop_map(Step::Delete),
        6 => Just(Step::Send),
        4 => Just(Step::Confirm),
        1 => any::<bool>().prop_map(Step::Lose),
        2 => Just(Step::Wait),
        1 => Just(Step::Resync),
        1 => Just(Step::Repeat),
    ]
}

/// A consumer that keeps what it is told, and the cluster that it should come to equal.
struct World {
    bench: Bench,
    version: u64,
    /// Name → (uid, version of its content).
    cluster: BTreeMap<String, (String, u64)>,
    consumer: BTreeMap<String, String>,
    ever_sent: std::collections::BTreeSet<String>,
    deleted_at: BTreeMap<String, Instant>,
    in_flight: VecDeque<(Item, Option<(String, String)>)>,
    /// The last confirmed message about each name, by type and name.
    confirmed: HashMap<(TypeId, ObjectName), Action>,
}

impl World {
    fn apply(&mut self, step: &Step) {
        self.version += 1;
        let version = self.version;
        match step {
            Step::Upsert(id) => {
                let name = format!("n{id}");
                let uid = self.cluster.get(&name).map_or_else(|| format!("u{version}"), |(uid, _)| uid.clone());
                self.exist(name, uid);
            }
            Step::Recreate(id) => self.exist(format!("n{id}"), format!("u{version}")),
            Step::Delete(id) => {
                if let Some((uid, _)) = self.cluster.remove(&format!("n{id}")) {
                    self.bench.delete(&uid);
                }
            }
            Step::Send => self.send(),
            Step::Confirm => {
                if let Some((item, message)) = self.in_flight.pop_front() {
                    self.deliver(&item, message);
                    self.confirmed.insert((item.type_id, item.name.clone()), item.action.clone());
                    self.bench.confirm(item);
                }
            }
            Step::Lose(arrived) => {
                for (item, message) in std::mem::take(&mut self.in_flight) {
                    if *arrived {
                        self.deliver(&item, message);
                    }
                    self.bench.outbox.return_unconfirmed(item);
                }
            }
            Step::Wait => self.bench.now += RECREATE_DELAY / 3,
            Step::Resync => self.bench.resync(),
            Step::Repeat => {
                for ((type_id, name), action) in std::mem::take(&mut self.confirmed) {
                    self.bench.outbox.repeat(type_id, name, action, self.bench.now);
                }
            }
        }
        assert!(self.bench.outbox.len() <= 4, "one entry a name");
    }

    fn exist(&mut self, name: String, uid: String) {
        self.bench.upsert(&name, &uid, self.version);
        self.cluster.insert(name, (uid, self.version));
    }

    fn send(&mut self) {
        let Next::Item(item) = self.bench.outbox.next(self.bench.now) else { return };
        let message = match &item.action {
            Action::Delete(_) => {
                assert!(self.ever_sent.contains(item.name.name()), "a delete of what nobody heard of");
                None
            }
            Action::Upsert { uid, .. } => {
                let Some(object) = self.bench.table.get_to_publish(&item.name, uid) else {
                    self.bench.outbox.confirm(item, self.bench.now);
                    return;
                };
                self.ever_sent.insert(item.name.name().to_owned());
                let body = String::from_utf8(object.body.unwrap().into_json()).unwrap();
                Some((item.action.event_type(object.told).as_str().to_owned(), body))
            }
        };
        self.in_flight.push_back((item, message));
    }

    fn deliver(&mut self, item: &Item, message: Option<(String, String)>) {
        let name = item.name.name().to_owned();
        let Some((event, body)) = message else {
            self.consumer.remove(&name);
            self.deleted_at.insert(name, self.bench.now);
            return;
        };
        if event == "MODIFIED" {
            assert!(self.consumer.contains_key(&name), "MODIFIED without ADDED");
        } else if let Some(at) = self.deleted_at.get(&name) {
            assert!(self.bench.now - *at >= RECREATE_DELAY, "{name} came back within one batch of the server");
        }
        self.consumer.insert(name, body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_consumer_ends_up_with_the_truth(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World {
            bench: Bench::new(),
            version: 0,
            cluster: BTreeMap::new(),
            consumer: BTreeMap::new(),
            ever_sent: Default::default(),
            deleted_at: BTreeMap::new(),
            in_flight: VecDeque::new(),
            confirmed: HashMap::new(),
        };
        for step in &steps {
            world.apply(step);
        }
        for _ in 0..64 {
            world.apply(&Step::Send);
            world.apply(&Step::Confirm);
            world.apply(&Step::Wait);
        }
        prop_assert!(world.bench.outbox.is_empty() && world.bench.outbox.entries.is_empty());
        let truth: BTreeMap<_, _> = world
            .cluster
            .iter()
            .map(|(name, (uid, version))| {
                (name.clone(), String::from_utf8(object(name, uid, *version, &version.to_string()).body.into_json()).unwrap())
            })
            .collect();
        prop_assert_eq!(world.consumer, truth);
    }
}
