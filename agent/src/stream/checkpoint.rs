//! How far the watch of each type has been stored: what lets an agent go on where another one left off.
//!
//! A checkpoint stands in the same stream as the objects, after them: whatever of its end a broker loses, no checkpoint
//! stays that is ahead of what is stored.

use serde::{Deserialize, Serialize};

/// The payload of a checkpoint message, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Every change of the type up to this version is stored.
    pub resource_version: String,
    /// Identifies what was watched, and how: a checkpoint of another configuration is of no use.
    pub fingerprint: String,
    /// Objects of the type that are stored.
    pub objects: u64,
    /// Digest of them, 16 hexadecimal digits: see `digest` in the documentation of the stream.
    pub digest: String,
}

/// The payload of the mark up to which core subscribers were told, as JSON. What is stored behind that, they may not have heard
/// of: the agent was killed, or is about to tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldMark {
    /// Sequence of a message in the same stream.
    pub sequence: u64,
}
