//! What the API server serves, as far as it is known.

use std::sync::Arc;

use meshsync_crds::discovery::ServedType;
use meshsync_runtime::discovery::Discovered;

/// The types that the API server serves.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// What discovery names, and what it named not long ago.
    pub discovered: Arc<Discovered>,
    /// Whether what is not in it may be taken for gone.
    pub is_settled: bool,
}

impl Served {
    /// Whether a type of which there are objects, while it is not watched, may be there all the same.
    #[must_use]
    pub fn is_in_doubt(&self, t: &ServedType) -> bool {
        // A resource that is named is known: its objects are those of every version of it.
        let is_named = self.discovered.types.iter().any(|named| (&named.group, &named.plural) == (&t.group, &t.plural));
        !is_named && (!self.is_settled || self.discovered.is_in_doubt(t))
    }
}
