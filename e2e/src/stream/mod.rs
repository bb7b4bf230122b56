//! Consumers of the agent's stream, which assemble what the stream claims the cluster to be.

mod consumer;
mod history;
mod recorder;
mod view;

pub use consumer::{CORE_SUBJECT, Consumer};
pub use history::{Entry, History, Told};
pub use recorder::Recorder;
pub use view::{Key, View};
