//! A real Kubernetes inside a [`Lab`]: the binaries of any cluster, as processes.

mod builder;
mod cloned;
mod controllers;
mod external;
mod handle;
mod kubectl;
mod level;
mod node;
mod pki;
mod ports;
mod server;
mod start;

pub use builder::ClusterBuilder;
pub use handle::Cluster;
pub use level::Level;
