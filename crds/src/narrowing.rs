//! What an agent's command line takes away from whatever configuration is in force.
//!
//! The flags of the original agent hold beside a configuration, not instead of one: who starts an agent with
//! `--outputNamespaces shop` means it, wherever the configuration comes from, and after each of its changes.

use std::fmt;

use crate::agent_config::{AgentConfig, SecretPolicy};
use crate::discovery::ServedType;
use crate::informer_config::EffectiveInformerConfig;
use crate::selection::{Field, Problem, Selection, parse, select};

/// Limits to any configuration. They take away and never add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// If not empty, only objects in these namespaces: none of another one, and none that is in no namespace.
    pub namespaces: Vec<String>,
    /// If not empty, only types that one of these patterns means. A bare name means every type of that name, since it is not
    /// for the flag to say which of them the configuration selects.
    pub resources: Vec<String>,
    /// Whether values of Secrets are redacted even where the configuration would publish them.
    pub redact: bool,
}

impl Narrowing {
    /// The configuration that is left.
    #[must_use]
    pub fn config(&self, mut config: AgentConfig) -> AgentConfig {
        if self.redact {
            config.publish.secrets = SecretPolicy::Redact;
        }
        if !self.namespaces.is_empty() {
            let selection = &mut config.informer_config.namespaces;
            let (both, neither): (Vec<_>, Vec<_>) = self.namespaces.iter().cloned().partition(|n| selection.allows(n));
            if both.is_empty() {
                // An empty list would mean all: what is asked for twice and never allowed is left out instead.
                selection.include.clone_from(&neither);
                selection.exclude.extend(neither);
            } else {
                selection.include = both;
            }
        }
        config
    }

    /// What is left of the types that `config`, which was narrowed, selects of `served`.
    #[must_use]
    pub fn select(&self, config: &EffectiveInformerConfig, served: &[ServedType]) -> Selection {
        let Selection { mut types, mut problems } = select(config, served);
        let had_types = !types.is_empty();
        if !self.namespaces.is_empty() {
            types.retain(|selected| selected.served.namespaced);
            for problem in problems.iter_mut().filter(|problem| **problem == Problem::NoNamespace) {
                *problem = narrowed_away("--outputNamespaces", &self.namespaces, "namespaces");
            }
        }
        if had_types && types.is_empty() {
            problems.push(narrowed_away("--outputNamespaces", &self.namespaces, "types"));
        } else if !self.resources.is_empty() {
            let patterns = parse(Field::OutputResources, &self.resources, served, &mut problems);
            let means = |t: &ServedType| patterns.iter().any(|p| !p.matches(std::slice::from_ref(t)).is_empty());
            types.retain(|selected| means(&selected.served));
            if had_types && types.is_empty() {
                problems.push(narrowed_away("--outputResources", &self.resources, "types"));
            }
        }
        Selection { types, problems }
    }

    /// Whether nothing is taken away.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The flags that narrow.
impl fmt::Display for Narrowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespaces, resources, redact } = self;
        let list = |flag: &str, values: &[String]| (!values.is_empty()).then(|| format!("{flag} {}", values.join(",")));
        let redact = redact.then(|| "MESHSYNC_REDACT_SECRETS".to_owned());
        let all = [list("--outputNamespaces", namespaces), list("--outputResources", resources), redact];
        f.write_str(&all.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

fn narrowed_away(flag: &'static str, entries: &[String], what: &'static str) -> Problem {
    Problem::NarrowedAway { flag, entries: entries.to_vec(), what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_config::PublishConfig;
    use crate::fixtures::served;
    use crate::informer_config::NamespaceSelection;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    fn configured(whitelist: &[&str], include: &[&str], exclude: &[&str]) -> AgentConfig {
        let mut config = AgentConfig::built_in();
        config.informer_config.blacklist.clear();
        config.informer_config.whitelist = strings(whitelist);
        config.informer_config.namespaces = NamespaceSelection { include: strings(include), exclude: strings(exclude) };
        config
    }

    fn narrowing(namespaces: &[&str], resources: &[&str]) -> Narrowing {
        Narrowing { namespaces: strings(namespaces), resources: strings(resources), redact: false }
    }

    /// Names of the types, and whether the configuration is valid.
    fn left(narrowing: &Narrowing, config: AgentConfig) -> (Vec<String>, Option<String>) {
        let config = narrowing.config(config);
        let selection = narrowing.select(&config.informer_config, &served());
        let rejection = selection.rejection().map(|rejection| rejection.message);
        (selection.types.iter().map(|selected| selected.served.name()).collect(), rejection)
    }

    #[test]
    fn without_flags_a_configuration_stays_as_it_is() {
        let config = configured(&["po", "no"], &["a"], &["b"]);
        let nothing = Narrowing::default();
        assert_eq!(nothing.config(config.clone()), config);
        assert_eq!(nothing.select(&config.informer_config, &served()), select(&config.informer_config, &served()));
    }

    #[test]
    fn resources_are_meant_by_any_of_their_names_and_never_added() {
        let config = || configured(&["po", "cm", "deploy", "services.serving.knative.dev"], &[], &[]);
        for (resources, types) in [
            (&["POD", "replicaset"][..], &["pods"][..]),
            (&["Pods", "ConfigMap"], &["pods", "configmaps"]),
            (&["deployments.apps"], &["deployments.apps"]),
            (&["service"], &["services.serving.knative.dev"]),
            (&["*.apps", "cm"], &["configmaps", "deployments.apps"]),
        ] {
            let (found, rejection) = left(&narrowing(&[], resources), config());
            assert_eq!((found, rejection), (strings(types), None), "{resources:?}");
        }
    }

    #[test]
    fn namespaces_take_away_others_and_what_is_in_none() {
        let (types, rejection) = left(&narrowing(&["a"], &[]), configured(&["po", "no"], &[], &[]));
        assert_eq!((types, rejection), (strings(&["pods"]), None));
        for (include, exclude, is_left) in [
            (&[][..], &[][..], &["a", "b"][..]),
            (&["b", "c"], &[], &["b"]),
            (&[], &["a"], &["b"]),
            (&["a", "b"], &["b"], &["a"]),
        ] {
            let config = narrowing(&["a", "b"], &[]).config(configured(&[], include, exclude));
            assert_eq!(config.informer_config.namespaces.include, strings(is_left), "{include:?} {exclude:?}");
        }
    }

    #[test]
    fn what_leaves_nothing_is_refused_and_never_means_all() {
        let (_, rejection) = left(&narrowing(&["a"], &[]), configured(&[], &["b"], &[]));
        let said = "--outputNamespaces (`a`) leaves none of the namespaces that informer_config selects";
        assert_eq!(rejection.as_deref(), Some(said));
        let (types, rejection) = left(&narrowing(&["a"], &[]), configured(&["no"], &[], &[]));
        let said = "--outputNamespaces (`a`) leaves none of the types that informer_config selects";
        assert_eq!((types, rejection.as_deref()), (vec![], Some(said)));
        let (types, rejection) = left(&narrowing(&[], &["podz"]), configured(&[], &[], &[]));
        let said = "--outputResources (`podz`) leaves none of the types that informer_config selects; \
                    --outputResources[0]: `podz` matches no type that the API server serves now; did you mean `pods`?";
        assert_eq!((types, rejection.as_deref()), (vec![], Some(said)));
    }

    #[test]
    fn redaction_only_gets_stricter() {
        for (redact, configured, secrets) in [
            (true, SecretPolicy::Publish, SecretPolicy::Redact),
            (false, SecretPolicy::Publish, SecretPolicy::Publish),
            (false, SecretPolicy::Redact, SecretPolicy::Redact),
        ] {
            let publish = PublishConfig { secrets: configured, ..PublishConfig::default() };
            let config = AgentConfig { publish, ..AgentConfig::built_in() };
            let narrowing = Narrowing { redact, ..Narrowing::default() };
            assert_eq!(narrowing.config(config).publish.secrets, secrets);
        }
    }
}
