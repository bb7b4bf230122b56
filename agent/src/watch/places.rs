//! How many lists run at the same time: their memory, and the load that they are to the API server, are worth holding back.

use std::time::Duration;

use meshsync_crds::agent_config::SnapshotMode;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Places for lists, of which one list takes [`needed`]: six lists at a time. With fewer there are moments in which all of
/// them wait for the server, more make a start no faster and peak memory higher.
const PLACES: usize = 12;
/// Places for the lists of types whose last list failed: what fails often hangs first, and must not stand in anybody's way
/// but that of its like.
const PLACES_OF_FAILING: usize = 6;

/// Places that a list takes. Where only hashes are kept, what lists bring is a good part of all memory: fewer run at a time.
fn needed(mode: SnapshotMode) -> u32 {
    match mode {
        SnapshotMode::Full => 2,
        SnapshotMode::HashOnly => 3,
    }
}

/// The places of all lists; to be shared.
#[derive(Debug)]
pub(super) struct ListPlaces {
    healthy: Semaphore,
    failing: Semaphore,
}

impl Default for ListPlaces {
    fn default() -> Self {
        Self { healthy: Semaphore::new(PLACES), failing: Semaphore::new(PLACES_OF_FAILING) }
    }
}

impl ListPlaces {
    /// Waits for a place; `failed` tells whether the last list of the type did.
    pub(super) async fn take(&self, mode: SnapshotMode, failed: bool) -> Place<'_> {
        let pool = if failed { &self.failing } else { &self.healthy };
        let mut place = Place { pool: Some((pool, needed(mode))), permit: None };
        place.take().await;
        place
    }
}

/// The place of a list, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'p> {
    pool: Option<(&'p Semaphore, u32)>,
    permit: Option<SemaphorePermit<'p>>,
}

impl Place<'_> {
    /// For lists that nobody else waits for.
    pub(super) fn unlimited() -> Self {
        Self { pool: None, permit: None }
    }

    /// Waits for `time`, and lets others list meanwhile.
    pub(super) async fn rest(&mut self, time: Duration) {
        self.permit = None;
        tokio::time::sleep(time).await;
        self.take().await;
    }

    async fn take(&mut self) {
        if let Some((pool, count)) = self.pool {
            // Nobody closes the pool; if somebody did, lists would only be unlimited.
            self.permit = pool.acquire_many(count).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failing_types_and_those_that_wait_for_the_server_stand_in_nobodys_way() {
        let places = ListPlaces::default();
        let mut failing = Vec::new();
        for _ in 0..3 {
            failing.push(places.take(SnapshotMode::Full, true).await);
        }
        let full = tokio::time::timeout(Duration::from_secs(1), places.take(SnapshotMode::Full, true)).await;
        assert!(full.is_err(), "they have places of their own, and no more");
        let mut healthy = Vec::new();
        for _ in 0..6 {
            healthy.push(places.take(SnapshotMode::Full, false).await);
        }
        let mut resting = healthy.remove(0);
        let rest = resting.rest(Duration::from_secs(60));
        let other = async {
            let began = tokio::time::Instant::now();
            drop(places.take(SnapshotMode::Full, false).await);
            began.elapsed()
        };
        let ((), waited) = tokio::join!(rest, other);
        assert_eq!(waited, Duration::ZERO);
    }
}
