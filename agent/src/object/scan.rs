//! A quick reader for JSON as API servers write it: one line, no whitespace between tokens.
//!
//! It reads a part of JSON and checks all that it reads; `None` means that the text is none of its business, be it odd or
//! wrong. Then `serde_json` reads it from the start, which decides, and words the error. So whatever is read here must read
//! there as the same: see the differential tests. It is worth having because most of the agent's work is finding the ends of
//! values, and this takes a fifth fewer instructions.

use super::fields::{Field, without_repeats};

/// Values around a value whose kinds stand in one word. Kubernetes' types stay below 30, and nobody needs a second word but
/// who wants to know what happens then.
const WORD: usize = 64;

/// A place in a text.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Whether nothing but whitespace is left.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest().iter().all(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
    }

    /// Reads an object: `member` is given each key and has to read its value.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let key = self.key()?;
            member(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads an array: `item` has to read each item.
    pub(super) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Some(());
        }
        loop {
            item(self)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The members of an object, as [`super::split::split`] gives them. `inner` may read the value of a member itself, and
    /// says whether it did: then the value is left as it is.
    pub(super) fn fields(
        &mut self,
        capacity: usize,
        mut inner: impl FnMut(&mut Self, &mut Field<'a>) -> Option<bool>,
    ) -> Option<Vec<Field<'a>>> {
        let mut fields = Vec::with_capacity(capacity);
        self.object(|scan, key| {
            let mut field = Field { key, value: "" };
            if !inner(scan, &mut field)? {
                field.value = scan.value()?;
            }
            fields.push(field);
            Some(())
        })?;
        Some(without_repeats(fields))
    }

    /// Reads any value and gives its text.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        let from = self.at;
        let mut around = Around::default();
        loop {
            let opened = match self.next()? {
                b'"' => self.skip_string().map(|()| None)?,
                b'{' => Some((1, b'}')),
                b'[' => Some((0, b']')),
                b'-' => self.number().map(|()| None)?,
                b'0'..=b'9' => {
                    self.at -= 1;
                    self.number().map(|()| None)?
                }
                b't' => self.word("rue").map(|()| None)?,
                b'f' => self.word("alse").map(|()| None)?,
                b'n' => self.word("ull").map(|()| None)?,
                _ => return None,
            };
            if let Some((kind, end)) = opened
                && !self.take(end)
            {
                around.push(kind);
                if kind == 1 {
                    self.skip_key()?;
                }
                continue;
            }
            // A value has ended, and with it perhaps those around it.
            loop {
                if around.depth == 0 {
                    return self.since(from);
                }
                match (self.next()?, around.kinds & 1) {
                    (b',', 1) => {
                        self.skip_key()?;
                        break;
                    }
                    (b',', _) => break,
                    (b'}', 1) | (b']', 0) => around.pop(),
                    _ => return None,
                }
            }
        }
    }

    /// Where the next byte is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was read since the scan was there.
    pub(super) fn since(&self, from: usize) -> Option<&'a str> {
        self.text.get(from..self.at)
    }

    /// Takes the next `length` bytes for what they are said to be.
    pub(super) fn take_text(&mut self, length: usize) -> Option<&'a str> {
        let from = self.at;
        self.at = from.checked_add(length)?;
        self.since(from)
    }

    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Reads a string and gives its literal, quotes included.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let from = self.at;
        self.expect(b'"')?;
        self.skip_string()?;
        self.since(from)
    }

    /// Reads a string from behind its first quote.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            match self.skip_plain()? {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    /// Reads to the first byte that cannot stand in a string literal as it is, and gives that.
    fn skip_plain(&mut self) -> Option<u8> {
        while let Some(word) = self.rest().first_chunk::<8>() {
            let special = first_special(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += (special.trailing_zeros() / 8) as usize;
                return self.next();
            }
            self.at += 8;
        }
        let is_special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
        self.at += self.rest().iter().position(is_special)?;
        self.next()
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.rest().get(..4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn key(&mut self) -> Option<&'a str> {
        let key = self.string()?;
        self.expect(b':')?;
        Some(key)
    }

    fn skip_key(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.skip_string()?;
        self.expect(b':')
    }

    /// Reads a number from behind its sign.
    fn number(&mut self) -> Option<()> {
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Option<()> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_there = self.rest().starts_with(word.as_bytes());
        self.at += word.len();
        is_there.then_some(())
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }
}

/// The kinds of the values around a value: 1 for an object, 0 for an array.
#[derive(Default)]
struct Around {
    depth: usize,
    /// Of the innermost ones, the very innermost in the lowest bit.
    kinds: u64,
    /// Of those farther out, [`WORD`] in each.
    outer: Vec<u64>,
}

impl Around {
    fn push(&mut self, kind: u64) {
        if self.depth.is_multiple_of(WORD) && self.depth > 0 {
            self.outer.push(self.kinds);
        }
        self.depth += 1;
        self.kinds = (self.kinds << 1) | kind;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.kinds >>= 1;
        if self.depth.is_multiple_of(WORD) && self.depth > 0 {
            self.kinds = self.outer.pop().unwrap_or_default();
        }
    }
}

/// The lowest bit set is the highest of the first byte that cannot stand in a string literal as it is: a quote, a backslash
/// or a control character. Bits above it mean nothing; 0 if there is no such byte.
fn first_special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let quotes = word ^ (ONES * b'"' as u64);
    let backslashes = word ^ (ONES * b'\\' as u64);
    // Each difference borrows in the bytes looked for, and from there on perhaps in others.
    let below = quotes.wrapping_sub(ONES) | backslashes.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20);
    // A byte with its highest bit set is a part of a longer character.
    below & !word & (ONES * 0x80)
}
