//! From the body of an object to the bytes that a consumer reads. Nothing here knows where they go.

pub mod envelope;
pub mod kubernetes;
mod members;
pub mod meshery;

pub use envelope::{Deleted, Detail, EncodeError, EventType};
