//! `informer_config` × what the server serves → what is watched.
//!
//! The operator uses it to compute rights and status, the agent to plan its watches: one function, so that they agree.

use std::collections::{BTreeMap, BTreeSet};

use crate::discovery::ServedType;
use crate::informer_config::EffectiveInformerConfig;
use crate::pattern::TypePattern;

pub use crate::problem::{Field, Nothing, Problem, Rejection};

/// A type that is to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedType {
    /// The version of the type that is watched: the preferred one unless a whitelist entry names another.
    pub served: ServedType,
    /// Whether only metadata is asked for.
    pub metadata_only: bool,
}

/// The answer: what is watched, and what is wrong or noteworthy about the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In discovery order, each resource once.
    pub types: Vec<SelectedType>,
    /// In the order of the configuration.
    pub problems: Vec<Problem>,
}

impl Selection {
    /// Whether the configuration may be put in force. If not, the last good one stays.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.problems.iter().any(Problem::is_fatal)
    }

    /// Why the configuration may not be put in force; `None` if it may.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        Rejection::of(&self.problems)
    }
}

/// Applies `config` to `served`, which must be in discovery order.
#[must_use]
pub fn select(config: &EffectiveInformerConfig, served: &[ServedType]) -> Selection {
    let mut problems = Vec::new();
    let blacklist = parse(Field::Blacklist, &config.blacklist, served, &mut problems);
    let whitelist = parse(Field::Whitelist, &config.whitelist, served, &mut problems);
    let metadata_only = parse(Field::MetadataOnly, &config.metadata_only, served, &mut problems);

    let excluded = resources(&blacklist, served);
    let included = resources(&whitelist, served);
    let slim = resources(&metadata_only, served);
    let types: Vec<SelectedType> = watchable_resources(served)
        .into_iter()
        .filter(|versions| {
            let key = key(versions.first);
            (config.whitelist.is_empty() || included.contains(&key)) && !excluded.contains(&key)
        })
        .map(|versions| SelectedType {
            served: versions.pick(&whitelist).clone(),
            metadata_only: slim.contains(&key(versions.first)),
        })
        .collect();

    // A server that serves nothing is a failed discovery, which is not the configuration's fault.
    if types.is_empty() && !served.is_empty() {
        problems.push(Problem::NothingSelected { reason: why_nothing(config, &blacklist, &whitelist, served) });
    }
    let namespaces = &config.namespaces;
    if !namespaces.include.is_empty() && !namespaces.include.iter().any(|n| namespaces.allows(n)) {
        problems.push(Problem::NoNamespace);
    }
    Selection { types, problems }
}

type Key<'a> = (&'a str, &'a str);

fn key(t: &ServedType) -> Key<'_> {
    (&t.group, &t.plural)
}

pub(crate) fn parse(
    field: Field,
    entries: &[String],
    served: &[ServedType],
    problems: &mut Vec<Problem>,
) -> Vec<TypePattern> {
    let mut patterns = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let pattern = match TypePattern::parse(entry) {
            Ok(pattern) => pattern,
            Err(source) => {
                problems.push(Problem::BadPattern { field, index, source });
                continue;
            }
        };
        let matched = pattern.matches(served);
        if matched.is_empty() {
            let hint = pattern.nearest(served);
            problems.push(Problem::NoMatch { field, index, entry: entry.clone(), hint });
        } else if field != Field::Blacklist && !matched.iter().any(|t| t.is_watchable()) {
            problems.push(Problem::NotWatchable { field, index, entry: entry.clone() });
        }
        patterns.push(pattern);
    }
    patterns
}

/// The resources that any of the patterns means. A version in a pattern finds the resource, whose objects are the same
/// in every version.
fn resources<'a>(patterns: &[TypePattern], served: &'a [ServedType]) -> BTreeSet<Key<'a>> {
    patterns.iter().flat_map(|p| p.matches(served)).map(key).collect()
}

/// The watchable versions of one resource: never empty.
struct Versions<'a> {
    first: &'a ServedType,
    others: Vec<&'a ServedType>,
}

impl<'a> Versions<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a ServedType> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// A version that the whitelist names, else the preferred one, else the first that can be watched.
    fn pick(&self, whitelist: &[TypePattern]) -> &'a ServedType {
        self.iter()
            .find(|t| whitelist.iter().any(|p| p.names_version_of(t)))
            .or_else(|| self.iter().find(|t| t.preferred))
            .unwrap_or(self.first)
    }
}

/// Each resource once, in discovery order.
fn watchable_resources(served: &[ServedType]) -> Vec<Versions<'_>> {
    let mut order: Vec<Versions<'_>> = Vec::new();
    let mut position: BTreeMap<Key<'_>, usize> = BTreeMap::new();
    for t in served.iter().filter(|t| t.is_watchable()) {
        match position.get(&key(t)).and_then(|at| order.get_mut(*at)) {
            Some(versions) => versions.others.push(t),
            None => {
                position.insert(key(t), order.len());
                order.push(Versions { first: t, others: Vec::new() });
            }
        }
    }
    order
}

/// Which entries leave nothing.
fn why_nothing(
    config: &EffectiveInformerConfig,
    blacklist: &[TypePattern],
    whitelist: &[TypePattern],
    served: &[ServedType],
) -> Nothing {
    let watchable: Vec<ServedType> = served.iter().filter(|t| t.is_watchable()).cloned().collect();
    let wanted = resources(whitelist, &watchable);
    // Of long lists, only the entries that have to do with it.
    let concerned = |patterns: &[TypePattern]| {
        let concerns = |p: &&TypePattern| p.matches(&watchable).into_iter().any(|t| wanted.contains(&key(t)));
        patterns.iter().filter(concerns).map(ToString::to_string).collect()
    };
    if config.whitelist.is_empty() {
        Nothing::BlacklistCoversAll { blacklist: config.blacklist.clone() }
    } else if resources(whitelist, served).is_empty() {
        Nothing::WhitelistMatchesNothing { whitelist: config.whitelist.clone() }
    } else if wanted.is_empty() {
        Nothing::WhitelistNotWatchable { whitelist: config.whitelist.clone() }
    } else {
        Nothing::CancelOut { whitelist: concerned(whitelist), blacklist: concerned(blacklist) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::served;

    fn config(blacklist: &[&str], whitelist: &[&str], metadata_only: &[&str]) -> EffectiveInformerConfig {
        let list = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
        EffectiveInformerConfig {
            blacklist: list(blacklist),
            whitelist: list(whitelist),
            metadata_only: list(metadata_only),
            ..Default::default()
        }
    }

    fn selected(config: &EffectiveInformerConfig) -> (Vec<String>, Vec<String>) {
        let selection = select(config, &served());
        let types = selection.types.iter().map(|t| t.served.name()).collect();
        (types, selection.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn with_nothing_said_each_watchable_resource_is_selected_once() {
        let (types, problems) = selected(&config(&[], &[], &[]));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            types.len(),
            served().len() - 2,
            "all but componentstatuses and the second version of hpa: {types:?}"
        );
    }

    #[test]
    fn the_blacklist_takes_away_and_wins_over_the_whitelist() {
        let (types, _) = selected(&config(&["events", "po", "*.istio.io"], &[], &[]));
        for gone in ["pods", "events", "events.events.k8s.io", "virtualservices.networking.istio.io"] {
            assert!(!types.contains(&gone.to_owned()), "{gone} in {types:?}");
        }
        assert_eq!(selected(&config(&["po"], &["po", "cm"], &[])).0, ["configmaps"]);
    }

    #[test]
    fn a_version_in_the_blacklist_means_the_resource() {
        let (types, problems) = selected(&config(&["hpa.v1.autoscaling"], &["hpa", "po"], &[]));
        assert_eq!((types, problems), (vec!["pods".to_owned()], vec![]));
    }

    #[test]
    fn a_version_in_the_whitelist_is_the_one_that_is_watched() {
        let version = |entry: &str| select(&config(&[], &[entry], &[]), &served()).types[0].served.version.clone();
        assert_eq!(version("hpa"), "v2");
        assert_eq!(version("hpa.v1.autoscaling"), "v1");
    }

    #[test]
    fn metadata_only_marks_just_its_types() {
        let selection = select(&config(&[], &["po", "cm"], &["cm"]), &served());
        let marks: Vec<_> = selection.types.iter().map(|t| (t.served.plural.as_str(), t.metadata_only)).collect();
        assert_eq!(marks, [("pods", false), ("configmaps", true)]);
    }

    #[test]
    fn an_unknown_type_is_named_with_a_hint_and_does_not_invalidate_the_rest() {
        let selection = select(&config(&["deploymnets"], &[], &[]), &served());
        assert!(selection.is_valid());
        assert_eq!(
            selection.problems[0].to_string(),
            "informer_config.blacklist[0]: `deploymnets` matches no type that the API server serves now; \
             did you mean `deployments.apps`?"
        );
    }

    #[test]
    fn lists_that_leave_nothing_are_refused_with_their_fields_and_entries() {
        for (config, said) in [
            (config(&["*"], &[], &[]), "informer_config.blacklist (`*`) covers every type"),
            (
                config(&["cm", "po"], &["pods"], &[]),
                "informer_config.blacklist (`po`) excludes all that informer_config.whitelist (`pods`) includes",
            ),
            (config(&[], &["zebras"], &[]), "informer_config.whitelist (`zebras`) matches no type that the API server"),
            (config(&[], &["cs"], &[]), "informer_config.whitelist (`cs`) matches only types that cannot be listed"),
        ] {
            let rejection = select(&config, &served()).rejection().unwrap();
            assert_eq!(rejection.reason, "NothingSelected");
            let begin = format!("informer_config leaves no type to watch: {said}");
            assert!(rejection.message.starts_with(&begin), "{}", rejection.message);
        }
    }

    #[test]
    fn a_rejection_holds_the_hints_for_what_is_misspelt() {
        let rejection = select(&config(&[], &["podz"], &[]), &served()).rejection().unwrap();
        let hint = "; informer_config.whitelist[0]: `podz` matches no type that the API server serves now; \
                    did you mean `pods`?";
        assert!(rejection.message.ends_with(hint), "{}", rejection.message);
        assert_eq!(select(&config(&["podz"], &[], &[]), &served()).rejection(), None);
    }

    #[test]
    fn a_bad_pattern_is_fatal_and_names_its_place() {
        let selection = select(&config(&["po", "a b"], &[], &[]), &served());
        assert!(!selection.is_valid());
        assert!(selection.problems[0].to_string().starts_with("informer_config.blacklist[1]: `a b` holds"));
    }

    #[test]
    fn a_type_that_cannot_be_watched_is_said_to_be_so_where_it_is_asked_for() {
        let selection = select(&config(&["cs"], &["cs", "po"], &[]), &served());
        assert_eq!(
            selection.problems,
            [Problem::NotWatchable { field: Field::Whitelist, index: 0, entry: "cs".into() }]
        );
    }

    #[test]
    fn namespaces_that_cancel_out_are_refused() {
        let mut config = config(&[], &[], &[]);
        config.namespaces.include = vec!["a".into()];
        config.namespaces.exclude = vec!["a".into(), "b".into()];
        assert!(select(&config, &served()).problems.contains(&Problem::NoNamespace));
    }
}
