//! The kind MeshSync, step by step.

pub mod apply;
pub mod build;
pub mod controller;
pub mod dereference;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod names;
pub mod status;
pub mod sweep;
pub mod tell;
pub mod validate;
