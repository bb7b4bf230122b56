//! The materialised state in JetStream: one stream for a cluster, one message for each object, its newest state.
//!
//! This room knows how the stream is named, set up, read and stamped; [`crate::publish`] decides what goes into it.

mod checkpoint;
mod progress;
mod read;
mod setup;
mod stamp;
mod subject;

pub use checkpoint::{Checkpoint, ToldMark};
pub use progress::{Position, Progress, Reading};
pub use read::{Bodies, Entry, ReadError, read_checkpoints, read_headers};
pub use setup::{SetupError, StreamSettings, ensure, open};
pub use stamp::{Conditions, Stamp};
pub use subject::{ALL_STATES, Subjects, TypeKey, push_name, type_of};
