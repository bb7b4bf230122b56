//! Type patterns: how a person names resource types, matched against what the server really serves.
//!
//! | form | means | example |
//! |---|---|---|
//! | `NAME` | the type that `kubectl get NAME` would pick, and its twin in the same storage | `pods`, `po`, `Pod` |
//! | `NAME.GROUP` | that type of that group | `deployments.apps` |
//! | `NAME.VERSION.GROUP` | the same, where the group serves that version | `deployments.v1.apps` |
//! | `NAME.VERSION.` | the same in the core group (Meshery's spelling) | `pods.v1.` |
//! | `NAME.` | that type of the core group | `events.` |
//! | `*.GROUP` | every type of that group and of the groups below it | `*.istio.io` covers `networking.istio.io` |
//! | `*` | every type | |
//!
//! NAME is a plural, singular or short name, or a kind. Case does not matter.

use std::fmt;

use crate::discovery::{ServedType, group_resource};

/// Core types that are served a second time, from the same storage, under a group name: leaving out one but not the
/// other would watch the same objects after all.
const TWINS: [[(&str, &str); 2]; 1] = [[("", "events"), ("events.k8s.io", "events")]];

/// Longest pattern that is read: a plural name, a version and a group, each a DNS name.
pub const MAX_PATTERN_LEN: usize = 316;

/// A parsed type pattern. See the [module documentation](self) for the grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePattern {
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Everything,
    GroupAndBelow(String),
    Bare(String),
    /// `NAME.` and then one or two readings of the rest: `v1.example.com` may be version and group, or a group.
    Qualified {
        name: String,
        readings: Vec<Reading>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    version: Option<String>,
    group: String,
}

/// Why a text is not a type pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing but white space.
    #[error("the entry is empty; write a type such as `pods` or `deployments.apps`")]
    Empty,
    /// More than [`MAX_PATTERN_LEN`] bytes.
    #[error("the entry has {0} characters; at most {MAX_PATTERN_LEN} are allowed")]
    TooLong(usize),
    /// A character that no resource type has in its name.
    #[error(
        "`{entry}` holds the character {character:?}; only letters, digits, `-`, `.` and a leading `*` are allowed"
    )]
    Character {
        /// The whole entry.
        entry: String,
        /// The first offending character.
        character: char,
    },
    /// A `*` anywhere but as the whole first part.
    #[error("`{0}` has a `*` in the wrong place; only `*` and `*.GROUP` are allowed, e.g. `*.istio.io`")]
    Wildcard(String),
    /// An empty part, as in `pods..apps` or `.apps`.
    #[error("`{0}` has an empty part between its dots; write NAME, NAME.GROUP or NAME.VERSION.GROUP")]
    EmptyPart(String),
}

impl TypePattern {
    /// Reads one entry of a type list.
    ///
    /// # Errors
    /// [`PatternError`], whose message quotes the entry and says what would be right.
    pub fn parse(entry: &str) -> Result<Self, PatternError> {
        let text = entry.trim().to_ascii_lowercase();
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN_LEN {
            return Err(PatternError::TooLong(text.len()));
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-.*".contains(*c)) {
            return Err(PatternError::Character { entry: entry.to_owned(), character });
        }
        let form = Self::parse_form(&text, entry)?;
        Ok(Self { text, form })
    }

    fn parse_form(text: &str, entry: &str) -> Result<Form, PatternError> {
        if text == "*" {
            return Ok(Form::Everything);
        }
        if let Some(group) = text.strip_prefix("*.") {
            return match group {
                _ if group.contains('*') => Err(PatternError::Wildcard(entry.to_owned())),
                _ if has_empty_part(group) => Err(PatternError::EmptyPart(entry.to_owned())),
                _ => Ok(Form::GroupAndBelow(group.to_owned())),
            };
        }
        if text.contains('*') {
            return Err(PatternError::Wildcard(entry.to_owned()));
        }
        let Some((name, rest)) = text.split_once('.') else {
            return Ok(Form::Bare(text.to_owned()));
        };
        // One trailing dot stands for the core group; everything else must have no empty part.
        let named = rest.strip_suffix('.').unwrap_or(rest);
        if name.is_empty() || (!rest.is_empty() && has_empty_part(named)) {
            return Err(PatternError::EmptyPart(entry.to_owned()));
        }
        Ok(Form::Qualified { name: name.to_owned(), readings: readings(rest) })
    }

    /// The entry as it was read: trimmed, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The served types that the pattern means, in the order of `served`.
    ///
    /// `served` must be in discovery order (core group first, preferred versions first): for a bare name that several
    /// groups serve, the first one wins, as in kubectl.
    #[must_use]
    pub fn matches<'a>(&self, served: &'a [ServedType]) -> Vec<&'a ServedType> {
        match &self.form {
            Form::Everything => served.iter().collect(),
            Form::GroupAndBelow(group) => served.iter().filter(|t| is_group_or_below(&t.group, group)).collect(),
            Form::Bare(name) => match_bare(name, served),
            Form::Qualified { name, readings } => {
                served.iter().filter(|t| has_name(t, name) && readings.iter().any(|r| r.covers(t))).collect()
            }
        }
    }

    /// The version that the pattern names, if it can be read as naming one that `served` has.
    #[must_use]
    pub fn names_version_of(&self, served: &ServedType) -> bool {
        match &self.form {
            Form::Qualified { readings, .. } => readings.iter().any(|r| r.version.is_some() && r.covers(served)),
            _ => false,
        }
    }

    /// The served name that looks most like this pattern, as a hint for a pattern that matches nothing.
    #[must_use]
    pub fn nearest(&self, served: &[ServedType]) -> Option<String> {
        let wanted = match &self.form {
            Form::Everything => return None,
            Form::GroupAndBelow(group) => return nearest_group(group, served),
            Form::Bare(name) | Form::Qualified { name, .. } => name,
        };
        served
            .iter()
            .flat_map(|t| names(t).map(move |name| (strsim::osa_distance(wanted, &name.to_ascii_lowercase()), t)))
            .filter(|(distance, _)| *distance <= tolerance(wanted))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, t)| t.name())
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Reading {
    fn covers(&self, t: &ServedType) -> bool {
        t.group.eq_ignore_ascii_case(&self.group)
            && self.version.as_ref().is_none_or(|v| t.version.eq_ignore_ascii_case(v))
    }
}

/// What stands behind `NAME.` can mean: always a group, and where its first part looks like a version, that too.
fn readings(rest: &str) -> Vec<Reading> {
    let mut readings = Vec::with_capacity(2);
    if !rest.ends_with('.') {
        readings.push(Reading { version: None, group: rest.to_owned() });
    }
    let (first, group) = rest.split_once('.').unwrap_or((rest, ""));
    if is_version(first) {
        readings.push(Reading { version: Some(first.to_owned()), group: group.trim_end_matches('.').to_owned() });
    } else if rest.is_empty() {
        readings.push(Reading { version: None, group: String::new() });
    } else if rest.ends_with('.') {
        readings.push(Reading { version: None, group: rest.trim_end_matches('.').to_owned() });
    }
    readings
}

/// `v1`, `v2beta3`: the form of Kubernetes API versions.
fn is_version(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('v') else { return false };
    let after_major = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    if after_major.len() == rest.len() {
        return false;
    }
    let minor = match after_major.strip_prefix("alpha").or_else(|| after_major.strip_prefix("beta")) {
        Some(minor) => minor,
        None => return after_major.is_empty(),
    };
    !minor.is_empty() && minor.chars().all(|c| c.is_ascii_digit())
}

fn has_empty_part(text: &str) -> bool {
    text.split('.').any(str::is_empty)
}

fn is_group_or_below(group: &str, suffix: &str) -> bool {
    let group = group.to_ascii_lowercase();
    group == suffix || group.strip_suffix(suffix).is_some_and(|head| head.ends_with('.'))
}

fn names(t: &ServedType) -> impl Iterator<Item = &str> {
    [t.plural.as_str(), t.singular.as_str(), t.kind.as_str()]
        .into_iter()
        .chain(t.short_names.iter().map(String::as_str))
        .filter(|name| !name.is_empty())
}

fn has_name(t: &ServedType, name: &str) -> bool {
    names(t).any(|n| n.eq_ignore_ascii_case(name))
}

/// kubectl's order: plural or singular name, then short name, then kind; within each, the first in discovery order.
fn match_bare<'a>(name: &str, served: &'a [ServedType]) -> Vec<&'a ServedType> {
    let resource = |t: &ServedType| t.plural.eq_ignore_ascii_case(name) || t.singular.eq_ignore_ascii_case(name);
    let short = |t: &ServedType| t.short_names.iter().any(|s| s.eq_ignore_ascii_case(name));
    let kind = |t: &ServedType| t.kind.eq_ignore_ascii_case(name);
    let picked = served
        .iter()
        .find(|t| resource(t))
        .or_else(|| served.iter().find(|t| short(t)))
        .or_else(|| served.iter().find(|t| kind(t)));
    let Some(picked) = picked else { return Vec::new() };
    let picked = (picked.group.as_str(), picked.plural.as_str());
    served.iter().filter(|t| (t.group.as_str(), t.plural.as_str()) == picked || is_twin(t, picked)).collect()
}

fn is_twin(t: &ServedType, of: (&str, &str)) -> bool {
    let this = (t.group.as_str(), t.plural.as_str());
    TWINS.iter().any(|&[a, b]| (a == this && b == of) || (b == this && a == of))
}

fn nearest_group(wanted: &str, served: &[ServedType]) -> Option<String> {
    served
        .iter()
        .filter(|t| !t.group.is_empty())
        .map(|t| (strsim::osa_distance(wanted, &t.group), t))
        .filter(|(distance, _)| *distance <= tolerance(wanted))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, t)| group_resource("*", &t.group))
}

/// How many letters may differ for a hint to help rather than to puzzle: one in three.
fn tolerance(wanted: &str) -> usize {
    (wanted.len() / 3).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{names, served};

    fn matched(pattern: &str) -> Vec<String> {
        let served = served();
        let pattern = TypePattern::parse(pattern).unwrap();
        pattern.matches(&served).into_iter().map(|t| format!("{}@{}", t.name(), t.version)).collect()
    }

    #[test]
    fn every_form_of_the_grammar_finds_its_type() {
        let deployments = ["deployments.apps@v1"];
        let pods = ["pods@v1"];
        for entry in ["pods", "PO", "Pod", "pod", " pods ", "pods.", "pods.v1.", "pods.v1", "Pod.v1."] {
            assert_eq!(matched(entry), pods, "{entry}");
        }
        for entry in ["deployments.apps", "deploy", "deployments.v1.apps", "Deployment.apps", "DEPLOY.v1.apps"] {
            assert_eq!(matched(entry), deployments, "{entry}");
        }
        assert_eq!(matched("jobs.v1.batch"), ["jobs.batch@v1"]);
        assert_eq!(matched("horizontalpodautoscalers.v1.autoscaling"), ["horizontalpodautoscalers.autoscaling@v1"]);
        assert_eq!(
            matched("*.istio.io"),
            ["virtualservices.networking.istio.io@v1", "telemetries.telemetry.istio.io@v1"]
        );
        assert_eq!(matched("*").len(), served().len());
    }

    #[test]
    fn a_group_that_begins_like_a_version_is_found_too() {
        assert_eq!(matched("widgets.v1.example.com"), ["widgets.example.com@v1", "widgets.v1.example.com@v3"]);
    }

    #[test]
    fn a_bare_name_means_what_kubectl_would_pick_and_its_twin() {
        assert_eq!(matched("events"), ["events@v1", "events.events.k8s.io@v1"]);
        assert_eq!(matched("ev"), ["events@v1", "events.events.k8s.io@v1"]);
        // The core Service, not Knative's.
        assert_eq!(matched("services"), ["services@v1"]);
        assert_eq!(matched("services.serving.knative.dev"), ["services.serving.knative.dev@v1"]);
        // One version-qualified entry is exactly that type.
        assert_eq!(matched("events.v1."), ["events@v1"]);
    }

    #[test]
    fn a_suffix_stops_at_a_dot() {
        assert_eq!(matched("*.tio.io"), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        use PatternError as E;
        let cases = [
            ("", E::Empty),
            ("  ", E::Empty),
            ("pods/log", E::Character { entry: "pods/log".into(), character: '/' }),
            ("pöds", E::Character { entry: "pöds".into(), character: 'ö' }),
            ("po*", E::Wildcard("po*".into())),
            ("pods.*", E::Wildcard("pods.*".into())),
            ("*.*", E::Wildcard("*.*".into())),
            ("*.", E::EmptyPart("*.".into())),
            (".apps", E::EmptyPart(".apps".into())),
            ("pods..apps", E::EmptyPart("pods..apps".into())),
            ("pods..", E::EmptyPart("pods..".into())),
        ];
        for (entry, expected) in cases {
            assert_eq!(TypePattern::parse(entry), Err(expected), "{entry:?}");
        }
        assert_eq!(TypePattern::parse(&"a".repeat(317)), Err(E::TooLong(317)));
    }

    #[test]
    fn a_near_miss_gets_a_hint_and_a_far_one_does_not() {
        let hint = |entry: &str| TypePattern::parse(entry).unwrap().nearest(&served());
        assert_eq!(hint("deploymnets").as_deref(), Some("deployments.apps"));
        assert_eq!(hint("confgmap").as_deref(), Some("configmaps"));
        assert_eq!(hint("*.networking.istoi.io").as_deref(), Some("*.networking.istio.io"));
        assert_eq!(hint("zebras"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_or_a_match_invent_types(entry in "\\PC{0,40}") {
            if let Ok(pattern) = TypePattern::parse(&entry) {
                let served = served();
                prop_assert!(pattern.matches(&served).len() <= served.len());
            }
        }

        #[test]
        fn the_full_name_of_a_type_always_finds_that_type(index in 0usize..16) {
            let served = served();
            let wanted = &served[index % served.len()];
            let entry = if wanted.group.is_empty() { format!("{}.", wanted.plural) } else { wanted.name() };
            let found = names(&TypePattern::parse(&entry).unwrap().matches(&served));
            prop_assert!(found.contains(&wanted.name()), "{entry}: {found:?}");
        }
    }
}
