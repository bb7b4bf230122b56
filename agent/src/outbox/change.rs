//! What changed, and what is sent because of it.

use crate::encode::EventType;
use crate::object::{ObjectName, Uid};
use crate::snapshot::{Removed, Told, TypeId};

/// Something that changed in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new or has changed.
    Upsert {
        /// Its type.
        type_id: TypeId,
        /// Its name.
        name: ObjectName,
        /// Its uid.
        uid: Uid,
    },
    /// The object is to be sent again as if it were new.
    Resync {
        /// Its type.
        type_id: TypeId,
        /// Its name.
        name: ObjectName,
        /// Its uid.
        uid: Uid,
    },
    /// The object left the snapshot.
    Delete {
        /// Its type.
        type_id: TypeId,
        /// What left.
        removed: Removed,
    },
}

/// What to send for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the state that the snapshot holds under this uid. If it is gone from there, confirm without sending.
    Upsert {
        /// The object.
        uid: Uid,
        /// Whether it has to go out as `ADDED` whatever consumers know.
        resync: bool,
    },
    /// Send that the object is gone. Boxed: deletes are rare, and actions are kept by the ten thousand.
    Delete(Box<Removed>),
}

impl Action {
    /// The event type for a state that is sent to consumers who know `told` of the object.
    #[must_use]
    pub fn event_type(&self, told: Told) -> EventType {
        match self {
            Self::Delete(_) => EventType::Deleted,
            Self::Upsert { resync: false, .. } if told == Told::Yes => EventType::Modified,
            Self::Upsert { .. } => EventType::Added,
        }
    }
}
