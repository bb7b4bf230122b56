//! Configurations on their way from a source to the planner.

use std::sync::Arc;

use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::narrowing::Narrowing;
use tokio::sync::watch;

/// A configuration as it was read, not yet resolved against what the API server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// None was read yet.
    Awaited,
    /// A valid configuration.
    Read(Arc<AgentConfig>),
    /// The document is invalid; the message says why.
    Unreadable(String),
}

/// Receives candidates, and narrows each of them.
pub(super) struct Candidates<'a> {
    pub(super) sender: watch::Sender<Candidate>,
    pub(super) narrowing: &'a Narrowing,
}

impl Candidates<'_> {
    /// Passes a candidate on if it differs from the current one.
    pub(super) fn offer(&self, candidate: Candidate) {
        let candidate = match candidate {
            Candidate::Read(config) => Candidate::Read(Arc::new(self.narrowing.config(Arc::unwrap_or_clone(config)))),
            other => other,
        };
        self.sender.send_if_modified(|current| {
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
}

/// Reads a document; messages name the `place` where it was found.
pub(super) fn read(place: &str, text: &str) -> Candidate {
    match AgentConfig::parse(text) {
        Ok(config) => Candidate::Read(Arc::new(config)),
        Err(error) => Candidate::Unreadable(format!("{place}: {error}")),
    }
}
