//! What there is × what is wanted → which loops run.
//!
//! The planner holds the configuration against live discovery, again whenever one of them changes, and makes the fleet
//! follow. It is the only one who starts and stops loops.

mod planner;

pub use planner::{InForce, Planner, PlannerDeps};
