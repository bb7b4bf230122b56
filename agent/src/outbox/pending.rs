//! How changes of one name add up.

use super::change::Action;
use crate::object::Uid;
use crate::snapshot::{Removed, Told};

/// What waits for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Upsert(Newest),
    Delete(Box<Removed>),
    /// Two messages: consumers know the old incarnation, and a new one has its name.
    DeleteThenUpsert(Box<Removed>, Newest),
}

/// The state of an object that the snapshot holds when the message is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    uid: Uid,
    resync: bool,
}

impl Pending {
    /// What waits once the object exists in a new state.
    pub(super) fn then_upsert(before: Option<Self>, uid: Uid, resync: bool) -> Self {
        match before {
            None => Self::Upsert(Newest { uid, resync }),
            Some(Self::Upsert(older)) => Self::Upsert(Newest { uid, resync: resync || older.resync }),
            Some(Self::Delete(removed)) => Self::DeleteThenUpsert(removed, Newest { uid, resync }),
            Some(Self::DeleteThenUpsert(removed, older)) => {
                Self::DeleteThenUpsert(removed, Newest { uid, resync: resync || older.resync })
            }
        }
    }

    /// What waits once the object is gone: nothing, if consumers never heard of the name.
    pub(super) fn then_delete(before: Option<Self>, removed: Box<Removed>) -> Option<Self> {
        if removed.told != Told::No {
            return Some(Self::Delete(removed));
        }
        match before {
            None | Some(Self::Upsert(_)) => None,
            Some(Self::Delete(known) | Self::DeleteThenUpsert(known, _)) => Some(Self::Delete(known)),
        }
    }

    /// A state goes out although consumers may have been told of it.
    pub(super) fn insist(&mut self) {
        if let Self::Upsert(newest) | Self::DeleteThenUpsert(_, newest) = self {
            newest.resync = true;
        }
    }

    /// What to send first, and what waits after it.
    pub(super) fn split(self) -> (Action, Option<Self>) {
        match self {
            Self::Upsert(Newest { uid, resync }) => (Action::Upsert { uid, resync }, None),
            Self::Delete(removed) => (Action::Delete(removed), None),
            Self::DeleteThenUpsert(removed, newest) => (Action::Delete(removed), Some(Self::Upsert(newest))),
        }
    }

    /// What waits once something that was confirmed is to go out again: a state as if it were new.
    pub(super) fn repeated(sent: Action) -> Self {
        match sent {
            Action::Upsert { uid, .. } => Self::Upsert(Newest { uid, resync: true }),
            Action::Delete(removed) => Self::Delete(removed),
        }
    }

    /// What waits once `sent` came back unconfirmed while `newer` had gathered.
    pub(super) fn returned(sent: Action, newer: Option<Self>) -> Self {
        match (sent, newer) {
            (Action::Upsert { uid, resync }, None) => Self::Upsert(Newest { uid, resync }),
            (Action::Upsert { resync, .. }, Some(Self::Upsert(newest))) => {
                Self::Upsert(Newest { resync: resync || newest.resync, ..newest })
            }
            (Action::Delete(removed), None) => Self::Delete(removed),
            (Action::Delete(removed), Some(Self::Upsert(newest))) => Self::DeleteThenUpsert(removed, newest),
            (_, Some(newer @ (Self::Delete(_) | Self::DeleteThenUpsert(..)))) => newer,
        }
    }
}
