//! What goes out again for consumers that come back later than the agent does.
//!
//! When a broker restarts, everybody reconnects, each in his own time. Core NATS keeps nothing: what the agent publishes
//! before a consumer is back, that consumer never sees, and a Meshery Server does not ask for it. So what is confirmed
//! in the first seconds of a new connection is published once more at their end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::object::ObjectName;
use crate::outbox::Outbox;
use crate::outbox::{Action, Item};
use crate::snapshot::TypeId;

/// NATS clients wait 2 s between two attempts unless told otherwise: this is two attempts and some.
const GRACE: Duration = Duration::from_secs(5);

/// A message that was sent: enough to make it again.
#[derive(Clone, Debug)]
pub(super) struct Note {
    type_id: TypeId,
    name: ObjectName,
    action: Action,
}

impl Note {
    /// What `action` says about `name`.
    pub(super) const fn new(type_id: TypeId, name: ObjectName, action: Action) -> Self {
        Self { type_id, name, action }
    }

    /// What `item` said.
    pub(super) fn of(item: &Item) -> Self {
        Self::new(item.type_id, item.name.clone(), item.action.clone())
    }
}

/// What was confirmed over a young connection: the last message about each name.
#[derive(Debug)]
pub(super) struct Latecomers {
    until: Instant,
    sent: HashMap<(TypeId, ObjectName), Action>,
}

impl Latecomers {
    /// Begins with a connection. `unproven` was sent over the last one and may have been lost with it.
    #[must_use]
    pub(super) fn new(now: Instant, unproven: Vec<Note>) -> Self {
        let sent = unproven.into_iter().map(|Note { type_id, name, action }| ((type_id, name), action)).collect();
        Self { until: now + GRACE, sent }
    }

    /// When to call [`Latecomers::repeat`].
    #[must_use]
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// Remembers what was confirmed.
    pub(super) fn note(&mut self, item: &Item) {
        self.sent.insert((item.type_id, item.name.clone()), item.action.clone());
    }

    /// Whether nothing is to be repeated so far.
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Queues it all again; gives how much.
    pub(super) fn repeat(self, queue: &Outbox) -> usize {
        let count = self.sent.len();
        for ((type_id, name), action) in self.sent {
            queue.repeat(type_id, name, action);
        }
        count
    }

    /// What would have been repeated.
    pub(super) fn into_notes(self) -> impl Iterator<Item = Note> {
        self.sent.into_iter().map(|((type_id, name), action)| Note { type_id, name, action })
    }
}
