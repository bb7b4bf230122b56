//! The text of an object that knows how long its members are.

use std::ops::Deref;

/// Compact JSON of one object.
///
/// With it go the lengths of the values at top level but apiVersion, kind and metadata, if they are known: whoever wants a
/// member need not look for the ends of those before it once more. They are no part of what two bodies are compared by.
#[derive(Clone, Debug, Default)]
pub struct Body {
    json: Vec<u8>,
    lengths: Lengths,
}

impl Body {
    /// A body whose values have these lengths.
    pub(crate) const fn new(json: Vec<u8>, lengths: Lengths) -> Self {
        Self { json, lengths }
    }

    /// The text.
    #[must_use]
    pub fn into_json(self) -> Vec<u8> {
        self.json
    }

    /// The lengths that are known.
    pub(crate) const fn lengths(&self) -> &Lengths {
        &self.lengths
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.json
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A text of which nothing else is known.
impl From<Vec<u8>> for Body {
    fn from(json: Vec<u8>) -> Self {
        Self::new(json, Lengths::default())
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl Eq for Body {}

/// Lengths of values, in order. Seven bits in each byte, the lowest first; the highest is set where more follow: most take
/// two bytes, and they are kept with every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths(Vec<u8>);

impl Lengths {
    pub(super) fn push(&mut self, length: usize) {
        let mut rest = length;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let mut bytes = self.0.iter();
        std::iter::from_fn(move || {
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = usize::from(*bytes.next()?);
                length |= (byte & 0x7f).checked_shl(shift)?;
                if byte < 0x80 {
                    return Some(length);
                }
                shift += 7;
            }
        })
    }

    /// As they are kept.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The reverse of [`Self::as_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_out_as_they_went_in() {
        let all = [0, 1, 127, 128, 300, 16_383, 16_384, 900_000, usize::MAX];
        let mut lengths = Lengths::default();
        all.iter().for_each(|&length| lengths.push(length));
        assert_eq!(lengths.iter().collect::<Vec<_>>(), all);
        assert_eq!(Lengths::from_bytes(lengths.as_bytes()), lengths);
        // Those of a broken body must end.
        assert_eq!(Lengths::from_bytes(&[0xff; 40]).iter().count(), 0);
    }
}
