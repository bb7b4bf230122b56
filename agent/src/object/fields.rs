//! The members of one JSON object as slices of its text.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ObjectError;
use super::scan::Scan;
use super::text;

/// One member: both halves are slices of the input, verbatim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The key as a JSON string literal, quotes included.
    pub key: &'a str,
    /// The value as JSON text, without surrounding whitespace.
    pub value: &'a str,
}

impl Field<'_> {
    /// Whether the key spells `name`, escapes resolved. `name` must need no escape itself.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let Some(inner) = self.key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) else { return false };
        // A literal with escapes is never shorter than what it spells, so only a longer one needs decoding.
        inner == name || (inner.len() > name.len() && text::decode(self.key).is_some_and(|key| key == name))
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value == "null"
    }
}

/// Splits a JSON object into its members, in order. A repeated key keeps its first place and its last value, which is
/// what a parser that overwrites sees. Nested values are checked for syntax but not looked into.
///
/// # Errors
/// `what` names the text in the message: not an object, or not JSON.
pub fn split<'a>(json: &'a str, what: &'static str) -> Result<Vec<Field<'a>>, ObjectError> {
    let mut scan = Scan::new(json);
    if let Some(fields) = scan.fields(EXPECTED, |_, _| Some(false)).filter(|_| scan.is_at_end()) {
        return Ok(fields);
    }
    if !json.trim_ascii_start().starts_with('{') {
        return Err(ObjectError::WrongType { what, expected: "a JSON object" });
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let fields = reader.deserialize_map(FieldsVisitor).map_err(|source| ObjectError::syntax(what, &source))?;
    reader.end().map_err(|source| ObjectError::syntax(what, &source))?;
    Ok(without_repeats(fields))
}

/// The value of the member called `name`.
#[must_use]
pub fn find<'a>(fields: &[Field<'a>], name: &str) -> Option<&'a str> {
    fields.iter().find(|field| field.is(name)).map(|field| field.value)
}

/// Members for which there is room from the start.
const EXPECTED: usize = 8;

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<Field<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(EXPECTED);
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            fields.push(Field { key: key.get(), value: value.get() });
        }
        Ok(fields)
    }
}

/// Up to this many members are compared pair by pair, which needs no allocation.
const FEW: usize = 24;

/// Leaves out what a later member with the same key replaces.
pub(super) fn without_repeats(mut fields: Vec<Field<'_>>) -> Vec<Field<'_>> {
    let plain = fields.iter().all(|field| memchr::memchr(b'\\', field.key.as_bytes()).is_none());
    if plain && fields.len() <= FEW {
        let repeated =
            fields.iter().enumerate().any(|(index, field)| fields.iter().skip(index + 1).any(|f| f.key == field.key));
        if !repeated {
            return fields;
        }
    }
    let mut places = HashMap::with_capacity(fields.len());
    let mut kept: Vec<Field<'_>> = Vec::with_capacity(fields.len());
    for field in fields.drain(..) {
        let place = *places.entry(text::decode(field.key)).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(earlier) => earlier.value = field.value,
            None => kept.push(field),
        }
    }
    kept
}
