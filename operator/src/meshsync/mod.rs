//! The kind MeshSync, step by step.

pub mod apply;
pub mod build;
pub mod context;
pub mod controller;
pub mod dereference;
pub mod events;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod garbage_collect;
pub mod names;
mod requests;
pub mod status;
pub mod validate;
