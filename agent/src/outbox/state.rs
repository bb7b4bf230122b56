//! What consumers are still to be told, one entry per object name whatever happened to it.
//!
//! The outbox holds keys, never bodies: a message is made from the snapshot at the moment it is sent, so however long the
//! broker is away, only the newest state waits. Its size is bounded by the objects that exist or that consumers know.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::change::{Action, Change};
use super::pending::Pending;
use crate::object::{ObjectName, Prepared};
use crate::snapshot::{Outcome, TypeId};

/// How long a re-creation waits after the delete of the same name went out. Meshery Server collects up to 500 ms and then
/// applies all upserts before all deletes: both in one batch would end with no row.
pub const RECREATE_DELAY: Duration = Duration::from_secs(1);

/// Entries for which there is room even when nothing waits.
const KEPT_CAPACITY: usize = 1_024;

/// One message to be made. It must come back through [`OutboxState::confirm`] or [`OutboxState::return_unconfirmed`]; until then
/// nothing else about the same name is handed out.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "confirm it or return it, or its object is never sent again"]
pub struct Item {
    /// Type of the object.
    pub type_id: TypeId,
    /// Name of the object.
    pub name: ObjectName,
    /// What to send.
    pub action: Action,
    place: Place,
}

impl Item {
    /// When the change entered the outbox.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.place.since
    }
}

/// Answer of [`OutboxState::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this.
    Item(Item),
    /// Nothing may go out before this time.
    WaitUntil(Instant),
    /// Nothing to send until something is pushed, confirmed or returned.
    Empty,
}

type Key = (TypeId, ObjectName);

/// See the module. Not shared by itself: put it behind a lock and wake the publisher after a push.
#[derive(Debug, Default)]
pub(super) struct OutboxState {
    entries: HashMap<Key, Entry>,
    /// Keys that may go out now, in the order of their oldest unsent change.
    ready: BTreeMap<u64, Key>,
    /// Names whose delete went out less than [`RECREATE_DELAY`] ago, oldest first.
    held: VecDeque<(Instant, Key)>,
    /// Held names about which something waits.
    held_waiting: usize,
    /// Names about which something waits or is in flight.
    busy: usize,
    next_order: u64,
}

#[derive(Debug, Default)]
struct Entry {
    waiting: Option<(Place, Pending)>,
    /// Place of what is in flight.
    in_flight: Option<Place>,
    /// A re-creation may not go out yet.
    held: bool,
}

/// Place in the queue; it comes back with an item that was not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    order: u64,
    since: Instant,
}

impl Entry {
    fn ready_place(&self) -> Option<u64> {
        let may_go = self.in_flight.is_none() && !self.held;
        self.waiting.as_ref().filter(|_| may_go).map(|(place, _)| place.order)
    }

    fn is_busy(&self) -> bool {
        self.waiting.is_some() || self.in_flight.is_some()
    }

    fn is_held_waiting(&self) -> bool {
        self.held && self.waiting.is_some()
    }
}

impl OutboxState {
    /// Records what [`crate::snapshot::Table::upsert`] did with `prepared`.
    pub(super) fn record(&mut self, type_id: TypeId, prepared: &Prepared, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Added { replaced } => {
                if let Some(removed) = replaced {
                    self.push(Change::Delete { type_id, removed }, now);
                }
            }
            Outcome::Modified => {}
            Outcome::Unchanged | Outcome::Stale => return,
        }
        self.push(Change::Upsert { type_id, name: prepared.name.clone(), uid: prepared.uid.clone() }, now);
    }

    /// Records a change; it replaces what it makes superfluous.
    pub(super) fn push(&mut self, change: Change, now: Instant) {
        match change {
            Change::Upsert { type_id, name, uid } => {
                self.merge((type_id, name), now, |pending| Some(Pending::then_upsert(pending, uid, false)));
            }
            Change::Resync { type_id, name, uid } => {
                self.merge((type_id, name), now, |pending| Some(Pending::then_upsert(pending, uid, true)));
            }
            Change::Delete { type_id, removed } => {
                let key = (type_id, removed.name.clone());
                self.merge(key, now, |pending| Pending::then_delete(pending, Box::new(removed)));
            }
        }
    }

    /// What to send now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        self.release_held(now);
        let key = self.ready.first_key_value().map(|(_, key)| key.clone());
        let taken = key.and_then(|key| {
            let (place, action) = self.change(&key, |entry| {
                let (place, pending) = entry.waiting.take()?;
                let (action, rest) = pending.split();
                entry.waiting = rest.map(|rest| (place, rest));
                entry.in_flight = Some(place);
                Some((place, action))
            })?;
            Some(Item { type_id: key.0, name: key.1, action, place })
        });
        match (taken, self.held.front()) {
            (Some(item), _) => Next::Item(item),
            (None, Some((until, _))) if self.held_waiting > 0 => Next::WaitUntil(*until),
            (None, _) => Next::Empty,
        }
    }

    /// The item was sent and the broker has it, or there was nothing left to send.
    pub(super) fn confirm(&mut self, item: Item, now: Instant) {
        let Item { type_id, name, action, place: _ } = item;
        let key = (type_id, name);
        let hold = matches!(action, Action::Delete(_));
        self.change(&key, |entry| {
            entry.in_flight = None;
            entry.held = hold;
        });
        if hold {
            self.held.push_back((now + RECREATE_DELAY, key));
        }
    }

    /// Leaves it to what waits about the name, if anything does, to tell core subscribers of the state that `item` stored, and
    /// gives whether it will: it goes out to them even if it is that same state again. A delete is never left to anything.
    #[must_use]
    pub(super) fn hand_over(&mut self, item: &Item) -> bool {
        let Item { type_id, name, action, place: _ } = item;
        let Action::Upsert { .. } = action else { return false };
        let waiting = self.entries.get_mut(&(*type_id, name.clone())).and_then(|entry| entry.waiting.as_mut());
        waiting.is_some_and(|(_, pending)| {
            pending.insist();
            true
        })
    }

    /// The item may not have reached the broker: it goes back to its place, unless newer changes made it superfluous.
    pub(super) fn return_unconfirmed(&mut self, item: Item) {
        let Item { type_id, name, action, place } = item;
        self.change(&(type_id, name), |entry| {
            entry.in_flight = None;
            let newer = entry.waiting.take().map(|(_, pending)| pending);
            entry.waiting = Some((place, Pending::returned(action, newer)));
        });
    }

    /// Queues something that was confirmed for a second time, for those who were not connected when it went out. Where
    /// anything newer is on its way about the name, that is enough.
    pub(super) fn repeat(&mut self, type_id: TypeId, name: ObjectName, action: Action, now: Instant) {
        let key = (type_id, name);
        if self.entries.get(&key).is_some_and(Entry::is_busy) {
            return;
        }
        self.merge(key, now, |_| Some(Pending::repeated(action)));
    }

    /// Names about which something waits or is in flight.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.busy
    }

    /// Whether consumers have been told everything.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.busy == 0
    }

    /// Since when the oldest change waits or is in flight. Looks at every entry.
    #[must_use]
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        let waiting = self.entries.values().filter_map(|entry| entry.waiting.as_ref()).map(|(place, _)| place.since);
        waiting.chain(self.entries.values().filter_map(|entry| entry.in_flight).map(|place| place.since)).min()
    }

    /// The place that the next change will get.
    #[must_use]
    pub(super) fn next_order(&self) -> u64 {
        self.next_order
    }

    /// The oldest place at which something about each type waits or is in flight. Looks at every entry.
    #[must_use]
    pub(super) fn oldest_orders(&self) -> HashMap<TypeId, u64> {
        let mut oldest = HashMap::new();
        for ((type_id, _), entry) in &self.entries {
            let waiting = entry.waiting.as_ref().map(|(place, _)| place.order);
            if let Some(order) = waiting.into_iter().chain(entry.in_flight.map(|place| place.order)).min() {
                oldest.entry(*type_id).and_modify(|least: &mut u64| *least = order.min(*least)).or_insert(order);
            }
        }
        oldest
    }

    fn merge(&mut self, key: Key, now: Instant, merge: impl FnOnce(Option<Pending>) -> Option<Pending>) {
        let fresh = Place { order: self.next_order, since: now };
        self.next_order += 1;
        self.change(&key, |entry| {
            let (place, pending) = entry.waiting.take().unzip();
            entry.waiting = merge(pending).map(|merged| (place.unwrap_or(fresh), merged));
        });
    }

    fn release_held(&mut self, now: Instant) {
        while self.held.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, key)) = self.held.pop_front() {
                self.change(&key, |entry| entry.held = false);
            }
        }
    }

    /// Changes one entry and brings queue and counts in line with it.
    fn change<R>(&mut self, key: &Key, apply: impl FnOnce(&mut Entry) -> R) -> R {
        let mut entry = self.entries.remove(key).unwrap_or_default();
        if let Some(order) = entry.ready_place() {
            self.ready.remove(&order);
        }
        self.busy -= usize::from(entry.is_busy());
        self.held_waiting -= usize::from(entry.is_held_waiting());

        let result = apply(&mut entry);

        if let Some(order) = entry.ready_place() {
            self.ready.insert(order, key.clone());
        }
        self.busy += usize::from(entry.is_busy());
        self.held_waiting += usize::from(entry.is_held_waiting());
        if entry.is_busy() || entry.held {
            self.entries.insert(key.clone(), entry);
        } else if self.entries.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            // The first lists go through here: their size must not be kept for ever.
            self.entries.shrink_to(KEPT_CAPACITY);
        }
        result
    }
}

#[cfg(test)]
mod tests;
