//! A configuration file.

use std::path::Path;
use std::time::Duration;

use super::candidate::{Candidate, Candidates, read};

/// How often the file is looked at. A mounted ConfigMap is replaced by a link, which file watching misses easily.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn follow(path: &Path, candidates: &Candidates<'_>) {
    loop {
        let place = format!("configuration file {}", path.display());
        let candidate = match tokio::fs::read_to_string(path).await {
            Ok(text) => read(&place, &text),
            Err(error) => Candidate::Unreadable(format!("{place}: {error}; check --config")),
        };
        candidates.offer(candidate);
        tokio::time::sleep(EVERY).await;
    }
}
