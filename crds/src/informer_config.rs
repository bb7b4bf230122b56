//! `informer_config`: what to watch, as a person writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::discovery::ServedType;
use crate::pattern::TypePattern;

/// Types that are left out where nobody says otherwise: high churn, no state worth keeping.
///
/// `events` and `events.events.k8s.io` are one storage served twice; both are named so that a reader sees it.
pub const BUILT_IN_BLACKLIST: [&str; 3] = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];

/// What is left of [`BUILT_IN_BLACKLIST`] where somebody asks for `wanted` by name: a default must not take away what a person
/// wrote. A pattern for many types, such as `*`, asks for none by name.
#[must_use]
pub fn built_in_blacklist_beside(wanted: &[String]) -> Vec<String> {
    let types = [
        built_in_type("", "v1", "Event", "events", "ev"),
        built_in_type("events.k8s.io", "v1", "Event", "events", "ev"),
        built_in_type("coordination.k8s.io", "v1", "Lease", "leases", ""),
    ];
    let named: Vec<TypePattern> = wanted
        .iter()
        .filter(|entry| !entry.contains('*'))
        .filter_map(|entry| TypePattern::parse(entry).ok())
        .filter(|pattern| !pattern.matches(&types).is_empty())
        .collect();
    let is_named = |entry: &&str| {
        // Plurals tell them apart; of the two names of one storage, leaving one would leave out the other.
        let plural = entry.split('.').next().unwrap_or(entry);
        let of_plural = |t: &&ServedType| t.plural == plural;
        named.iter().any(|pattern| pattern.matches(&types).iter().any(of_plural))
    };
    BUILT_IN_BLACKLIST.into_iter().filter(|entry| !is_named(entry)).map(str::to_owned).collect()
}

fn built_in_type(group: &str, version: &str, kind: &str, plural: &str, short: &str) -> ServedType {
    ServedType {
        singular: kind.to_lowercase(),
        short_names: Some(short.to_owned()).filter(|short| !short.is_empty()).into_iter().collect(),
        ..ServedType::named(group, version, kind, plural)
    }
}

/// What to watch. Every field is optional; one that is not set follows the cluster-wide default, one that is set
/// (an empty list included) replaces it.
///
/// An entry of a type list is what a person would type after `kubectl get`: `pods`, `po`, `Pod`,
/// `deployments.apps`, `deployments.v1.apps`, `*.istio.io`, or `pods.v1.`. See [`crate::pattern`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InformerConfig {
    /// Types that are not watched, e.g. `secrets`, `leases.coordination.k8s.io`, `*.metrics.k8s.io`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 316)))]
    pub blacklist: Option<Vec<String>>,
    /// If not empty, only these types are watched, minus the blacklist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 316)))]
    pub whitelist: Option<Vec<String>>,
    /// Types that are watched without spec and status: the server sends only their metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 316)))]
    pub metadata_only: Option<Vec<String>>,
    /// Namespaces to look into; cluster-scoped objects are not concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceSelection>,
}

/// Which namespaces are looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelection {
    /// If not empty, only these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub include: Vec<String>,
    /// Namespaces that are left out; wins over `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub exclude: Vec<String>,
}

impl NamespaceSelection {
    /// Whether objects of `namespace` are wanted. Cluster-scoped objects are not to be asked about.
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        !self.exclude.iter().any(|n| n == namespace)
            && (self.include.is_empty() || self.include.iter().any(|n| n == namespace))
    }
}

/// [`InformerConfig`] with every question answered: what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EffectiveInformerConfig {
    /// See [`InformerConfig::blacklist`].
    pub blacklist: Vec<String>,
    /// See [`InformerConfig::whitelist`].
    pub whitelist: Vec<String>,
    /// See [`InformerConfig::metadata_only`].
    pub metadata_only: Vec<String>,
    /// See [`InformerConfig::namespaces`].
    pub namespaces: NamespaceSelection,
}

impl InformerConfig {
    /// The built-in default: everything but [`BUILT_IN_BLACKLIST`].
    #[must_use]
    pub fn built_in() -> Self {
        Self { blacklist: Some(BUILT_IN_BLACKLIST.map(str::to_owned).to_vec()), ..Self::default() }
    }

    /// Field by field: what `self` sets, else what `default` sets.
    #[must_use]
    pub fn or(self, default: &Self) -> Self {
        // Destructured without `..`, so that a new field cannot be forgotten here.
        let Self { blacklist, whitelist, metadata_only, namespaces } = self;
        Self {
            blacklist: blacklist.or_else(|| default.blacklist.clone()),
            whitelist: whitelist.or_else(|| default.whitelist.clone()),
            metadata_only: metadata_only.or_else(|| default.metadata_only.clone()),
            namespaces: namespaces.or_else(|| default.namespaces.clone()),
        }
    }

    /// What is in force when nothing else has a say: an unset field is empty.
    #[must_use]
    pub fn into_effective(self) -> EffectiveInformerConfig {
        let Self { blacklist, whitelist, metadata_only, namespaces } = self;
        EffectiveInformerConfig {
            blacklist: blacklist.unwrap_or_default(),
            whitelist: whitelist.unwrap_or_default(),
            metadata_only: metadata_only.unwrap_or_default(),
            namespaces: namespaces.unwrap_or_default(),
        }
    }

    /// Reads the text that a person edits in the annotation of the CRD.
    ///
    /// # Errors
    /// A message that names line, column and field when the text is not YAML of the right shape.
    pub fn from_yaml(text: &str) -> Result<Self, InformerConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config = serde_saphyr::from_str(text).map_err(InformerConfigError::new)?;
        // Strict for a person's text only. Objects from the API server are read leniently, so that an operator older
        // than the CustomResourceDefinition still reads them.
        let value: serde_json::Value = serde_saphyr::from_str(text).map_err(InformerConfigError::new)?;
        let mut unknown = Vec::new();
        serde_ignored::deserialize::<_, _, Self>(value, |path| unknown.push(path.to_string()))
            .map_err(InformerConfigError::new)?;
        if unknown.is_empty() {
            Ok(config)
        } else {
            Err(InformerConfigError::new(format_args!("unknown field {}", unknown.join(", "))))
        }
    }

    /// The text for the annotation: YAML, one entry a line, so that it is easy to edit.
    ///
    /// # Errors
    /// None in practice: the type has only lists of strings.
    pub fn to_yaml(&self) -> Result<String, InformerConfigError> {
        serde_saphyr::to_string(self).map_err(InformerConfigError::new)
    }
}

/// Text that is not an [`InformerConfig`].
#[derive(Debug, thiserror::Error)]
#[error("not a valid informer_config: {message}; expected the fields blacklist, whitelist, metadataOnly, namespaces")]
pub struct InformerConfigError {
    message: String,
}

impl InformerConfigError {
    fn new(what: impl std::fmt::Display) -> Self {
        Self { message: what.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_default_takes_away_nothing_that_is_asked_for_by_name() {
        const LEASES: &[&str] = &["leases.coordination.k8s.io"];
        const EVENTS: &[&str] = &["events", "events.events.k8s.io"];
        for (wanted, left) in [
            (&[][..], &BUILT_IN_BLACKLIST[..]),
            (&["pods", "*", "*.k8s.io", "a b"], &BUILT_IN_BLACKLIST),
            (&["Event"], LEASES),
            (&["ev", "po"], LEASES),
            (&["events.events.k8s.io"], LEASES),
            (&["events.v1."], LEASES),
            (&["lease"], EVENTS),
            (&["leases.coordination.k8s.io", "events"], &[]),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(built_in_blacklist_beside(&wanted), left, "{wanted:?}");
        }
    }

    #[test]
    fn a_set_list_replaces_the_default_and_an_unset_one_follows_it() {
        let default = InformerConfig { blacklist: list(&["a"]), whitelist: list(&["b"]), ..Default::default() };
        let own = InformerConfig { blacklist: list(&[]), metadata_only: list(&["c"]), ..Default::default() };
        let effective = own.or(&default).into_effective();
        assert_eq!(effective.blacklist, Vec::<String>::new());
        assert_eq!(effective.whitelist, ["b"]);
        assert_eq!(effective.metadata_only, ["c"]);
    }

    #[test]
    fn the_annotation_text_survives_a_round_trip() {
        let config = InformerConfig {
            blacklist: list(&["*.metrics.k8s.io", "po"]),
            namespaces: Some(NamespaceSelection { include: vec![], exclude: vec!["kube-system".into()] }),
            ..Default::default()
        };
        let text = config.to_yaml().unwrap();
        assert_eq!(InformerConfig::from_yaml(&text).unwrap(), config, "{text}");
    }

    #[test]
    fn blank_text_sets_nothing() {
        assert_eq!(InformerConfig::from_yaml(" \n").unwrap(), InformerConfig::default());
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = InformerConfig::from_yaml("blaklist: [pods]").unwrap_err().to_string();
        assert!(error.contains("blaklist"), "{error}");
        assert!(error.contains("blacklist"), "{error}");
    }

    #[test]
    fn exclude_wins_over_include() {
        let namespaces = NamespaceSelection { include: vec!["a".into(), "b".into()], exclude: vec!["b".into()] };
        assert!(namespaces.allows("a"));
        assert!(!namespaces.allows("b"));
        assert!(!namespaces.allows("c"));
    }
}
