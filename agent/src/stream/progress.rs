//! How far each watch has come, and how far an earlier agent's watch had come: what watching and storing tell each other.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Checkpoint, TypeKey};
use crate::object::ResourceVersion;
use crate::snapshot::TypeId;

/// How long watches wait for a broker before they begin without what it may hold. What it holds is brought in later, at
/// the price of having listed everything.
const WAIT_FOR_BROKER: Duration = Duration::from_secs(3);

/// How far the reading back of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has begun.
    Awaited,
    /// It takes as long as it takes.
    Reading,
    /// Done, or there is nothing to read.
    Done,
}

/// How far the watch of a type has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The type.
    pub key: TypeKey,
    /// Every change up to this version is in the snapshot and, unless published, in the outbox.
    pub version: ResourceVersion,
    /// Identifies what is watched, and how.
    pub fingerprint: u64,
}

/// See the module; to be shared.
#[derive(Debug)]
pub struct Progress {
    stage: watch::Sender<Stage>,
    checkpoints: Mutex<HashMap<TypeKey, Checkpoint>>,
    positions: Mutex<HashMap<TypeId, Position>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Awaited), checkpoints: Mutex::default(), positions: Mutex::default() }
    }
}

impl Progress {
    /// Somebody reads the stream back: watches wait until what this gives is dropped, which is after [`Progress::done`] or
    /// because it broke off.
    pub fn reading(&self) -> Reading<'_> {
        self.change(Stage::Awaited, Stage::Reading);
        Reading(self)
    }

    fn change(&self, from: Stage, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let is_from = *stage == from;
            if is_from {
                *stage = to;
            }
            is_from
        });
    }

    /// Watches may begin, from `checkpoints` where there are any. Later calls have no effect: by then they have begun.
    pub fn done(&self, checkpoints: HashMap<TypeKey, Checkpoint>) {
        if *self.stage.borrow() != Stage::Done {
            *lock(&self.checkpoints) = checkpoints;
            self.stage.send_replace(Stage::Done);
        }
    }

    /// Waits until watches may begin.
    pub async fn begin(&self) {
        let mut stage = self.stage.subscribe();
        loop {
            let begun = stage.wait_for(|stage| *stage != Stage::Awaited);
            let in_time = tokio::time::timeout(WAIT_FOR_BROKER, begun).await.is_ok();
            if !in_time {
                tracing::info!("the broker is not there: beginning without what it may hold");
                self.done(HashMap::new());
                return;
            }
            // The sender is `self`: it cannot be gone.
            let ended = stage.wait_for(|stage| *stage != Stage::Reading).await.map(|stage| *stage);
            if !matches!(ended, Ok(Stage::Awaited)) {
                return;
            }
        }
    }

    /// Where the watch of a type may go on, if what was watched is what is to be watched. Given once.
    #[must_use]
    pub fn take_checkpoint(&self, key: &TypeKey, fingerprint: u64) -> Option<ResourceVersion> {
        let checkpoint = lock(&self.checkpoints).remove(key)?;
        let same = checkpoint.fingerprint == format!("{fingerprint:016x}");
        let version = ResourceVersion::new(&checkpoint.resource_version);
        (same && version != ResourceVersion::None).then_some(version)
    }

    /// Notes how far a watch has come. To be called after its changes were recorded, never before.
    pub fn advance(&self, type_id: TypeId, position: Position) {
        lock(&self.positions).insert(type_id, position);
    }

    /// Forgets a type that is no longer watched.
    pub fn forget(&self, type_id: TypeId) {
        lock(&self.positions).remove(&type_id);
    }

    /// How far the watch of a type has come, if it has begun.
    #[must_use]
    pub fn position(&self, type_id: TypeId) -> Option<Position> {
        lock(&self.positions).get(&type_id).cloned()
    }

    /// How far all watches have come.
    #[must_use]
    pub fn positions(&self) -> HashMap<TypeId, Position> {
        lock(&self.positions).clone()
    }
}

/// See [`Progress::reading`].
#[must_use = "dropped, it says that the reading has ended"]
pub struct Reading<'p>(&'p Progress);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.change(Stage::Reading, Stage::Awaited);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is changed by single calls of a map: there is no state between that a panic could leave behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> TypeKey {
        TypeKey { group: String::new(), plural: "pods".into() }
    }

    fn checkpoint() -> HashMap<TypeKey, Checkpoint> {
        let checkpoint = Checkpoint {
            resource_version: "7".into(),
            fingerprint: format!("{:016x}", 0xab_u64),
            objects: 1,
            digest: String::new(),
        };
        HashMap::from([(pods(), checkpoint)])
    }

    #[tokio::test(start_paused = true)]
    async fn watches_wait_for_the_reading_but_not_for_a_broker_that_is_away() {
        let progress = Progress::default();
        progress.begin().await;
        // Too late: the watch has begun.
        progress.done(checkpoint());
        assert_eq!(progress.take_checkpoint(&pods(), 0xab), None);

        let progress = Progress::default();
        let reading = progress.reading();
        let slow = async {
            tokio::time::sleep(WAIT_FOR_BROKER * 10).await;
            progress.done(checkpoint());
            drop(reading);
        };
        tokio::join!(slow, progress.begin());
        assert_eq!(progress.take_checkpoint(&pods(), 0xab), Some(ResourceVersion::Number(7)));
        assert_eq!(progress.take_checkpoint(&pods(), 0xab), None, "a second watch cannot go on from there");
    }

    #[tokio::test(start_paused = true)]
    async fn watches_do_not_wait_for_a_reading_that_broke_off() {
        let progress = Progress::default();
        let reading = progress.reading();
        let broken = async {
            tokio::time::sleep(WAIT_FOR_BROKER * 2).await;
            drop(reading);
        };
        let began = tokio::time::Instant::now();
        tokio::join!(broken, progress.begin());
        assert_eq!(began.elapsed(), WAIT_FOR_BROKER * 3, "as long as for a broker that is away");
        drop(progress.reading());
        progress.begin().await;
        assert_eq!(began.elapsed(), WAIT_FOR_BROKER * 3, "who comes later begins at once");
    }

    #[test]
    fn a_checkpoint_of_another_configuration_is_not_used() {
        let progress = Progress::default();
        progress.done(checkpoint());
        assert_eq!(progress.take_checkpoint(&pods(), 0xcd), None);
    }
}
