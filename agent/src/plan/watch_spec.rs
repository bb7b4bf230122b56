//! What is watched, and how.

use meshsync_crds::agent_config::{AgentConfig, SecretPolicy, SnapshotMode};
use meshsync_crds::discovery::ServedType;
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
    /// How a configuration has a type watched. What does not concern the type is left out: it must not begin anew because
    /// of that.
    #[must_use]
    pub fn new(selected: SelectedType, config: &AgentConfig) -> Self {
        let served = &selected.served;
        let is_secrets = served.group.is_empty() && served.plural == "secrets";
        let secrets = if is_secrets { config.publish.secrets } else { SecretPolicy::default() };
        let namespaces = &config.informer_config.namespaces;
        let namespaces = if served.namespaced { namespaces.clone() } else { NamespaceSelection::default() };
        Self { mode: config.snapshot.mode, secrets, namespaces, selected }
    }

    /// Whether the loop of `other` does all that this asks for: other short names, say, make no other watch.
    pub(crate) fn is_same_watch(&self, other: &Self) -> bool {
        let Self { selected: SelectedType { served, metadata_only }, mode, secrets, namespaces } = self;
        let watched =
            |t: &ServedType| (t.group.clone(), t.version.clone(), t.plural.clone(), t.kind.clone(), t.namespaced);
        watched(served) == watched(&other.selected.served)
            && (*metadata_only, *mode, *secrets) == (other.selected.metadata_only, other.mode, other.secrets)
            && *namespaces == other.namespaces
    }

    /// What objects of the type are prepared with.
    pub(crate) fn context(&self) -> TypeContext {
        let mut context = TypeContext::new(&self.selected.served, self.secrets);
        context.metadata_only = self.selected.metadata_only;
        context
    }

    /// Whether an object of this name is wanted.
    pub(crate) fn wants(&self, name: &ObjectName) -> bool {
        name.namespace().is_none_or(|namespace| self.namespaces.allows(namespace))
    }

    /// Tells whether a position of an earlier process is one of the same watch: anything that decides which objects are
    /// published, and with what in them, makes another one.
    pub(crate) fn fingerprint(&self) -> u64 {
        // How much is held makes no difference to what is published.
        let Self { selected: SelectedType { served, metadata_only }, mode: _, secrets, namespaces } = self;
        let NamespaceSelection { include, exclude } = namespaces;
        let (api_version, kind) = (served.api_version(), &served.kind);
        let all =
            format!("{api_version} {kind} {metadata_only} {secrets:?} {include:?} {exclude:?} {PREPARE_REVISION}");
        xxh3_64(all.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(plural: &str, namespaced: bool, config: &AgentConfig) -> WatchSpec {
        let served = ServedType {
            namespaced,
            verbs: vec!["list".into(), "watch".into()],
            ..ServedType::named("", "v1", "Kind", plural)
        };
        WatchSpec::new(SelectedType { served, metadata_only: false }, config)
    }

    #[test]
    fn an_edit_concerns_only_the_types_that_it_is_about() {
        let before = AgentConfig::built_in();
        let mut secrets = before.clone();
        secrets.publish.secrets = SecretPolicy::Publish;
        let mut namespaces = before.clone();
        namespaces.informer_config.namespaces.exclude = vec!["hidden".into()];
        let is_same = |plural, namespaced, config: &AgentConfig| {
            spec(plural, namespaced, &before).is_same_watch(&spec(plural, namespaced, config))
        };
        assert!(is_same("pods", true, &secrets) && !is_same("secrets", true, &secrets));
        assert!(!is_same("pods", true, &namespaces) && is_same("nodes", false, &namespaces));
    }

    #[test]
    fn what_a_type_is_called_besides_makes_no_other_watch() {
        let before = spec("pods", true, &AgentConfig::built_in());
        let mut after = before.clone();
        let served = &mut after.selected.served;
        served.short_names.push("po".into());
        served.categories.push("all".into());
        served.verbs.push("delete".into());
        served.singular = "pod".into();
        assert!(after != before && after.is_same_watch(&before));
        after.selected.served.version = "v2".into();
        assert!(!after.is_same_watch(&before));
        let metadata_only =
            WatchSpec { selected: SelectedType { metadata_only: true, ..before.selected.clone() }, ..before.clone() };
        assert!(!metadata_only.is_same_watch(&before));
    }
}
