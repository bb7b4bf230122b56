//! The members of an object and of its metadata, found in one pass over its text.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::body::{Body, Lengths};
use super::error::{ObjectError, utf8};
use super::fields::{Field, without_repeats};
use super::scan::Scan;

/// An object, not looked into any deeper than its metadata.
///
/// Any JSON value reads as one: what is wrong with an item must not stop the list that it stands in.
#[derive(Clone, Debug)]
pub struct Outline<'a> {
    top: Members<'a>,
    metadata: Members<'a>,
}

/// The members of something that ought to be an object.
#[derive(Clone, Debug, Default)]
enum Members<'a> {
    /// It is not there, or `null`.
    #[default]
    Missing,
    /// It is something else.
    Odd,
    Fields(Vec<Field<'a>>),
}

/// Members for which there is room from the start.
const EXPECTED: usize = 16;

impl<'a> Outline<'a> {
    /// Reads the text of one object.
    ///
    /// # Errors
    /// It is not JSON, or no object.
    pub fn parse(json: &'a str) -> Result<Self, ObjectError> {
        let mut scan = Scan::new(json);
        if let Some(outline) = Self::scan(&mut scan).filter(|_| scan.is_at_end()) {
            return Ok(outline);
        }
        if !json.trim_ascii_start().starts_with('{') {
            return Err(ObjectError::WrongType { what: "object", expected: "a JSON object" });
        }
        serde_json::from_str(json).map_err(|source| ObjectError::syntax("object", &source))
    }

    /// As [`Self::parse`]. The ends of those members are not looked for whose lengths the body knows.
    ///
    /// # Errors
    /// As [`Self::parse`]; or the body is not UTF-8.
    pub fn of(body: &'a Body) -> Result<Self, ObjectError> {
        let json = utf8(body)?;
        Self::by_lengths(json, body.lengths()).map_or_else(|| Self::parse(json), Ok)
    }

    /// `None` where the lengths are not those of `json`, or of none of it.
    pub(super) fn by_lengths(json: &'a str, lengths: &Lengths) -> Option<Self> {
        let mut scan = Scan::new(json);
        let mut lengths = lengths.iter();
        let outline = Self::read(&mut scan, |scan, field| {
            if field.is("apiVersion") || field.is("kind") {
                return Some(false);
            }
            field.value = scan.take_text(lengths.next()?)?;
            Some(true)
        })?;
        scan.is_at_end().then_some(outline)
    }

    /// Reads an object at a place in a text, if it is one of those that [`Scan`] reads.
    pub(super) fn scan(scan: &mut Scan<'a>) -> Option<Self> {
        Self::read(scan, |_, _| Some(false))
    }

    /// As [`Self::scan`]. `other` may read the value of a member itself, other than that of `metadata`.
    fn read(scan: &mut Scan<'a>, mut other: impl FnMut(&mut Scan<'a>, &mut Field<'a>) -> Option<bool>) -> Option<Self> {
        let mut metadata = Members::Missing;
        let top = scan.fields(EXPECTED, |scan, field| {
            if !field.is("metadata") {
                return other(scan, field);
            }
            metadata = match scan.peek()? {
                b'{' => Members::Fields(scan.fields(EXPECTED, |_, _| Some(false))?),
                b'n' => scan.value().map(|_| Members::Missing)?,
                _ => return None,
            };
            Some(true)
        })?;
        Some(Self { top: Members::Fields(top), metadata })
    }

    /// As [`Self::scan`], with the text of the object.
    pub(super) fn scan_with_text(scan: &mut Scan<'a>) -> Option<(&'a str, Self)> {
        let from = scan.at();
        let outline = Self::scan(scan)?;
        Some((scan.since(from)?, outline))
    }

    /// The members at top level. The value of `metadata` is left empty: see [`Self::metadata`].
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn top(&self) -> Result<&[Field<'a>], ObjectError> {
        match &self.top {
            Members::Fields(fields) => Ok(fields),
            Members::Missing | Members::Odd => {
                Err(ObjectError::WrongType { what: "object", expected: "a JSON object" })
            }
        }
    }

    /// The members of `metadata`.
    ///
    /// # Errors
    /// There is none, or it is no JSON object.
    pub fn metadata(&self) -> Result<&[Field<'a>], ObjectError> {
        match &self.metadata {
            Members::Fields(fields) => Ok(fields),
            Members::Missing => Err(ObjectError::Missing { what: "metadata" }),
            Members::Odd => Err(ObjectError::WrongType { what: "metadata", expected: "a JSON object" }),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Outline<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut metadata = Members::Missing;
        let top = Reading { metadata: Some(&mut metadata) }.deserialize(deserializer)?;
        Ok(Self { top, metadata })
    }
}

/// Reads the members of an object, and those of its `metadata` into there.
struct Reading<'m, 'de> {
    metadata: Option<&'m mut Members<'de>>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_, 'de> {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_, 'de> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { mut metadata } = self;
        let mut fields = Vec::with_capacity(EXPECTED);
        while let Some(key) = map.next_key::<&'de RawValue>()? {
            let mut field = Field { key: key.get(), value: "" };
            match &mut metadata {
                // The last of several counts, as everywhere.
                Some(metadata) if field.is("metadata") => {
                    **metadata = map.next_value_seed(Reading { metadata: None })?;
                }
                _ => field.value = map.next_value::<&'de RawValue>()?.get(),
            }
            fields.push(field);
        }
        Ok(Members::Fields(without_repeats(fields)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Members::Odd)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Members::Missing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Members::Odd)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Members::Odd)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Members::Odd)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Members::Odd)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Members::Odd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<'a>(fields: &[Field<'a>]) -> Vec<(&'a str, &'a str)> {
        fields.iter().map(|field| (field.key, field.value)).collect()
    }

    #[test]
    fn the_members_of_both_levels_are_slices_of_the_text() {
        let outline =
            Outline::parse(r#"{"a": [1, 2], "metadata" : {"name":"x","labels":{"b": 1}}, "z":1e400}"#).unwrap();
        assert_eq!(keys(outline.top().unwrap()), [(r#""a""#, "[1, 2]"), (r#""metadata""#, ""), (r#""z""#, "1e400")]);
        assert_eq!(keys(outline.metadata().unwrap()), [(r#""name""#, r#""x""#), (r#""labels""#, r#"{"b": 1}"#)]);
    }

    #[test]
    fn the_last_metadata_counts_however_it_is_spelled() {
        let outline = Outline::parse(r#"{"metadata":{"name":"x"},"meta\u0064ata":{"name":"y"}}"#).unwrap();
        assert_eq!(keys(outline.metadata().unwrap()), [(r#""name""#, r#""y""#)]);
        assert_eq!(outline.top().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_object_is_told_only_when_it_is_asked_for() {
        for odd in ["[1,{}]", "1", "-1", "1.5", "true", r#""text""#] {
            assert!(serde_json::from_str::<Outline<'_>>(odd).unwrap().top().is_err(), "{odd}");
            assert!(Outline::parse(odd).is_err(), "{odd}");
            let json = format!(r#"{{"metadata":{odd}}}"#);
            let expected = ObjectError::WrongType { what: "metadata", expected: "a JSON object" };
            assert_eq!(Outline::parse(&json).unwrap().metadata().unwrap_err(), expected, "{odd}");
        }
        for missing in ["{}", r#"{"metadata":null}"#] {
            let error = Outline::parse(missing).unwrap().metadata().unwrap_err();
            assert_eq!(error, ObjectError::Missing { what: "metadata" });
        }
    }
}
