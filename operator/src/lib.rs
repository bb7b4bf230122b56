//! Reconciles MeshSync objects into agents, RBAC and brokers.
//!
//! The kind MeshSync is a folder with five steps: [`meshsync::dereference`] reads the cluster, [`meshsync::validate`]
//! produces the only input of [`meshsync::build`], [`meshsync::apply`] writes the children, and [`meshsync::status`]
//! computes the status. Only the first and the fourth step send requests.

pub mod cli;
pub mod cluster_info;
pub mod error;
pub mod meshsync;
pub mod metrics;
mod quantity;
pub mod run;
pub mod triggers;
