//! From a change in the snapshot to the bytes that a consumer reads.

pub mod broker;
pub mod envelope;
pub mod kubernetes;
mod latecomers;
mod members;
pub mod meshery;
pub mod outbox;
pub mod presence;
pub mod publisher;
pub mod queue;
mod store_answer;

pub use envelope::{Deleted, Detail, EncodeError, EventType};
