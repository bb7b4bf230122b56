//! Reads values and names of discovery documents one by one, so that an invalid entry does not affect the next.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest accepted name of a group, version, kind or resource. Kubernetes itself allows 253 for a group and less for
/// the others.
const MAX_NAME: usize = 253;
/// Most verbs, short names or categories of one type that are read.
const MAX_WORDS: usize = 64;
/// Characters of an unusable value that a message shows.
const SHOWN: usize = 80;

/// A member of a document; `None` if it is missing or `null`.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// The members that documents and their parts may have, as unparsed values. A document that repeats a member is
/// refused.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Members<'a> {
    #[serde(borrow, default)]
    pub(super) kind: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) metadata: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) items: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) groups: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) versions: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) preferred_version: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) group_version: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) name: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) version: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) freshness: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) resources: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) resource: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) response_kind: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) scope: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) namespaced: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) singular_resource: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) singular_name: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) verbs: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) short_names: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) categories: Raw<'a>,
}

impl<'a> Members<'a> {
    /// The members of `raw`; no members if it is missing.
    pub(super) fn of(raw: Raw<'a>) -> Result<Self, String> {
        raw.map_or_else(|| Ok(Self::default()), |raw| Self::parse(raw.get()))
    }

    /// The members of an object.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        // serde would read a list as the members in their order.
        if !text.trim_start().starts_with('{') {
            return Err(format!("it is not an object: {}", show(text)));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// The items of a list; no items if it is missing or `null`. The caller handles items that are `null`.
pub(super) fn list<'a>(raw: Raw<'a>, what: &str) -> Result<Vec<&'a RawValue>, String> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    serde_json::from_str(raw.get()).map_err(|_| format!("its {what} are not a list: {}", show(raw.get())))
}

/// Text; empty if it is missing or `null`.
pub(super) fn text(raw: Raw<'_>, what: &str) -> Result<String, String> {
    let Some(raw) = raw else { return Ok(String::new()) };
    serde_json::from_str(raw.get()).map_err(|_| format!("its {what} is not text: {}", show(raw.get())))
}

/// Text that is safe in a path and in a subject.
pub(super) fn name(raw: Raw<'_>, what: &str) -> Result<String, String> {
    let text = text(raw, what)?;
    match flaw(&text) {
        Some(flaw) => Err(format!("its {what} {flaw}")),
        None => Ok(text),
    }
}

/// Says why `text` is not safe in a path; `None` if it is.
fn flaw(text: &str) -> Option<String> {
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "" => Some("is empty".to_owned()),
        _ if text.len() > MAX_NAME => Some(format!("is longer than {MAX_NAME} bytes: {}", show(text))),
        _ if text.starts_with('.') || !text.chars().all(usual) => Some(format!("is not a name: {}", show(text))),
        _ => None,
    }
}

/// The items of a list that are valid names. An invalid short name is no reason to leave out the type.
pub(super) fn words(raw: Raw<'_>) -> Vec<String> {
    let items = list(raw, "").unwrap_or_default();
    items.into_iter().filter_map(|item| name(Some(item), "").ok()).take(MAX_WORDS).collect()
}

/// Text that a server sent, shortened and escaped for people.
pub(super) fn show(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).take(SHOWN * 2).collect();
    if text.chars().nth(SHOWN).is_some() { format!("`{shown}…`") } else { format!("`{shown}`") }
}
