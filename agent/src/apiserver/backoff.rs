//! How long to wait before trying again.

use std::time::{Duration, Instant};

/// First delay after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest delay: that of client-go's reflector.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);
/// How long things must have gone well before the delay starts small again. A watch that lists fine and dies at once
/// must not be retried every second for ever.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Growing delays for one type.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
    healthy_since: Option<Instant>,
    expired_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// One whose delays grow to `longest`.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest, healthy_since: None, expired_at: None }
    }

    /// A list was completed and the watch goes on from it.
    pub(crate) fn healthy(&mut self, now: Instant) {
        self.healthy_since.get_or_insert(now);
    }

    /// Something failed: how long to wait, at least what the server asked for. `jitter` is from 0 to 1.
    pub(crate) fn failed(&mut self, now: Instant, server_asks: Option<Duration>, jitter: f64) -> Duration {
        let was_healthy = self.healthy_since.take().is_some_and(|since| now.duration_since(since) >= HEALTHY_AFTER);
        if was_healthy {
            self.next = FIRST;
        }
        let delay = self.next;
        self.next = (self.next * 2).min(self.longest);
        // Up to half as long again: clients that failed together must not come back together.
        delay.max(server_asks.unwrap_or_default()).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// The server answers that the history which a watch needs is gone: that is no reason to wait for a list, unless the last
    /// one did not help. `jitter` is from 0 to 1.
    pub(crate) fn expired(&mut self, now: Instant, jitter: f64) -> Duration {
        let again = self.expired_at.replace(now).is_some_and(|before| now.duration_since(before) < HEALTHY_AFTER);
        if again {
            return self.failed(now, None, jitter);
        }
        self.next = FIRST;
        self.healthy_since = None;
        // An API server that was started anew says it to all watches at the same time.
        FIRST.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Forget the past: something changed that may well have been the cause.
    pub(crate) fn reset(&mut self) {
        *self = Self::up_to(self.longest);
    }
}

/// A number from 0 to 1, different enough from call to call and process to process to spread clients.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(Instant::now());
    // 53 bits fill the mantissa of a double.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: &mut Backoff, at: Instant, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.failed(at, None, 0.0).as_secs()).collect()
    }

    #[test]
    fn delays_grow_to_half_a_minute_and_start_small_only_after_a_healthy_while() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        assert_eq!(delays(&mut backoff, start, 7), [1, 2, 4, 8, 16, 30, 30]);
        backoff.healthy(start);
        assert_eq!(delays(&mut backoff, start + Duration::from_secs(29), 1), [30]);
        backoff.healthy(start);
        assert_eq!(delays(&mut backoff, start + Duration::from_secs(30), 2), [1, 2]);
        backoff.reset();
        assert_eq!(delays(&mut backoff, start, 1), [1]);
    }

    #[test]
    fn a_watch_that_is_too_old_is_followed_by_a_list_at_once_unless_that_did_not_help() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        // The server was away, and comes back without history.
        delays(&mut backoff, start, 6);
        assert_eq!(backoff.expired(start, 0.5), Duration::from_millis(500));
        let soon = start + Duration::from_secs(1);
        assert_eq!(backoff.expired(soon, 0.0), Duration::from_secs(1));
        assert_eq!(backoff.expired(soon, 0.0), Duration::from_secs(2));
        assert_eq!(backoff.expired(soon + HEALTHY_AFTER, 0.0), Duration::ZERO);
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_less() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        assert_eq!(backoff.failed(now, Some(Duration::from_secs(9)), 0.0), Duration::from_secs(9));
        assert_eq!(backoff.failed(now, Some(Duration::from_secs(1)), 1.0), Duration::from_secs(3));
        let spread = backoff.failed(now, Some(Duration::from_secs(60)), 0.5);
        assert_eq!(spread, Duration::from_secs(75), "all whom it asked come back at different times");
    }

    #[test]
    fn jitter_is_a_fraction() {
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&jitter()));
        }
    }
}
