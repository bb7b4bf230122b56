//! Removing the whitespace between JSON tokens.

/// Appends valid JSON text without the whitespace between its tokens.
///
/// API servers send compact JSON already; then this is one look for suspicious whitespace and one copy.
pub(crate) fn write_compact(json: &str, out: &mut Vec<u8>) {
    if may_have_gaps(json.as_bytes()) {
        copy_without_gaps(json.as_bytes(), out)
    } else {
        out.extend_from_slice(json.as_bytes())
    }
}

/// Whether whitespace may stand outside of string literals.
///
/// Tabs and line ends cannot stand inside of literals. A run of blanks between two tokens always has punctuation on one
/// side, because JSON never puts two values side by side; prose like `"a, b"` is a false alarm that only costs time.
fn may_have_gaps(json: &[u8]) -> bool {
    if memchr::memchr3(b'\n', b'\r', b'\t', json).is_some() {
        return true;
    }
    memchr::memchr_iter(b' ', json).any(|at| {
        let before = at.checked_sub(1).and_then(|index| json.get(index));
        let after = json.get(at + 1);
        matches!(before, None | Some(b':' | b',' | b'{' | b'['))
            || matches!(after, None | Some(b':' | b',' | b'}' | b']'))
    })
}

fn copy_without_gaps(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    loop {
        let Some(quote) = memchr::memchr(b'"', rest) else {
            out.extend(rest.iter().filter(|byte| !byte.is_ascii_whitespace()));
            return;
        };
        let (between, literal) = rest.split_at(quote);
        out.extend(between.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let (literal, behind) = literal.split_at(literal_length(literal));
        out.extend_from_slice(literal);
        rest = behind;
    }
}

/// Length of the string literal that `json` starts with, both quotes included.
fn literal_length(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}
