//! Splits a JSON object into its members.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ObjectError;
use super::fields::{Field, without_repeats};
use super::scan::Scan;

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
