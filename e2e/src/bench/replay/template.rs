//! An object as an API server wrote it, cut where copies of it must differ.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What stands between two cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Namespace,
    Uid,
    Version,
    /// A label whose value is the number of the last change.
    Change,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    /// Bytes of a copy, about.
    size: usize,
}

/// What makes a copy.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Plural of the type, with which its name begins.
    pub plural: &'a str,
    /// Number within its type.
    pub number: usize,
    /// resourceVersion.
    pub version: u64,
    /// Number of the last change; 0 before the first.
    pub change: u64,
}

/// Label that holds the number of the last change.
pub const CHANGE_LABEL: &str = "bench-change";
/// Objects of one type in a namespace.
const IN_A_NAMESPACE: usize = 500;

impl Template {
    /// Cuts the JSON of an object.
    ///
    /// # Errors
    /// When it lacks a name, namespace, uid, version or labels.
    pub fn new(json: &str) -> Result<Self> {
        let object: Value = serde_json::from_str(json).context("not JSON")?;
        let text = |field: &str| {
            let value = object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
            value.map(str::to_owned).with_context(|| format!("no metadata.{field}"))
        };
        let version = format!("\"resourceVersion\":\"{}\"", text("resourceVersion")?);
        let mut pieces = vec![Piece::Text(json.to_owned())];
        cut(
            &mut pieces,
            &version,
            &[Piece::Text("\"resourceVersion\":\"".into()), Piece::Version, Piece::Text("\"".into())],
        );
        cut(&mut pieces, &text("uid")?, &[Piece::Uid]);
        cut(&mut pieces, &text("name")?, &[Piece::Name]);
        cut(&mut pieces, &text("namespace")?, &[Piece::Namespace]);
        let label = format!("\"labels\":{{\"{CHANGE_LABEL}\":\"");
        cut_first(&mut pieces, "\"labels\":{", &[Piece::Text(label), Piece::Change, Piece::Text("\",".into())])
            .context("no labels")?;
        Ok(Self { pieces, size: json.len() + 64 })
    }

    /// Appends a copy.
    pub fn write(&self, copy: Copy<'_>, out: &mut String) {
        let Copy { plural, number, version, change } = copy;
        out.reserve(self.size);
        for piece in &self.pieces {
            // Writing into a String cannot fail.
            let _ = match piece {
                Piece::Text(text) => out.write_str(text),
                Piece::Name => write!(out, "{plural}-{number:07}"),
                Piece::Namespace => write!(out, "bench-{:04}", number / IN_A_NAMESPACE),
                Piece::Uid => write!(out, "{:08x}-0000-4000-8000-{number:012x}", fingerprint(plural)),
                Piece::Version => write!(out, "{version}"),
                Piece::Change => write!(out, "{change}"),
            };
        }
    }
}

/// Tells types apart in uids.
fn fingerprint(plural: &str) -> u32 {
    plural.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Puts `by` in the place of each `what` in the text pieces.
fn cut(pieces: &mut Vec<Piece>, what: &str, by: &[Piece]) {
    let mut cut_up = Vec::with_capacity(pieces.len());
    for piece in pieces.drain(..) {
        let Piece::Text(text) = piece else {
            cut_up.push(piece);
            continue;
        };
        for (index, part) in text.split(what).enumerate() {
            if index > 0 {
                cut_up.extend_from_slice(by);
            }
            cut_up.push(Piece::Text(part.to_owned()));
        }
    }
    *pieces = cut_up;
}

/// Puts `by` in the place of the first `what`; none if there is none.
fn cut_first(pieces: &mut Vec<Piece>, what: &str, by: &[Piece]) -> Option<()> {
    let place = pieces.iter().position(|piece| matches!(piece, Piece::Text(text) if text.contains(what)))?;
    let Some(Piece::Text(text)) = pieces.get(place).cloned() else { return None };
    let (before, after) = text.split_once(what)?;
    let new = [Piece::Text(before.to_owned())].into_iter().chain(by.iter().cloned());
    let new: Vec<Piece> = new.chain([Piece::Text(after.to_owned())]).collect();
    pieces.splice(place..=place, new);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"metadata":{"name":"pod-1","namespace":"ns-1","uid":"0-1","resourceVersion":"7","labels":{"app":"x"}},"spec":{"host":"pod-1.ns-1"}}"#;

    #[test]
    fn copies_differ_in_all_that_identifies_them_and_in_nothing_else() {
        let template = Template::new(POD).unwrap();
        let mut copy = String::new();
        template.write(Copy { plural: "pods", number: 501, version: 9, change: 3 }, &mut copy);
        let copy: Value = serde_json::from_str(&copy).unwrap();
        let metadata = &copy["metadata"];
        assert_eq!((&metadata["name"], &metadata["namespace"]), (&"pods-0000501".into(), &"bench-0001".into()));
        assert_eq!((&metadata["resourceVersion"], &metadata["labels"]["app"]), (&"9".into(), &"x".into()));
        assert_eq!(metadata["labels"][CHANGE_LABEL], "3");
        assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
        assert_eq!(copy["spec"]["host"], "pods-0000501.bench-0001");
        assert!(Template::new("{}").is_err());
    }
}
