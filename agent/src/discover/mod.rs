//! What there is × what is wanted → which loops run.
//!
//! The planner holds the configuration against live discovery, again whenever one of them changes, and makes the fleet
//! follow. It is the only one who starts and stops loops.

mod discovery;
mod health;
mod planner;

pub use discovery::{Discovery, DiscoveryDeps, Served};
pub use health::{Health, HealthReport};
pub use planner::{InForce, Planner, PlannerDeps};

#[cfg(test)]
mod tests;
