//! Counts of what was published.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::encode::EventType;

/// Counts of what was published.
#[derive(Debug, Default)]
pub struct PublishStats {
    /// Messages confirmed, by event type: added, modified, deleted.
    pub added: AtomicU64,
    /// See `added`.
    pub modified: AtomicU64,
    /// See `added`.
    pub deleted: AtomicU64,
    /// Bytes of confirmed messages.
    pub bytes: AtomicU64,
    /// Messages that had to be sent again.
    pub resent: AtomicU64,
    /// Objects that were too large for the broker and went out as metadata only, or with what identifies them alone.
    pub too_large: AtomicU64,
    /// Objects that could not be encoded, or of which no message is one that the broker takes.
    pub unencodable: AtomicU64,
}

impl PublishStats {
    pub(super) fn published(&self, event: EventType, bytes: usize) {
        let count = match event {
            EventType::Added => &self.added,
            EventType::Modified => &self.modified,
            EventType::Deleted => &self.deleted,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
