//! The members of one JSON object as slices of its text.

use std::collections::HashMap;

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

/// The value of the member called `name`.
#[must_use]
pub fn find<'a>(fields: &[Field<'a>], name: &str) -> Option<&'a str> {
    fields.iter().find(|field| field.is(name)).map(|field| field.value)
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
