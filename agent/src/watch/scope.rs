//! In how much of the cluster a type is read.

use std::collections::BTreeSet;

use crate::apiserver::request::Source;
use crate::plan::WatchSpec;

/// In how much of the cluster a type is listed and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In all of it, by one list and one watch.
    Cluster,
    /// In these namespaces, by a list and a watch each.
    Namespaces(Vec<String>),
}

impl Scope {
    /// What is left where a type may not be read in all namespaces: those that `spec` names, else `own`, that of the account.
    /// None for a type that is in no namespace, and where none of them is wanted.
    pub(super) fn fallback(spec: &WatchSpec, own: &str) -> Option<Self> {
        let selection = &spec.namespaces;
        let named = match selection.include.is_empty() {
            true => vec![own.to_owned()],
            false => selection.include.clone(),
        };
        let mut once = BTreeSet::new();
        let namespaces: Vec<String> =
            named.into_iter().filter(|name| selection.allows(name) && once.insert(name.clone())).collect();
        let is_way = spec.selected.served.namespaced && !namespaces.is_empty();
        is_way.then_some(Self::Namespaces(namespaces))
    }

    /// The collections that make it up.
    pub(super) fn sources(&self, spec: &WatchSpec) -> Vec<Source> {
        match self {
            Self::Cluster => vec![Source::of(spec)],
            Self::Namespaces(names) => names.iter().map(|name| Source::in_namespace(spec, name)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use meshsync_crds::informer_config::NamespaceSelection;

    use super::*;
    use crate::watch::tests::spec;

    #[test]
    fn where_not_all_may_be_read_what_is_named_is_and_else_the_accounts_own_namespace() {
        let fallback = |include: &[&str], exclude: &[&str], namespaced| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let mut spec = spec();
            spec.namespaces = NamespaceSelection { include: list(include), exclude: list(exclude) };
            spec.selected.served.namespaced = namespaced;
            match Scope::fallback(&spec, "own") {
                Some(Scope::Namespaces(names)) => names,
                Some(Scope::Cluster) => vec!["all of them".to_owned()],
                None => vec![],
            }
        };
        assert_eq!(fallback(&[], &["other"], true), ["own"]);
        assert_eq!(fallback(&["b", "a", "b", "c"], &["c"], true), ["b", "a"]);
        for (include, exclude, namespaced) in [(&[][..], &["own"][..], true), (&["a"], &["a"], true), (&[], &[], false)]
        {
            assert_eq!(fallback(include, exclude, namespaced), Vec::<String>::new());
        }
    }

    #[test]
    fn each_namespace_is_a_collection() {
        let paths = |scope: Scope| scope.sources(&spec()).into_iter().map(|source| source.path).collect::<Vec<_>>();
        assert_eq!(paths(Scope::Cluster), ["/api/v1/configmaps"]);
        let scope = Scope::Namespaces(vec!["a".into(), "b".into()]);
        assert_eq!(paths(scope), ["/api/v1/namespaces/a/configmaps", "/api/v1/namespaces/b/configmaps"]);
    }
}
