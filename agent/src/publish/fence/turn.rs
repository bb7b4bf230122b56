//! The turn of this process.

use super::answering::Answering;

/// This process's turn to publish a cluster: over one connection.
#[derive(Debug)]
pub(in crate::publish) struct Turn {
    pub(in crate::publish) connection: u64,
    pub(in crate::publish) subject: String,
    pub(in crate::publish) answering: Answering,
}

impl Turn {
    pub(in crate::publish) fn is(&self, connection: u64, subject: &str) -> bool {
        self.connection == connection && self.subject == subject
    }
}
