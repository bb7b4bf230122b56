//! The outbox against a consumer that must end up with the truth.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
