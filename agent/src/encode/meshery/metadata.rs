//! `metadata` as columns.

use std::borrow::Cow;

use crate::encode::Detail;
use crate::encode::members::Members;
use crate::object::fields::{Field, find};
use crate::object::split::split;
use crate::object::{ObjectError, text};

/// Label in which Meshery keeps the id of the design that an object was deployed from.
const DESIGN_LABEL: &str = "design.meshery.io/id";

/// Writes and closes `columns`. Gives the design id, if a label holds one.
pub(super) fn write(
    metadata: &[Field<'_>],
    detail: Detail,
    mut columns: Members<'_>,
) -> Result<Option<String>, ObjectError> {
    let present = |name: &str| find(metadata, name).filter(|value| *value != "null");
    let strings = |columns: &mut Members<'_>, names: &[&str]| {
        for name in names {
            let value = present(name).and_then(text::decode).unwrap_or_default();
            columns.decoded_unless_empty(name, &value);
        }
    };
    columns.string("id", "");
    if detail == Detail::Skeleton {
        strings(&mut columns, &["name", "namespace"]);
        columns.string("uid", &present("uid").and_then(text::decode).unwrap_or_default());
        strings(&mut columns, &["resourceVersion"]);
        columns.string("cluster_id", "");
        columns.close();
        return Ok(None);
    }
    strings(&mut columns, &["name", "generateName", "namespace", "selfLink"]);
    columns.string("uid", &present("uid").and_then(text::decode).unwrap_or_default());
    strings(&mut columns, &["resourceVersion"]);
    if let Some(generation) = present("generation").filter(|value| is_integer(value) && *value != "0") {
        columns.raw("generation", generation);
    }
    strings(&mut columns, &["creationTimestamp", "deletionTimestamp"]);
    if let Some(seconds) = present("deletionGracePeriodSeconds").filter(|value| is_integer(value)) {
        columns.raw("deletionGracePeriodSeconds", seconds);
    }

    let labels = pairs(present("labels"), "metadata.labels")?;
    write_pairs("labels", "label", &labels, &mut columns);
    if detail == Detail::Full {
        let annotations = pairs(present("annotations"), "metadata.annotations")?;
        write_pairs("annotations", "annotation", &annotations, &mut columns);
    }
    for name in ["ownerReferences", "finalizers"] {
        if let Some(json) = present(name) {
            columns.text_unless_empty(name, json);
        }
    }
    columns.string("cluster_id", "");
    columns.close();
    Ok(labels.iter().find(|(key, _)| key == DESIGN_LABEL).and_then(|(_, value)| uuid(value)))
}

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The members of a map of strings, decoded, sorted by key. A value of another kind is its JSON text.
fn pairs<'a>(json: Option<&'a str>, what: &'static str) -> Result<Vec<Pair<'a>>, ObjectError> {
    let Some(json) = json.filter(|json| json.starts_with('{')) else { return Ok(Vec::new()) };
    let decoded = |field: Field<'a>| {
        // As if it had been decoded: JSON text has quotes.
        let value = text::decode(field.value).unwrap_or_else(|| Cow::Owned(field.value.to_owned()));
        (text::decode(field.key).unwrap_or_default(), value)
    };
    let mut pairs: Vec<_> = split(json, what)?.into_iter().map(decoded).collect();
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(pairs)
}

fn write_pairs(name: &str, kind: &str, pairs: &[Pair<'_>], columns: &mut Members<'_>) {
    if pairs.is_empty() {
        return;
    }
    let out = columns.key(name);
    out.push(b'[');
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut pair = Members::open(out);
        pair.string("id", "");
        pair.string("unique_id", "");
        pair.string("kind", kind);
        pair.decoded_unless_empty("key", key);
        pair.decoded_unless_empty("value", value);
        pair.close();
    }
    out.push(b']');
}

/// Whether the server can read `json` into a 64-bit integer. One number beyond that would cost the whole message.
fn is_integer(json: &str) -> bool {
    json.parse::<i64>().is_ok()
}

/// `text` in lower case, if it is a hyphenated UUID.
fn uuid(text: &str) -> Option<String> {
    let is_uuid = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    is_uuid.then(|| text.to_ascii_lowercase())
}
