//! Reconciles MeshSync objects into agents, rights and brokers.
//!
//! One folder for the kind, five steps, the middle ones pure: [`meshsync::dereference`] reads the cluster →
//! [`meshsync::validate`] gives the only input of → [`meshsync::build`] → [`meshsync::apply`] → [`meshsync::status`].

pub mod cli;
pub mod cluster_info;
pub mod error;
pub mod meshsync;
pub mod metrics;
mod quantity;
pub mod run;
pub mod triggers;
