//! Why a session with the broker cannot go on.

use std::fmt;

use crate::stream::ReadError;

/// Why a session with the broker cannot go on.
#[derive(Debug)]
pub(super) struct SessionError(pub(super) String);

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ReadError> for SessionError {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}
