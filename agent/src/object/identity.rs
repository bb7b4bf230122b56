//! What tells one object from another, and one state of it from an older one, in as few bytes as possible.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Identity of one incarnation of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Uid {
    /// A canonical lower-case UUID, which is what API servers give out; kept as its 16 bytes.
    Uuid([u8; 16]),
    /// Any other text in `metadata.uid`.
    Text(Box<str>),
    /// The object has no uid (`componentstatuses`, metrics): namespace and name stand for it. Unlike a real uid it
    /// comes back when the object is re-created.
    Named(Box<str>),
}

impl Uid {
    /// The uid that `metadata.uid` spells.
    #[must_use]
    pub fn new(text: &str) -> Self {
        parse_uuid(text).map_or_else(|| Self::Text(text.into()), Self::Uuid)
    }

    /// The stand-in for an object without uid.
    #[must_use]
    pub fn named(name: &ObjectName) -> Self {
        Self::Named(name.to_string().into())
    }

    /// Whether this is a stand-in made from the object's name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }
}

/// The text of `metadata.uid`; empty for a stand-in.
impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
            Self::Text(text) => f.write_str(text),
            Self::Named(_) => Ok(()),
        }
    }
}

/// `None` unless printing the bytes gives `text` back exactly.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut uuid = [0_u8; 16];
    let mut from = 0;
    for (index, slot) in uuid.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if bytes.get(from) != Some(&b'-') {
                return None;
            }
            from += 1;
        }
        *slot = (hex_digit(*bytes.get(from)?)? << 4) | hex_digit(*bytes.get(from + 1)?)?;
        from += 2;
    }
    Some(uuid)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Namespace and name of an object, shared by cheap clones.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// The namespace followed by the name, nothing between: the length of the first tells them apart.
    text: Arc<str>,
    namespace_length: u32,
}

impl ObjectName {
    /// Names an object; an empty namespace counts as none.
    #[must_use]
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        let namespace = namespace.unwrap_or_default();
        let namespace_length = u32::try_from(namespace.len()).unwrap_or(u32::MAX);
        Self { text: [namespace, name].concat().into(), namespace_length }
    }

    /// Namespace; `None` for a cluster-scoped object.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        Some(self.parts().0).filter(|namespace| !namespace.is_empty())
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_at_checked(self.namespace_length as usize).unwrap_or(("", &self.text))
    }
}

/// `namespace/name`, or `name` alone.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            ("", name) => f.write_str(name),
            (namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectName({self})")
    }
}

/// `metadata.resourceVersion`: opaque by contract, and comparable within one type where it is a decimal number, which
/// it is on every server that Kubernetes calls conformant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResourceVersion {
    /// The object carries none.
    #[default]
    None,
    /// A canonical decimal number.
    Number(u64),
    /// Anything else, kept as it is. Boxed twice: no server is known that gives such, and every row has a version.
    Text(Box<Box<str>>),
}

impl ResourceVersion {
    /// The version that `text` spells; empty is none.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.is_empty() {
            return Self::None;
        }
        let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
        match text.parse() {
            Ok(number) if canonical => Self::Number(number),
            _ => Self::Text(Box::new(text.into())),
        }
    }

    /// Which of two versions of one type is newer; `None` when they cannot be compared.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(own), Self::Number(others)) => Some(own.cmp(others)),
            (own, other) if own == other => Some(Ordering::Equal),
            _ => None,
        }
    }

    /// Whether this version is known to be older than `other`.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }
}

/// The text as it came; empty for none.
impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_prints_as_it_was_read() {
        for text in [
            "01234567-89ab-cdef-fedc-ba9876543210",
            "01234567-89AB-cdef-fedc-ba9876543210",
            "0123456789abcdeffedcba9876543210abcd",
            "01234567-89ab-cdef-fedc-ba987654321g",
            "legacy:uid",
        ] {
            assert_eq!(Uid::new(text).to_string(), text);
        }
        assert!(matches!(Uid::new("01234567-89ab-cdef-fedc-ba9876543210"), Uid::Uuid(_)));
    }

    #[test]
    fn the_border_between_namespace_and_name_counts() {
        let (one, other) = (ObjectName::new(Some("ab"), "c"), ObjectName::new(Some("a"), "bc"));
        assert_ne!(one, other);
        assert_eq!((one.namespace(), one.name(), one.to_string().as_str()), (Some("ab"), "c", "ab/c"));
        let cluster_scoped = ObjectName::new(None, "system:node.1");
        assert_eq!((cluster_scoped.namespace(), cluster_scoped.name()), (None, "system:node.1"));
        assert_eq!(ObjectName::new(Some(""), "x"), ObjectName::new(None, "x"));
    }

    #[test]
    fn versions_compare_as_numbers_and_print_as_they_were_read() {
        let version = ResourceVersion::new;
        assert!(version("9").is_older_than(&version("10")));
        assert!(!version("10").is_older_than(&version("10")));
        assert_eq!(version("abc").compare(&version("5")), None);
        assert_eq!(version("abc").compare(&version("abc")), Some(Ordering::Equal));
        for text in ["", "0", "007", "+7", "18446744073709551615", "18446744073709551616", "1-x"] {
            assert_eq!(version(text).to_string(), text);
        }
    }
}
