//! A fingerprint of a set of objects, whatever order they are met in.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::object::{ObjectName, Uid};

/// Number of objects, and the wrapping sum over them of xxh3 (64 bits) of the uid's text, seeded with the content's hash.
/// For an object without uid, `namespace/name` stands for it.
///
/// Sums can be taken in any order and apart: two sides that hold the same have the same digest, and two that differ have
/// the same one with a probability of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Objects.
    pub objects: u64,
    sum: u64,
}

impl Digest {
    /// With one object more.
    #[must_use]
    pub fn with(self, uid: &Uid, name: &ObjectName, hash: u64) -> Self {
        let text = if uid.is_named() { name.to_string() } else { uid.to_string() };
        let one = xxh3_64_with_seed(text.as_bytes(), hash);
        Self { objects: self.objects + 1, sum: self.sum.wrapping_add(one) }
    }
}

/// 16 hexadecimal digits of the sum.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let name = |name| ObjectName::new(None, name);
        let (a, b) = ((Uid::new("u1"), name("a"), 1), (Uid::new("u2"), name("b"), 2));
        let digest = |of: &[&(Uid, ObjectName, u64)]| {
            of.iter().fold(Digest::default(), |digest, (uid, name, hash)| digest.with(uid, name, *hash))
        };
        assert_eq!(digest(&[&a, &b]), digest(&[&b, &a]));
        assert_ne!(digest(&[&a, &b]), digest(&[&a]));
        assert_ne!(digest(&[&a, &b]), digest(&[&(Uid::new("u1"), name("a"), 2), &(Uid::new("u2"), name("b"), 1)]));
        let nameless = |text| (Uid::named(&name(text)), name(text), 1);
        assert_ne!(digest(&[&nameless("a")]), digest(&[&nameless("b")]));
    }
}
