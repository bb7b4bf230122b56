//! Where the agent's configuration comes from: its ConfigMap, a file, or the command line.
//!
//! Whatever the source, a document that cannot be read changes nothing: the last good one stays in force and what is wrong
//! with the new one is reported.

mod config_map;
mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use meshsync_crds::agent_config::AgentConfig;
use tokio::sync::watch;

/// Where to read the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Key `config.yaml` of a ConfigMap, watched.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A file, read again when it changes.
    File(PathBuf),
    /// Fixed.
    Fixed(Box<AgentConfig>),
}

/// A configuration as it came, not yet held against what the API server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// None has come yet.
    Awaited,
    /// It could be read.
    Read(Arc<AgentConfig>),
    /// It could not be read; the message says why.
    Unreadable(String),
}

/// Follows `source` into `candidates`, for ever.
pub async fn follow(source: ConfigSource, client: Client, candidates: watch::Sender<Candidate>) {
    match source {
        ConfigSource::ConfigMap { namespace, name } => {
            config_map::follow(&client, &namespace, &name, &candidates).await
        }
        ConfigSource::File(path) => file::follow(&path, &candidates).await,
        ConfigSource::Fixed(config) => {
            offer(&candidates, Candidate::Read(Arc::new(*config)));
            std::future::pending().await
        }
    }
}

/// The configuration as it is now.
///
/// # Errors
/// Why it cannot be read `within` that time.
pub async fn read_once(source: ConfigSource, client: Client, within: Duration) -> Result<Arc<AgentConfig>, String> {
    let (candidates, mut read) = watch::channel(Candidate::Awaited);
    let place = format!("{source:?}");
    let came = tokio::select! {
        () = follow(source, client, candidates) => None,
        came = tokio::time::timeout(within, read.wait_for(|candidate| *candidate != Candidate::Awaited)) => {
            came.ok().and_then(Result::ok).map(|candidate| candidate.clone())
        }
    };
    match came {
        Some(Candidate::Read(config)) => Ok(config),
        Some(Candidate::Unreadable(message)) => Err(message),
        Some(Candidate::Awaited) | None => {
            Err(format!("the configuration cannot be read within {} s: {place}", within.as_secs()))
        }
    }
}

/// Passes on what is new.
fn offer(candidates: &watch::Sender<Candidate>, candidate: Candidate) {
    candidates.send_if_modified(|current| {
        let is_new = *current != candidate;
        if is_new {
            if let Candidate::Unreadable(message) = &candidate {
                tracing::error!("{message}; the last good configuration stays in force");
            }
            *current = candidate;
        }
        is_new
    });
}

/// Reads a document that was found at `place`.
fn read(place: &str, text: &str) -> Candidate {
    match AgentConfig::parse(text) {
        Ok(config) => Candidate::Read(Arc::new(config)),
        Err(error) => Candidate::Unreadable(format!("{place}: {error}")),
    }
}
