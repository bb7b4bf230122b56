//! Discovers, watches and publishes the live state of a Kubernetes cluster.
//!
//! The rooms follow the data, and data goes one way: `discover` → `watch` → [`snapshot`] → [`publish`], which has its messages
//! written by [`encode`]. [`object`] is the vocabulary between them: raw JSON of one Kubernetes object, split and stripped
//! without building a tree.

pub mod admin;
pub mod apiserver;
pub mod cli;
mod cluster_id;
pub mod config;
pub mod discover;
pub mod dump;
pub mod encode;
mod identity;
pub mod metrics;
pub mod object;
pub mod outbox;
pub mod output;
pub mod plan;
pub mod planner;
pub mod publish;
pub mod report;
pub mod requests;
pub mod run;
pub mod snapshot;
pub mod stream;
pub mod verify;
pub mod watch;

use meshsync_runtime::build_info::BuildInfo;

/// Name, version and revision of this binary.
pub const BUILD: BuildInfo = BuildInfo::new("meshsync-agent");
