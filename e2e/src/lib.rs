//! The lab: real clusters on one machine, the demonstration, and the end-to-end tests.
//!
//! A [`Lab`] is a private network namespace and a state directory. Everything that a test starts lives inside: a
//! [`Cluster`](cluster::Cluster) from real Kubernetes binaries, a broker, our own agent and operator. Inside, each
//! service listens on its usual loopback port; no route leads out, so that labs never meet and nothing leaks. When the
//! test ends the lab is taken down, and what a killed run left behind is removed by the next one.
//!
//! ```no_run
//! use meshsync_e2e::{cluster::Level, lab};
//!
//! #[test]
//! fn namespaces_are_listed() -> anyhow::Result<()> {
//!     lab::run("namespaces-are-listed", async |lab| {
//!         let cluster = lab.cluster(Level::Api).start().await?;
//!         let names = cluster.kubectl(["get", "namespaces", "-o", "name"]).await?;
//!         assert!(names.contains("namespace/kube-system"));
//!         Ok(())
//!     })
//! }
//! ```

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]

pub mod aggregated;
pub mod assets;
pub mod bench;
pub mod binaries;
pub mod churn;
pub mod cli;
pub mod cluster;
pub mod custom_type;
pub mod demo;
pub mod equality;
pub mod everything;
pub mod faults;
pub mod image;
pub mod lab;
pub mod local_system;
pub mod metrics;
pub mod nats;
pub mod packages;
pub mod process;
pub mod progress;
pub mod provider;
pub mod shared;
pub mod stream;
pub mod system;
pub mod wait;

pub use lab::Lab;
pub use wait::await_condition;
