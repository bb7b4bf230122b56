//! The envelope around every published object, and what is common to both formats inside it.

use crate::object::ObjectError;

/// What a message says about its object. `ERROR` is missing on purpose: Meshery Server's handler would panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// The consumer has not been told of the object, or asked for everything again.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone, or its type is no longer watched.
    Deleted,
}

impl EventType {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// How much of an object a message holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// All of it.
    #[default]
    Full,
    /// apiVersion, kind and metadata without annotations: for an object that is larger than the broker takes.
    MetadataOnly,
}

/// An object that is gone, by all that identifies it to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted<'a> {
    /// `v1` or `group/version`.
    pub api_version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace; `None` for a cluster-scoped object.
    pub namespace: Option<&'a str>,
    /// Name.
    pub name: &'a str,
    /// Uid; empty when the object had none.
    pub uid: &'a str,
    /// Last known version; empty when there was none.
    pub resource_version: &'a str,
}

/// A body that cannot be encoded. Bodies come from [`crate::object::prepare`], so this is a bug or bad memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode the stored object for publishing: {0}")]
pub struct EncodeError(#[from] ObjectError);

/// Writes the envelope of a data message around what `object` writes, and hands on what it gives.
pub(super) fn data_message<R>(event: EventType, out: &mut Vec<u8>, object: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    out.extend_from_slice(br#"{"ObjectType":"meshsync-data","EventType":""#);
    out.extend_from_slice(event.as_str().as_bytes());
    out.extend_from_slice(br#"","Request":null,"Object":"#);
    let result = object(out);
    out.push(b'}');
    result
}
