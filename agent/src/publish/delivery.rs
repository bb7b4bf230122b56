//! How messages are delivered, for status and metrics.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use meshsync_crds::Delivery;

use crate::object::ObjectName;
use crate::snapshot::TypeId;

/// Objects that are known by name although no message can be made or stored of them.
const MOST_UNPUBLISHED: usize = 256;
/// Shortened objects that are remembered by name.
const MOST_SHORTENED: usize = 4_096;

/// How messages are delivered now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryState {
    /// `None` until a broker was reached.
    pub mode: Option<Delivery>,
    /// Why it is not the stronger one; empty when it is.
    pub reason: String,
    /// What the stream says to messages that it refuses.
    pub refusal: Option<String>,
}

/// An object of which the broker cannot be told, or cannot keep what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublished {
    /// Type and name, e.g. `configmaps shop/settings`.
    pub object: String,
    /// Why, and what is done instead.
    pub reason: String,
    /// When that was found out first.
    pub since: Timestamp,
}

#[derive(Debug, Default)]
struct UnpublishedObjects {
    named: HashMap<(TypeId, ObjectName), Unpublished>,
    /// Types of which there are more than can be named.
    more: HashSet<TypeId>,
}

/// Objects of which core subscribers were told less than all.
#[derive(Debug, Default)]
struct Shortened {
    /// With the bytes that more of it needs.
    named: HashMap<(TypeId, ObjectName), usize>,
    /// The least that any of those needs which could not be remembered.
    more: Option<usize>,
}

/// A [`DeliveryState`] to be shared.
#[derive(Debug, Default)]
pub struct DeliveryBoard {
    state: Mutex<DeliveryState>,
    shortened: Mutex<Shortened>,
    unpublished: Mutex<UnpublishedObjects>,
}

impl DeliveryBoard {
    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> DeliveryState {
        self.lock().clone()
    }

    pub(super) fn set_mode(&self, mode: Delivery, reason: String) {
        let mut state = self.lock();
        if state.mode != Some(mode) || state.reason != reason {
            match mode {
                Delivery::JetStream => tracing::info!("publishing through JetStream: stored and confirmed"),
                Delivery::Core => {
                    tracing::warn!(reason, "publishing through core NATS: who is not connected misses what is sent");
                }
            }
        }
        *state = DeliveryState { mode: Some(mode), reason, refusal: None };
    }

    pub(super) fn set_refusal(&self, refusal: Option<String>) {
        self.lock().refusal = refusal;
    }

    /// Notes how many bytes more of an object needs than core subscribers were told; `None`: they were told all.
    pub(super) fn shortened(&self, type_id: TypeId, name: &ObjectName, needs: Option<usize>) {
        let mut shortened = self.shortened.lock().unwrap_or_else(PoisonError::into_inner);
        if needs.is_none() && shortened.named.is_empty() {
            return;
        }
        let key = (type_id, name.clone());
        match needs {
            None => drop(shortened.named.remove(&key)),
            Some(bytes) if shortened.named.len() >= MOST_SHORTENED && !shortened.named.contains_key(&key) => {
                shortened.more = Some(shortened.more.map_or(bytes, |least| least.min(bytes)));
            }
            Some(bytes) => drop(shortened.named.insert(key, bytes)),
        }
    }

    /// Takes those of which more than was told has at most so many bytes; `None` when there are such that nobody remembers.
    pub(super) fn take_fitting(&self, bytes: usize) -> Option<Vec<(TypeId, ObjectName)>> {
        let mut shortened = self.shortened.lock().unwrap_or_else(PoisonError::into_inner);
        if shortened.more.take_if(|least| *least <= bytes).is_some() {
            shortened.named.clear();
            return None;
        }
        Some(shortened.named.extract_if(|_, needs| *needs <= bytes).map(|(key, _)| key).collect())
    }

    /// What cannot be published, the oldest first.
    #[must_use]
    pub fn unpublished(&self) -> Vec<Unpublished> {
        let mut objects: Vec<_> = self.lock_unpublished().named.values().cloned().collect();
        objects.sort_by(|one, other| (one.since, &one.object).cmp(&(other.since, &other.object)));
        objects
    }

    /// Whether an object of the type is not in the stream: then no checkpoint may say that all of it is.
    pub(super) fn lacks_objects(&self, type_id: TypeId) -> bool {
        let unpublished = self.lock_unpublished();
        unpublished.more.contains(&type_id) || unpublished.named.keys().any(|(of, _)| *of == type_id)
    }

    /// Notes an object that cannot be published; gives whether that is news.
    pub(super) fn cannot_publish(&self, type_id: TypeId, name: &ObjectName, object: String, reason: &str) -> bool {
        let mut unpublished = self.lock_unpublished();
        let key = (type_id, name.clone());
        if let Some(known) = unpublished.named.get_mut(&key) {
            reason.clone_into(&mut known.reason);
            return false;
        }
        if unpublished.named.len() >= MOST_UNPUBLISHED {
            return unpublished.more.insert(type_id);
        }
        unpublished.named.insert(key, Unpublished { object, reason: reason.to_owned(), since: Timestamp::now() });
        true
    }

    /// The object was published, or is gone.
    pub(super) fn published(&self, type_id: TypeId, name: &ObjectName) {
        let mut unpublished = self.lock_unpublished();
        if !unpublished.named.is_empty() {
            unpublished.named.remove(&(type_id, name.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_unpublished(&self) -> MutexGuard<'_, UnpublishedObjects> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Store;
    use crate::snapshot::tests::served;

    #[test]
    fn what_cannot_be_published_is_named_once_and_until_it_can() {
        let (board, store) = (DeliveryBoard::default(), Store::new());
        let (type_id, other) = (store.open(&served("things", &[])).0, store.open(&served("others", &[])).0);
        let name = |name: &str| ObjectName::new(None, name);
        assert!(board.cannot_publish(type_id, &name("a"), "things a".into(), "first"));
        assert!(!board.cannot_publish(type_id, &name("a"), "things a".into(), "second"), "it is told once");
        let named: Vec<_> = board.unpublished().into_iter().map(|it| (it.object, it.reason)).collect();
        assert_eq!(named, [("things a".to_owned(), "second".to_owned())]);
        assert!(board.lacks_objects(type_id) && !board.lacks_objects(other));
        board.published(type_id, &name("a"));
        assert!(board.unpublished().is_empty() && !board.lacks_objects(type_id));
    }

    #[test]
    fn what_was_shortened_comes_back_when_it_fits() {
        let (board, store) = (DeliveryBoard::default(), Store::new());
        let type_id = store.open(&served("things", &[])).0;
        let name = |name: &str| ObjectName::new(None, name);
        board.shortened(type_id, &name("a"), Some(100));
        board.shortened(type_id, &name("b"), Some(200));
        board.shortened(type_id, &name("c"), Some(50));
        board.shortened(type_id, &name("c"), None);
        assert_eq!(board.take_fitting(99), Some(vec![]));
        assert_eq!(board.take_fitting(100), Some(vec![(type_id, name("a"))]));
        assert_eq!(board.take_fitting(150), Some(vec![]), "once");
        for at in 0..MOST_SHORTENED + 10 {
            board.shortened(type_id, &name(&at.to_string()), Some(1_000));
        }
        assert_eq!(board.take_fitting(900).map(|them| them.len()), Some(1));
        assert_eq!(board.take_fitting(1_000), None, "not all are known by name");
        assert_eq!(board.take_fitting(1_000), Some(vec![]));
    }

    #[test]
    fn a_flood_of_them_is_bounded_and_still_known() {
        let (board, store) = (DeliveryBoard::default(), Store::new());
        let type_id = store.open(&served("things", &[])).0;
        let told = (0..MOST_UNPUBLISHED + 10)
            .filter(|at| board.cannot_publish(type_id, &ObjectName::new(None, &at.to_string()), String::new(), ""))
            .count();
        assert_eq!((told, board.unpublished().len()), (MOST_UNPUBLISHED + 1, MOST_UNPUBLISHED));
        for at in 0..MOST_UNPUBLISHED {
            board.published(type_id, &ObjectName::new(None, &at.to_string()));
        }
        assert!(board.lacks_objects(type_id), "of the others there is no telling");
    }
}
