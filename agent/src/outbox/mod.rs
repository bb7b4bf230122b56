//! The outbox: what consumers are still to be told. Watches push, the publisher takes.

mod change;
mod pending;
mod state;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::object::{ObjectName, Prepared, Uid};
use crate::snapshot::{Outcome, Removed, Store, TypeId};
use state::OutboxState;

pub use change::{Action, Change};
pub use state::{Item, Next, RECREATE_DELAY};

/// How often those who wait for a shorter queue look.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A shared [`OutboxState`]. Pushing never waits for the broker: an API server cuts off watchers that read too slowly.
#[derive(Debug, Default)]
pub struct Outbox {
    outbox: Mutex<OutboxState>,
    pushed: Notify,
}

impl Outbox {
    /// Records what became of an object in the snapshot.
    pub fn record(&self, type_id: TypeId, prepared: &Prepared, outcome: Outcome) {
        if matches!(outcome, Outcome::Unchanged | Outcome::Stale) {
            return;
        }
        self.lock().record(type_id, prepared, outcome, Instant::now());
        self.pushed.notify_one();
    }

    /// Records objects that left the snapshot.
    pub fn delete(&self, type_id: TypeId, removed: impl IntoIterator<Item = Removed>) {
        let now = Instant::now();
        for removed in removed {
            self.lock().push(Change::Delete { type_id, removed }, now);
        }
        self.pushed.notify_one();
    }

    /// Queues everything in `store` again, as if consumers knew nothing.
    pub fn resync(&self, store: &Store) {
        let now = Instant::now();
        for (type_id, _, table) in store.tables() {
            for (uid, name) in table.keys() {
                self.lock().push(Change::Resync { type_id, name, uid }, now);
            }
            self.pushed.notify_one();
        }
    }

    /// Queues the newest state of one object.
    pub fn upsert(&self, type_id: TypeId, name: ObjectName, uid: Uid) {
        self.lock().push(Change::Upsert { type_id, name, uid }, Instant::now());
        self.pushed.notify_one();
    }

    /// See [`OutboxState::repeat`].
    pub fn repeat(&self, type_id: TypeId, name: ObjectName, action: Action) {
        self.lock().repeat(type_id, name, action, Instant::now());
        self.pushed.notify_one();
    }

    /// What to send now.
    pub fn next(&self) -> Next {
        self.lock().next(Instant::now())
    }

    /// Waits until something was pushed since the last call.
    pub async fn pushed(&self) {
        self.pushed.notified().await;
    }

    /// See [`OutboxState::confirm`].
    pub fn confirm(&self, item: Item) {
        self.lock().confirm(item, Instant::now());
    }

    /// See [`OutboxState::hand_over`].
    #[must_use]
    pub fn hand_over(&self, item: &Item) -> bool {
        self.lock().hand_over(item)
    }

    /// See [`OutboxState::return_unconfirmed`].
    pub fn return_unconfirmed(&self, item: Item) {
        self.lock().return_unconfirmed(item);
    }

    /// Waits until fewer than `limit` objects wait.
    pub async fn shorter_than(&self, limit: usize) {
        // Callers are in loops: let others have a turn.
        tokio::task::yield_now().await;
        while self.len() >= limit {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Objects about which consumers are still to be told something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether consumers have been told everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// See [`OutboxState::next_order`].
    #[must_use]
    pub fn next_order(&self) -> u64 {
        self.lock().next_order()
    }

    /// See [`OutboxState::oldest_orders`].
    #[must_use]
    pub fn oldest_orders(&self) -> HashMap<TypeId, u64> {
        self.lock().oldest_orders()
    }

    /// Since when the oldest change waits.
    #[must_use]
    pub fn oldest_since(&self) -> Option<Instant> {
        self.lock().oldest_since()
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        // The outbox never panics between two consistent states; losing the lock to poison would lose everything.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
