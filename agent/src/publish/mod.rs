//! From a change in the snapshot to a message that the broker has taken.

mod address;
pub mod broker;
pub mod broker_config;
pub mod context;
mod core;
pub mod delivery;
mod error;
pub mod fence;
mod fencing;
mod informer_store;
mod keys;
mod latecomers;
pub mod message;
pub mod presence;
pub mod publisher;
pub mod stats;
mod stored;
mod trouble;
mod wait;
