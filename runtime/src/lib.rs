//! Code that both binaries share: arguments, telemetry, probes, readiness gates, shutdown, discovery.

pub mod build_info;
pub mod client;
pub mod discovery;
pub mod exit;
pub mod metrics;
pub mod open_files;
pub mod probes;
pub mod readiness;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod tls;
