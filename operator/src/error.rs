//! Errors, classified by what the operator does about them.

use std::time::Duration;

/// Decides what follows a failed reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The MeshSync is invalid. Only an edit helps, and an edit triggers a reconciliation by itself.
    Invalid,
    /// Something that it needs does not exist yet. This is no error.
    Waiting,
    /// Another client wrote at the same moment, or owns a field.
    Conflict,
    /// The operator lacks a right.
    Forbidden,
    /// The failure may pass by itself.
    Transient,
    /// The operator has a bug. Only an upgrade helps.
    Bug,
}

impl Class {
    /// How long to wait before the next attempt.
    #[must_use]
    pub fn retry_after(self) -> Duration {
        Duration::from_secs(match self {
            Self::Invalid => 600,
            Self::Waiting => 10,
            Self::Conflict => 2,
            Self::Forbidden => 60,
            Self::Transient => 5,
            Self::Bug => 600,
        })
    }
}

/// A reconciliation that could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("cannot {action}: {source}")]
    Api {
        /// The attempted action, e.g. `apply Deployment meshery/meshsync-agent`.
        action: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// An object that the operator builds cannot be written as JSON.
    #[error("cannot write {0} as JSON: {1}; this is a bug of the operator, please report it")]
    Serialize(&'static str, serde_json::Error),
    /// A request cannot be built.
    #[error("cannot build a request: {0}; this is a bug of the operator, please report it")]
    Request(http::Error),
    /// Discovery failed.
    #[error("cannot read which types the API server serves: {0}")]
    Discovery(#[from] meshsync_runtime::discovery::DiscoveryError),
    /// The operating system provides no random numbers for a token.
    #[error("cannot get random numbers for a token: {0}")]
    Random(getrandom::Error),
    /// Something that is going to appear by itself does not exist yet.
    #[error("waiting: {0}")]
    Waiting(String),
}

impl Error {
    /// Adds the attempted action to the error of a request.
    pub fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        |source| Self::Api { action, source: Box::new(source) }
    }

    /// The class of this error.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Waiting(_) => Class::Waiting,
            Self::Serialize(..) | Self::Request(_) => Class::Bug,
            Self::Random(_) | Self::Discovery(_) => Class::Transient,
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    403 => Class::Forbidden,
                    409 => Class::Conflict,
                    400 | 422 => Class::Invalid,
                    _ => Class::Transient,
                },
                _ => Class::Transient,
            },
        }
    }

    /// The reason in conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.class() {
            Class::Invalid => "Rejected",
            Class::Waiting => "Waiting",
            Class::Conflict => "Conflict",
            Class::Forbidden => "Forbidden",
            Class::Transient => "ApiError",
            Class::Bug => "InternalError",
        }
    }
}
