//! The answer to `informer-store`: everything the agent holds, in arrays that the broker takes.

use super::{write_identity, write_resource};
use crate::encode::{Deleted, Detail, EncodeError};
use crate::object::{Outline, utf8};

const OPEN: &[u8] = br#"{"ObjectType":"","EventType":"","Request":null,"Object":["#;
const CLOSE: &[u8] = b"]}";

/// What became of an object given to [`StoreReply::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in.
    Full,
    /// It is larger than a whole message may be: only its metadata is in.
    MetadataOnly,
    /// Not even its metadata fits: only what identifies it is in.
    Skeleton,
    /// Not even what identifies it fits: it is left out. To be reported.
    TooLarge,
}

/// Gathers objects into messages, none longer than the broker takes.
#[derive(Debug)]
pub struct StoreReply {
    cluster_id: String,
    max_payload: usize,
    message: Vec<u8>,
}

impl StoreReply {
    /// Messages will have at most `max_payload` bytes.
    #[must_use]
    pub fn new(cluster_id: &str, max_payload: usize) -> Self {
        Self { cluster_id: cluster_id.to_owned(), max_payload, message: OPEN.to_vec() }
    }

    /// Adds an object. A message that is full comes back, to be sent; the object is then in the next one.
    ///
    /// # Errors
    /// `body` is not the JSON of an object; it is left out, the rest stays good.
    pub fn push(&mut self, body: &[u8]) -> Result<(Pushed, Option<Vec<u8>>), EncodeError> {
        let object = Outline::parse(utf8(body)?)?;
        let mut resource = Vec::with_capacity(body.len() + body.len() / 4 + 256);
        for (detail, pushed) in [
            (Detail::Full, Pushed::Full),
            (Detail::MetadataOnly, Pushed::MetadataOnly),
            (Detail::Skeleton, Pushed::Skeleton),
        ] {
            resource.clear();
            write_resource(&object, &self.cluster_id, detail, &mut resource)?;
            if self.fits_alone(&resource) {
                return Ok((pushed, self.add(&resource)));
            }
        }
        Ok((Pushed::TooLarge, None))
    }

    /// As [`StoreReply::push`], of an object of which only this is known.
    #[must_use]
    pub fn push_identity(&mut self, identity: &Deleted<'_>) -> (Pushed, Option<Vec<u8>>) {
        let mut resource = Vec::new();
        write_identity(identity, &self.cluster_id, &mut resource);
        if self.fits_alone(&resource) { (Pushed::Skeleton, self.add(&resource)) } else { (Pushed::TooLarge, None) }
    }

    /// As [`StoreReply::push`], of an object in this format.
    #[must_use]
    pub fn push_encoded(&mut self, resource: &[u8]) -> (Pushed, Option<Vec<u8>>) {
        if self.fits_alone(resource) { (Pushed::Full, self.add(resource)) } else { (Pushed::TooLarge, None) }
    }

    fn add(&mut self, resource: &[u8]) -> Option<Vec<u8>> {
        let full =
            if self.message.len() + 1 + resource.len() + CLOSE.len() > self.max_payload { self.take() } else { None };
        if self.message.len() > OPEN.len() {
            self.message.push(b',');
        }
        self.message.extend_from_slice(resource);
        full
    }

    /// The last messages: what is left, and an empty array, by which a consumer knows that it has been given everything,
    /// be it nothing.
    #[must_use]
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        let rest = self.take();
        rest.into_iter().chain([[OPEN, CLOSE].concat()]).collect()
    }

    fn fits_alone(&self, resource: &[u8]) -> bool {
        OPEN.len() + resource.len() + CLOSE.len() <= self.max_payload
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        if self.message.len() == OPEN.len() {
            return None;
        }
        let mut message = std::mem::replace(&mut self.message, OPEN.to_vec());
        message.extend_from_slice(CLOSE);
        Some(message)
    }
}
