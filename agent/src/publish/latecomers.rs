//! What goes out again for consumers that come back later than the agent does.
//!
//! When a broker restarts, everybody reconnects, each in his own time. Core NATS keeps nothing: what the agent publishes
//! before a consumer is back, that consumer never sees, and a Meshery Server does not ask for it. So what is confirmed
//! in the first seconds of a new connection is published once more at their end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::outbox::{Action, Item};
use super::queue::Queue;
use crate::object::ObjectName;
use crate::snapshot::TypeId;

/// NATS clients wait 2 s between two attempts unless told otherwise: this is two attempts and some.
const GRACE: Duration = Duration::from_secs(5);

/// What was confirmed over a young connection: the last message about each name.
#[derive(Debug)]
pub(super) struct Latecomers {
    until: Instant,
    sent: HashMap<(TypeId, ObjectName), Action>,
}

impl Latecomers {
    /// Begins with a connection.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self { until: now + GRACE, sent: HashMap::new() }
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

    /// Queues it all again; gives how much.
    pub(super) fn repeat(self, queue: &Queue) -> usize {
        let count = self.sent.len();
        for ((type_id, name), action) in self.sent {
            queue.repeat(type_id, name, action);
        }
        count
    }
}
