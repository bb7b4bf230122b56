//! JSON string literals: reading them without loss of the odd ones, and writing them.

use std::borrow::Cow;
use std::io::Write as _;

/// Decodes a JSON string literal, quotes included; `None` when `literal` is not one.
///
/// An escaped lone surrogate (`"\ud800"`), which JSON's grammar allows and UTF-8 cannot hold, becomes U+FFFD, as Go's
/// decoder has it. `literal` must have passed a JSON parser, so that escapes are complete.
#[must_use]
pub fn decode(literal: &str) -> Option<Cow<'_, str>> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    match serde_json::from_str::<String>(literal) {
        Ok(text) => Some(Cow::Owned(text)),
        Err(_) => decode_lossy(inner).map(Cow::Owned),
    }
}

/// As [`decode`], and `None` also for an empty string.
#[must_use]
pub fn decode_non_empty(literal: &str) -> Option<Cow<'_, str>> {
    decode(literal).filter(|text| !text.is_empty())
}

fn decode_lossy(inner: &str) -> Option<String> {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (plain, escape) = rest.split_at_checked(at)?;
        out.push_str(plain);
        let mut chars = escape.chars();
        chars.next();
        match chars.next()? {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'u' => {
                let (decoded, length) = unicode_escape(escape)?;
                out.push(decoded);
                rest = escape.get(length..)?;
                continue;
            }
            other => out.push(other),
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    Some(out)
}

/// The character of the `\uXXXX` (or surrogate pair) at the start of `text`, and the bytes that it takes.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    let unit = |from: usize| {
        let escape = text.get(from..from + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let first = unit(0)?;
    let pair = [first, unit(6).unwrap_or_default()];
    match char::decode_utf16(pair).next()? {
        Ok(decoded) => Some((decoded, if decoded.len_utf16() == 2 { 12 } else { 6 })),
        Err(_) => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

/// Appends `text` as a JSON string literal, quotes included.
pub fn write_literal(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string literal, without the quotes.
///
/// Only what JSON demands is escaped: the quote, the backslash and control characters.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    for bytes in words {
        let word = u64::from_le_bytes(*bytes);
        match quotes_and_backslashes(word) {
            Some(0) => out.extend_from_slice(bytes),
            Some(marks) => {
                escape_half(word & LOWER, marks & LOWER, out);
                escape_half(word >> 32, marks >> 32, out);
            }
            None => escape_bytes(bytes, out),
        }
    }
    escape_bytes(rest, out);
}

/// Four of eight bytes.
const LOWER: u64 = u32::MAX as u64;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHEST: u64 = ONES * 0x80;

/// The highest bits of the bytes that need a backslash; `None` if control characters need more than that.
fn quotes_and_backslashes(word: u64) -> Option<u64> {
    // Adding to the lower seven bits carries into the highest one, and never into the next byte.
    let is_at_least = |word: u64, least: u64| ((word & !HIGHEST) + ONES * (0x80 - least)) | word;
    let differs_from = |byte: u8| is_at_least(word ^ (ONES * u64::from(byte)), 1);
    let has_no_controls = is_at_least(word, 0x20) & HIGHEST == HIGHEST;
    has_no_controls.then(|| !(differs_from(b'"') & differs_from(b'\\')) & HIGHEST)
}

/// Appends four bytes, the lowest first, with a backslash before each that is marked.
///
/// JSON inside of JSON has a quote in most words. To shift them apart and to append eight bytes whatever the length takes a
/// few instructions; to copy pieces of a few bytes takes many times as much.
fn escape_half(bytes: u64, mut marks: u64, out: &mut Vec<u8>) {
    let mut escaped = bytes;
    let mut end = out.len() + 4;
    while marks != 0 {
        let first = (marks & marks.wrapping_neg()) >> 7;
        let before = first - 1;
        escaped = (escaped & before) | (first * u64::from(b'\\')) | ((escaped & !before) << 8);
        // Those that follow have moved.
        marks = (marks & (marks - 1)) << 8;
        end += 1;
    }
    out.extend_from_slice(&escaped.to_le_bytes());
    out.truncate(end);
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Writing into a Vec cannot fail.
            ..0x20 => drop(write!(out, "\\u{byte:04x}")),
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_literals_decode() {
        for (literal, text) in [
            (r#""plain""#, Some("plain")),
            (r#""a\"b\\c\/d\n\u00e4\ud83d\ude00""#, Some("a\"b\\c/d\nä😀")),
            (r#""\ud83dx""#, Some("\u{fffd}x")),
            (r#""x\udc00\ud83d\ude00\t""#, Some("x\u{fffd}😀\t")),
            (r#""\ud83d\ud83d\ude00""#, Some("\u{fffd}😀")),
            ("17", None),
            ("null", None),
        ] {
            assert_eq!(decode(literal).as_deref(), text, "{literal}");
        }
    }

    proptest! {
        #[test]
        fn only_what_json_demands_is_escaped(text in r#"[ -~\n\u{0}-\u{ff}é😀"\\]{0,40}"#) {
            let mut literal = Vec::new();
            write_literal(&text, &mut literal);
            // Of these two, serde_json has shorter spellings.
            prop_assume!(!text.contains(['\u{8}', '\u{c}']));
            prop_assert_eq!(String::from_utf8(literal).unwrap(), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn a_written_literal_reads_back(text in any::<String>()) {
            let mut literal = Vec::new();
            write_literal(&text, &mut literal);
            prop_assert_eq!(serde_json::from_slice::<String>(&literal).unwrap(), text.clone());
            prop_assert_eq!(decode(std::str::from_utf8(&literal).unwrap()).unwrap(), text);
        }
    }
}
