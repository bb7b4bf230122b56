//! Discovery: which types the API server serves.

mod discovery;
mod health;

pub use discovery::{Discovery, DiscoveryDeps};
pub use health::{Health, HealthReport};
