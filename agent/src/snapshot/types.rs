//! Values that go into tables and come out of them.

use crate::object::{Body, ObjectName, ResourceVersion, Uid};

/// What consumers know of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Nothing was ever sent.
    #[default]
    No,
    /// Something was sent and is not confirmed: they may know it.
    Maybe,
    /// A message about it was confirmed.
    Yes,
}

/// What [`super::Table::upsert`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object was not known.
    Added {
        /// An earlier incarnation under the same name, whose delete nobody reported.
        replaced: Option<Removed>,
    },
    /// The object changed in something that is published.
    Modified,
    /// The same state, or a new resourceVersion with the same content: nothing to publish.
    Unchanged,
    /// Older than what the table holds, or the table is closed: ignored.
    Stale,
}

/// An object that left a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its uid.
    pub uid: Uid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The last version that was known.
    pub resource_version: ResourceVersion,
    /// Whether consumers have to be told.
    pub told: Told,
    /// Sequence of the last message about it in the stream; 0 where there is none.
    pub sequence: u64,
}

/// What is confirmed about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Hash of the state that was sent.
    pub hash: u64,
    /// Its sequence in the stream; 0 where there is no stream.
    pub sequence: u64,
}

/// A copy of one row, its body unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its uid.
    pub uid: Uid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The newest version that was seen. `body` may hold an older one whose content is the same.
    pub resource_version: ResourceVersion,
    /// See [`crate::object::Prepared::hash`].
    pub hash: u64,
    /// What consumers knew when the copy was made.
    pub told: Told,
    /// Whether they had been told of just this state.
    pub confirmed: bool,
    /// Sequence of the last message about it in the stream; 0 where there is none.
    pub sequence: u64,
    /// See [`crate::object::Prepared::body`]; `None` where the table does not hold it.
    pub body: Option<Body>,
}

/// Size of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Objects held.
    pub objects: usize,
    /// Bytes of their bodies.
    pub body_bytes: usize,
    /// Bytes that the bodies take compressed, dictionary included.
    pub packed_bytes: usize,
}

/// A state of an object, as the headers of its message tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Uid of the object.
    pub uid: Uid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Version of the state.
    pub resource_version: ResourceVersion,
    /// See [`crate::object::Prepared::hash`]; `None` when the message was made by another encoding, so that it has to be made again.
    pub hash: Option<u64>,
    /// Sequence of the message.
    pub sequence: u64,
}

/// What [`super::Table::restore`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The snapshot holds the same.
    Same,
    /// The snapshot holds another state of it, which has to be sent.
    Differs {
        /// Name of the object.
        name: ObjectName,
        /// Its uid.
        uid: Uid,
        /// The incarnation that the stream holds, where it is an earlier one.
        replaced: Option<Removed>,
    },
    /// It was not in the snapshot and is now, without body, until a list or a watch tells more.
    Taken,
    /// It was not in the snapshot, which is complete: its delete was missed and has to be sent.
    Ghost(Removed),
}
