//! Whether the stream still is as this session left it.
//!
//! A broker can lose what it acknowledged, an administrator can purge, a second agent can write. None of that is told to
//! who published. The number of the newest message and the count of all are cheap to ask for and show most of it; now and
//! then everything is read back, which shows the rest.

use std::time::{Duration, Instant};

/// How often the broker is asked how far the stream is.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often all headers are read back at most.
const READ_EVERY: Duration = Duration::from_secs(600);
/// A read-back takes at most one part in so many of the time.
const SHARE: u32 = 200;

/// What the broker says of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Sequence of the newest message.
    pub(super) newest: u64,
    /// Messages of all kinds.
    pub(super) messages: u64,
    /// Objects that ought to have one.
    pub(super) objects: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reconciler {
    look_at: Instant,
    read_at: Instant,
    /// Sequence of the newest message that was there at the read-back, or was acknowledged since.
    newest: u64,
}

impl Reconciler {
    /// Begins after a read-back that took so long, in a stream whose newest message has that sequence.
    pub(super) fn new(now: Instant, took: Duration, newest: u64) -> Self {
        Self { look_at: now + LOOK_EVERY, read_at: now + READ_EVERY.max(took * SHARE), newest }
    }

    /// Notes that a message was stored.
    pub(super) fn stored(&mut self, sequence: u64) {
        self.newest = self.newest.max(sequence);
    }

    /// Whether a message was stored by somebody else since the read-back.
    pub(super) const fn is_foreign(&self, sequence: u64) -> bool {
        sequence > self.newest
    }

    /// Whether to ask the broker has been due for so long that sending has to wait for it: it can be asked only while nothing
    /// is in flight.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.look_at + LOOK_EVERY
    }

    /// Whether to ask the broker; the next time is [`LOOK_EVERY`] later.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.look_at;
        if due {
            self.look_at = now + LOOK_EVERY;
        }
        due
    }

    /// Why the stream has to be read back, if it has to. To be asked while nothing is in flight.
    pub(super) fn judge(&self, now: Instant, look: Look) -> Option<&'static str> {
        match look {
            Look { newest, .. } if newest > self.newest => Some("somebody else wrote into it"),
            Look { newest, .. } if newest < self.newest => Some("it lost its end"),
            Look { messages, objects, .. } if messages < objects => Some("messages are gone from it"),
            _ if now >= self.read_at => Some("it is time to"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_session_did_is_no_reason() {
        let now = Instant::now();
        let mut reconciler = Reconciler::new(now, Duration::from_secs(1), 7);
        let look = |newest, messages, objects| Look { newest, messages, objects };
        assert_eq!(reconciler.judge(now, look(7, 5, 5)), None);
        reconciler.stored(9);
        reconciler.stored(8);
        assert!(!reconciler.is_foreign(9) && reconciler.is_foreign(10));
        assert_eq!(reconciler.judge(now, look(9, 6, 5)), None);
        assert!(reconciler.judge(now, look(10, 6, 5)).is_some_and(|reason| reason.contains("somebody else")));
        assert!(reconciler.judge(now, look(3, 6, 5)).is_some_and(|reason| reason.contains("lost its end")));
        assert!(reconciler.judge(now, look(9, 4, 5)).is_some_and(|reason| reason.contains("gone")));
    }

    #[test]
    fn everything_is_read_back_as_often_as_it_is_worth() {
        let now = Instant::now();
        let look = Look { newest: 0, messages: 0, objects: 0 };
        let quick = Reconciler::new(now, Duration::from_millis(10), 0);
        assert_eq!(quick.judge(now + READ_EVERY - LOOK_EVERY, look), None);
        assert!(quick.judge(now + READ_EVERY, look).is_some());
        let slow = Reconciler::new(now, Duration::from_secs(12), 0);
        assert_eq!(slow.judge(now + READ_EVERY, look), None);
        assert!(slow.judge(now + Duration::from_secs(12) * SHARE, look).is_some());
    }

    #[test]
    fn the_broker_is_asked_now_and_then() {
        let now = Instant::now();
        let mut reconciler = Reconciler::new(now, Duration::ZERO, 0);
        assert!(!reconciler.is_due(now));
        assert!(!reconciler.is_overdue(now + LOOK_EVERY));
        assert!(reconciler.is_overdue(now + LOOK_EVERY * 2), "something was always in flight");
        assert!(reconciler.is_due(now + LOOK_EVERY * 2));
        assert!(!reconciler.is_overdue(now + LOOK_EVERY * 2));
        assert!(!reconciler.is_due(now + LOOK_EVERY * 2));
    }
}
