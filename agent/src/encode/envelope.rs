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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detail {
    /// All of it.
    #[default]
    Full,
    /// apiVersion, kind and metadata without annotations: for an object that is larger than the broker takes.
    MetadataOnly,
    /// What a `DELETED` tells: apiVersion, kind, namespace, name, uid and resourceVersion. Labels, finalizers and owner references
    /// have no limit in Kubernetes.
    Skeleton,
}

impl Detail {
    /// The next lower level; `None` below the lowest.
    #[must_use]
    pub const fn lower(self) -> Option<Self> {
        match self {
            Self::Full => Some(Self::MetadataOnly),
            Self::MetadataOnly => Some(Self::Skeleton),
            Self::Skeleton => None,
        }
    }
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

const HEAD: &[u8] = br#"{"ObjectType":"meshsync-data","EventType":""#;
const MIDDLE: &[u8] = br#"","Request":null,"Object":"#;

/// The object inside a message that [`data_message`] wrote; `None` for any other message.
#[must_use]
pub fn object_of(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(HEAD)?;
    let word = [EventType::Added, EventType::Modified, EventType::Deleted]
        .iter()
        .find_map(|event| rest.strip_prefix(event.as_str().as_bytes()))?;
    word.strip_prefix(MIDDLE)?.strip_suffix(b"}")
}

/// Writes the envelope of a data message around what `object` writes, and hands on what it gives.
pub(crate) fn data_message<R>(event: EventType, out: &mut Vec<u8>, object: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    out.extend_from_slice(HEAD);
    out.extend_from_slice(event.as_str().as_bytes());
    out.extend_from_slice(MIDDLE);
    let result = object(out);
    out.push(b'}');
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_comes_out_of_the_envelope_as_it_went_in() {
        for event in [EventType::Added, EventType::Modified, EventType::Deleted] {
            let mut message = Vec::new();
            data_message(event, &mut message, |out| out.extend_from_slice(b"{\"a\":{}}"));
            assert_eq!(object_of(&message), Some(&b"{\"a\":{}}"[..]));
        }
        assert_eq!(object_of(b"{}"), None);
    }
}
