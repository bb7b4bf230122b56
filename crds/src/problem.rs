//! What is wrong, or worth a word, in an `informer_config`.

use std::fmt;

use crate::pattern::PatternError;

/// Entries that a message quotes; the others are counted.
const MAX_QUOTED: usize = 3;
/// Longest entry that is quoted in full.
const MAX_ENTRY: usize = 80;
/// Notes that a rejection tells besides what is fatal.
const MAX_NOTES: usize = 5;

/// Which list of `informer_config` an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `informer_config.blacklist`
    Blacklist,
    /// `informer_config.whitelist`
    Whitelist,
    /// `informer_config.metadataOnly`
    MetadataOnly,
    /// `--outputResources` of the agent, which narrows any `informer_config`.
    OutputResources,
}

impl Field {
    /// Path of the field in the spec of a MeshSync.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Blacklist => "informer_config.blacklist",
            Self::Whitelist => "informer_config.whitelist",
            Self::MetadataOnly => "informer_config.metadataOnly",
            Self::OutputResources => "--outputResources",
        }
    }
}

/// What is wrong, or worth a word, in an `informer_config`. The message names field, position and entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// An entry that is not a type pattern.
    #[error("{}[{index}]: {source}", field.path())]
    BadPattern {
        /// The list.
        field: Field,
        /// Position in the list, from 0.
        index: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// An entry that matches nothing that the server serves now. It is matched again whenever that changes.
    #[error("{}[{index}]: `{entry}` matches no type that the API server serves now{}", field.path(), hint_text(hint))]
    NoMatch {
        /// The list.
        field: Field,
        /// Position in the list, from 0.
        index: usize,
        /// The entry as written.
        entry: String,
        /// A served name that looks like it.
        hint: Option<String>,
    },
    /// An entry whose types exist but cannot be listed and watched.
    #[error("{}[{index}]: `{entry}` matches only types that cannot be listed and watched", field.path())]
    NotWatchable {
        /// The list.
        field: Field,
        /// Position in the list, from 0.
        index: usize,
        /// The entry as written.
        entry: String,
    },
    /// Nothing is left to watch.
    #[error("informer_config leaves no type to watch: {reason}")]
    NothingSelected {
        /// Which entries of which lists caused it.
        reason: Nothing,
    },
    /// Every included namespace is excluded again.
    #[error(
        "informer_config.namespaces: every included namespace is excluded again, so that no namespaced object is left"
    )]
    NoNamespace,
    /// The agent's command line takes away all that the configuration selects.
    #[error("{} leaves none of the {what} that informer_config selects", list(flag, entries))]
    NarrowedAway {
        /// The flag.
        flag: &'static str,
        /// Its values.
        entries: Vec<String>,
        /// What is left none of: types, or namespaces.
        what: &'static str,
    },
}

impl Problem {
    /// Whether the configuration as a whole is unusable.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::BadPattern { .. } | Self::NothingSelected { .. } | Self::NoNamespace | Self::NarrowedAway { .. } => {
                true
            }
            Self::NoMatch { .. } | Self::NotWatchable { .. } => false,
        }
    }

    /// Static reason, PascalCase, for conditions, events and metrics alike.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadPattern { .. } => "InvalidTypePattern",
            Self::NoMatch { .. } => "UnknownType",
            Self::NotWatchable { .. } => "TypeNotWatchable",
            Self::NothingSelected { .. } | Self::NoNamespace | Self::NarrowedAway { .. } => "NothingSelected",
        }
    }
}

/// Why nothing is left to watch, with the entries that are to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// There is no whitelist, and the blacklist leaves no type out.
    BlacklistCoversAll {
        /// Its entries.
        blacklist: Vec<String>,
    },
    /// No entry of the whitelist means a served type.
    WhitelistMatchesNothing {
        /// Its entries.
        whitelist: Vec<String>,
    },
    /// What the whitelist means is served, but not for watching.
    WhitelistNotWatchable {
        /// Its entries.
        whitelist: Vec<String>,
    },
    /// The blacklist takes away all that the whitelist asks for.
    CancelOut {
        /// Entries that mean a type that can be watched.
        whitelist: Vec<String>,
        /// Entries that take one of those away.
        blacklist: Vec<String>,
    },
}

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |field: Field, entries: &[String]| list(field.path(), entries);
        match self {
            Self::BlacklistCoversAll { blacklist } => {
                write!(f, "{} covers every type", list(Field::Blacklist, blacklist))
            }
            Self::WhitelistMatchesNothing { whitelist } => {
                write!(f, "{} matches no type that the API server serves now", list(Field::Whitelist, whitelist))
            }
            Self::WhitelistNotWatchable { whitelist } => {
                write!(f, "{} matches only types that cannot be listed and watched", list(Field::Whitelist, whitelist))
            }
            Self::CancelOut { whitelist, blacklist } => {
                let (excluded, included) = (list(Field::Blacklist, blacklist), list(Field::Whitelist, whitelist));
                write!(f, "{excluded} excludes all that {included} includes")
            }
        }
    }
}

/// A list and its entries.
fn list(path: &str, entries: &[String]) -> String {
    format!("{path} ({})", quoted(entries))
}

/// The first few entries, and how many there are besides: a list may have hundreds.
fn quoted(entries: &[String]) -> String {
    let quote = |entry: &String| match entry.char_indices().nth(MAX_ENTRY) {
        Some((end, _)) => format!("`{}…`", entry.get(..end).unwrap_or_default()),
        None => format!("`{entry}`"),
    };
    let first: Vec<String> = entries.iter().take(MAX_QUOTED).map(quote).collect();
    first.join(", ") + &more(entries.len(), MAX_QUOTED)
}

fn more(all: usize, told: usize) -> String {
    match all.saturating_sub(told) {
        0 => String::new(),
        left => format!(" and {left} more"),
    }
}

/// Why a configuration may not be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// That of the first fatal problem.
    pub reason: &'static str,
    /// What is fatal, then the first of what is not: a misspelt entry is often the cause of what is fatal.
    pub message: String,
}

impl Rejection {
    /// `None` if no problem is fatal.
    pub(crate) fn of(problems: &[Problem]) -> Option<Self> {
        let (fatal, notes): (Vec<_>, Vec<_>) = problems.iter().partition(|problem| problem.is_fatal());
        let reason = fatal.first()?.reason();
        let told = fatal.into_iter().chain(notes.iter().copied().take(MAX_NOTES));
        let message = told.map(ToString::to_string).collect::<Vec<_>>().join("; ") + &more(notes.len(), MAX_NOTES);
        Some(Self { reason, message })
    }
}

fn hint_text(hint: &Option<String>) -> String {
    hint.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("type{number}")).collect()
    }

    #[test]
    fn of_many_entries_the_first_are_quoted_and_the_others_counted() {
        assert_eq!(quoted(&names(3)), "`type0`, `type1`, `type2`");
        assert_eq!(quoted(&names(250)), "`type0`, `type1`, `type2` and 247 more");
        assert_eq!(quoted(&["ä".repeat(300)]), format!("`{}…`", "ä".repeat(MAX_ENTRY)));
    }

    #[test]
    fn a_rejection_tells_what_is_fatal_first_and_stays_short() {
        let note = |(index, entry)| Problem::NoMatch { field: Field::Whitelist, index, entry, hint: None };
        let mut problems: Vec<Problem> = names(200).into_iter().enumerate().map(note).collect();
        assert_eq!(Rejection::of(&problems), None);
        problems.push(Problem::NothingSelected { reason: Nothing::WhitelistMatchesNothing { whitelist: names(200) } });
        let Rejection { reason, message } = Rejection::of(&problems).unwrap();
        assert_eq!(reason, "NothingSelected");
        assert!(message.starts_with("informer_config leaves no type to watch: informer_config.whitelist (`type0`"));
        assert!(message.contains("whitelist[4]: `type4`") && message.ends_with(" and 195 more"), "{message}");
        assert!(!message.contains("whitelist[5]") && message.len() < 700, "{message}");
    }
}
