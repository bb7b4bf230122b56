//! From a change in the snapshot to a message that the broker has taken.

mod address;
pub mod broker;
mod core;
pub mod delivery;
mod keys;
mod latecomers;
pub mod message;
pub mod outbox;
pub mod parts;
pub mod presence;
pub mod publisher;
pub mod queue;
mod store_answer;
mod stored;
mod trouble;
pub mod turn;
