//! Writing the members of a JSON object in a fixed order.

use std::borrow::Cow;

use crate::object::fields::Field;
use crate::object::text::{decode, write_literal};

/// An object that is being written. It must be closed.
pub(super) struct Members<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Members<'o> {
    pub(super) fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// A member whose value the caller writes next. The key must need no escape: it is one of the format's own.
    pub(super) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A member as it stands in the input.
    pub(super) fn verbatim(&mut self, field: &Field<'_>) {
        self.comma();
        self.out.extend_from_slice(field.key.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(field.value.as_bytes());
    }

    fn comma(&mut self) {
        // No value ends with an opening brace, so this is the start of the object.
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
    }

    /// A nested object.
    pub(super) fn object(&mut self, key: &str) -> Members<'_> {
        Members::open(self.key(key))
    }

    /// A value that is JSON text already.
    pub(super) fn raw(&mut self, key: &str, json: &str) {
        self.key(key).extend_from_slice(json.as_bytes());
    }

    pub(super) fn string(&mut self, key: &str, value: &str) {
        write_literal(value, self.key(key));
    }

    pub(super) fn string_unless_empty(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.string(key, value);
        }
    }

    /// A string as [`decode`] gives it. One that it borrowed needed no escape, and needs none now.
    #[expect(clippy::ptr_arg, reason = "whether it is borrowed is what counts")]
    pub(super) fn decoded_unless_empty(&mut self, key: &str, value: &Cow<'_, str>) {
        match value {
            Cow::Borrowed("") => {}
            Cow::Borrowed(plain) => {
                let out = self.key(key);
                out.push(b'"');
                out.extend_from_slice(plain.as_bytes());
                out.push(b'"');
            }
            Cow::Owned(text) => self.string_unless_empty(key, text),
        }
    }

    /// A JSON value as a string: a string as it is, anything else as its JSON text. Absent when that is empty.
    pub(super) fn text_unless_empty(&mut self, key: &str, json: &str) {
        match decode(json) {
            Some(text) => self.decoded_unless_empty(key, &text),
            None => self.string_unless_empty(key, json),
        }
    }
}
