//! The MeshSync API: custom resource types, type patterns and the documents that operator and agent exchange.
//!
//! This crate is the one place that both binaries agree on. It holds data and pure functions only: no client, no
//! async runtime, so that everything in it can be tested as a table.

pub mod agent_config;
pub mod conditions;
pub mod discovery;
#[cfg(test)]
mod fixtures;
pub mod informer_config;
pub mod names;
pub mod narrowing;
pub mod pattern;
mod problem;
pub mod selection;
mod spec;
mod status;

pub use spec::*;
pub use status::*;
