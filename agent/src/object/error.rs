//! What can be wrong with the bytes of an object.

/// Bytes from the API server that cannot be used as an object, an event or a list.
///
/// No variant carries a piece of the input: the message may be logged while the input may be a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The bytes are not UTF-8.
    #[error("invalid UTF-8 at byte {at}; the API server must send UTF-8 JSON")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// The text is not JSON, or ends early.
    #[error("{what} is not valid JSON (line {line}, column {column})")]
    Syntax {
        /// Which part was being read.
        what: &'static str,
        /// Line inside that part, from 1.
        line: usize,
        /// Column inside that line, from 1.
        column: usize,
    },
    /// A JSON value of another kind stands where a certain one must be.
    #[error("{what} must be {expected}")]
    WrongType {
        /// Which part.
        what: &'static str,
        /// What it has to be, with its article.
        expected: &'static str,
    },
    /// There is more of it than is held at once.
    #[error("{what} is larger than {limit} bytes and was passed over")]
    TooLarge {
        /// What is too large: an object by its name where that could be read.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A field without which the object has no identity.
    #[error("{what} is missing or empty; an object without it cannot be told from others")]
    Missing {
        /// Path of the field.
        what: &'static str,
    },
}

impl ObjectError {
    /// Keeps the position of a `serde_json` error and drops its text, which may quote the input.
    pub(crate) fn syntax(what: &'static str, source: &serde_json::Error) -> Self {
        Self::Syntax { what, line: source.line(), column: source.column() }
    }
}

/// The bytes as text.
pub(crate) fn utf8(raw: &[u8]) -> Result<&str, ObjectError> {
    std::str::from_utf8(raw).map_err(|source| ObjectError::NotUtf8 { at: source.valid_up_to() })
}
