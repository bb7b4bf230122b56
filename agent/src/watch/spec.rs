//! What is watched, and how.

use meshsync_crds::agent_config::{AgentConfig, SecretPolicy, SnapshotMode};
use meshsync_crds::informer_config::NamespaceSelection;
use meshsync_crds::selection::SelectedType;
use xxhash_rust::xxh3::xxh3_64;

use crate::object::{ObjectName, PREPARE_REVISION, TypeContext};

/// One type to be watched: its loop runs unchanged for as long as this does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSpec {
    /// The type.
    pub selected: SelectedType,
    /// How much of each object is held.
    pub mode: SnapshotMode,
    /// What happens to values of Secrets.
    pub secrets: SecretPolicy,
    /// Which namespaces are wanted. Sorted out here, not by the server: one watch then serves any number of namespaces.
    pub namespaces: NamespaceSelection,
}

impl WatchSpec {
    /// How a configuration has a type watched.
    #[must_use]
    pub fn new(selected: SelectedType, config: &AgentConfig) -> Self {
        Self {
            selected,
            mode: config.snapshot.mode,
            secrets: config.publish.secrets,
            namespaces: config.informer_config.namespaces.clone(),
        }
    }

    /// What objects of the type are prepared with.
    pub(super) fn context(&self) -> TypeContext {
        let mut context = TypeContext::new(&self.selected.served, self.secrets);
        context.metadata_only = self.selected.metadata_only;
        context
    }

    /// Whether an object of this name is wanted.
    pub(super) fn wants(&self, name: &ObjectName) -> bool {
        name.namespace().is_none_or(|namespace| self.namespaces.allows(namespace))
    }

    /// Tells whether a position of an earlier process is one of the same watch: anything that decides which objects are
    /// published, and with what in them, makes another one.
    pub(super) fn fingerprint(&self) -> u64 {
        // How much is held makes no difference to what is published.
        let Self { selected: SelectedType { served, metadata_only }, mode: _, secrets, namespaces } = self;
        let NamespaceSelection { include, exclude } = namespaces;
        let (api_version, kind) = (served.api_version(), &served.kind);
        let all =
            format!("{api_version} {kind} {metadata_only} {secrets:?} {include:?} {exclude:?} {PREPARE_REVISION}");
        xxh3_64(all.as_bytes())
    }
}
