//! From a change in the snapshot to the bytes that a consumer reads.

pub mod envelope;
pub mod kubernetes;
mod members;
pub mod meshery;
pub mod outbox;

pub use envelope::{Deleted, Detail, EncodeError, EventType};
