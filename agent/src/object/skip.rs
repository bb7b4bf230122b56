//! Getting past a JSON value that is too large to be held.

use super::fields::find;
use super::identity::ObjectName;
use super::scan::Scan;
use super::text;

/// Looks for the end of one JSON value in pieces of text that are not kept. It judges nothing but where strings, objects and
/// arrays end.
#[derive(Debug, Default)]
pub(super) struct Skipper {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Skipper {
    /// Where the value ends in `piece`; none if it goes on behind it.
    pub(super) fn end_in(&mut self, piece: &[u8]) -> Option<usize> {
        for (at, byte) in piece.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // Of a number or a word, only what follows tells the end.
                b'}' | b']' | b',' if self.depth == 0 => return Some(at),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// The name of the object that `text` is the beginning of, if it stands there.
pub(super) fn name_in(text: &str) -> Option<ObjectName> {
    let mut name = None;
    let _end = Scan::new(text).object(|scan, key| {
        if key != r#""metadata""# {
            return scan.value().map(drop);
        }
        let metadata = scan.fields(16, |_, _| Some(false))?;
        let text_at = |key| find(&metadata, key).and_then(text::decode_non_empty);
        name = text_at("name").map(|name| ObjectName::new(text_at("namespace").as_deref(), &name));
        // It is known; the rest is none of our business.
        None
    });
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_text_is_cut() {
        for (text, end) in [
            (r#"{"a":"}]\\\"","b":[{}]},7"#, Some(23)),
            (r#"[[],[1]]]"#, Some(8)),
            (r#""a,b\\",1"#, Some(7)),
            ("17,18", Some(2)),
            ("null]", Some(4)),
            (r#"{"a":"}"#, None),
            ("[1,2", None),
        ] {
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let mut skipper = Skipper::default();
                let found = skipper.end_in(first).or_else(|| skipper.end_in(second).map(|at| cut + at));
                assert_eq!(found, end, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_name_is_found_before_the_object_ends() {
        let name = |text| name_in(text).map(|name| name.to_string());
        assert_eq!(name(r#"{"kind":"A","metadata":{"name":"b","namespace":"a"},"spec":{"#).as_deref(), Some("a/b"));
        assert_eq!(name(r#"{"metadata":{"name":"b"},"spec":"#).as_deref(), Some("b"));
        assert_eq!(name(r#"{"spec":{"a":1},"metadata":{"name":"b","#), None);
        assert_eq!(name(""), None);
    }
}
