//! Errors by what is to be done about them.

use std::time::Duration;

/// Decides the action after a failed reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The MeshSync is wrong: nothing helps but an edit, which triggers a reconciliation anyway.
    Invalid,
    /// Something that it refers to is not there yet. Not an error.
    Waiting,
    /// Somebody else wrote at the same moment, or owns a field.
    Conflict,
    /// The operator lacks a right.
    Forbidden,
    /// Try again.
    Transient,
    /// The operator is wrong. Trying again may help after an upgrade only.
    Bug,
}

impl Class {
    /// When to look again.
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
        /// What was tried, e.g. `apply Deployment meshery/meshsync-agent`.
        action: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// An object that the operator builds cannot be written as JSON.
    #[error("cannot write {0} as JSON: {1}; this is a bug of the operator, please report it")]
    Serialize(&'static str, serde_json::Error),
    /// Something that comes by itself is not there yet.
    #[error("waiting: {0}")]
    Waiting(String),
}

impl Error {
    /// Names what was tried.
    pub fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        |source| Self::Api { action, source: Box::new(source) }
    }

    /// What is to be done.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Waiting(_) => Class::Waiting,
            Self::Serialize(..) => Class::Bug,
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

    /// Static reason for condition, event and metric alike.
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
