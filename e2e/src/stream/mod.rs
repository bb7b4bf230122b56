//! Consumers of the agent's messages, which assemble a view of the cluster.

mod consumer;
mod history;
mod recorder;
mod view;

pub use consumer::{CORE_SUBJECT, Consumer};
pub use history::{Entry, History, Told};
pub use recorder::Recorder;
pub use view::{Key, View};
