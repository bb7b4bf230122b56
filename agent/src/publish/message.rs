//! From an item of the outbox to the bytes that go out.

use bytes::Bytes;
use meshsync_crds::agent_config::PublishFormat;
use meshsync_crds::discovery::ServedType;

use crate::encode::{Deleted, Detail, EncodeError, EventType, kubernetes, meshery};
use crate::object::Body;
use crate::snapshot::Removed;

/// What a message is made of besides the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// Shape of the object inside the envelope.
    pub format: PublishFormat,
}

/// A message about an object that exists.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) payload: Bytes,
    /// How much of the object is in it.
    pub(super) detail: Detail,
    /// Bytes of a message with more of it, if that is not all.
    pub(super) needs: Option<usize>,
}

impl Encoding {
    /// Names what makes two messages about the same state equal. To be changed whenever the encoders are.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.format {
            PublishFormat::Meshery => "meshery/1",
            PublishFormat::Kubernetes => "kubernetes/1",
        }
    }

    /// The message about an object that exists, with as much of it as `limit` bytes hold, and no more than `at_most`. `None`
    /// when they do not even hold what identifies it.
    ///
    /// # Errors
    /// `body` is not what the snapshot should hold.
    pub(super) fn encode(
        &self,
        event: EventType,
        body: &Body,
        at_most: Detail,
        limit: usize,
    ) -> Result<Option<Encoded>, EncodeError> {
        // Most of a message is the body; in the Meshery format, quotes inside of strings add some.
        let mut out = Vec::with_capacity(body.len() + body.len() / 4 + 512);
        let mut level = Some(at_most);
        // What the broker refused although it seemed to fit is tried again as soon as anything larger may be sent.
        let mut needs = (at_most != Detail::Full).then(|| limit.saturating_add(1));
        while let Some(detail) = level {
            out.clear();
            self.write(event, body, detail, &mut out)?;
            if out.len() <= limit {
                if detail != Detail::Full {
                    // The few bytes that are left must not keep the room of all the others while they are in flight.
                    out.shrink_to_fit();
                }
                return Ok(Some(Encoded { payload: out.into(), detail, needs }));
            }
            needs = Some(out.len());
            level = detail.lower();
        }
        Ok(None)
    }

    /// The message about an object that is gone.
    pub(super) fn encode_deleted(&self, served: &ServedType, removed: &Removed) -> Bytes {
        let mut out = Vec::new();
        let deleted = Deleted {
            api_version: &served.api_version(),
            kind: &served.kind,
            namespace: removed.name.namespace(),
            name: removed.name.name(),
            uid: &removed.uid.to_string(),
            resource_version: &removed.resource_version.to_string(),
        };
        match self.format {
            PublishFormat::Meshery => meshery::encode_deleted(&deleted, &self.cluster_id, &mut out),
            PublishFormat::Kubernetes => kubernetes::encode_deleted(&deleted, &mut out),
        }
        out.into()
    }

    fn write(&self, event: EventType, body: &Body, detail: Detail, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.format {
            PublishFormat::Meshery => meshery::encode_event(event, body, &self.cluster_id, detail, out),
            PublishFormat::Kubernetes => kubernetes::encode_event(event, body, detail, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(labels: usize, text: usize) -> Body {
        let labels: serde_json::Map<String, Value> = (0..labels).map(|at| (format!("l{at}"), json!("x"))).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "many", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "labels": labels},
            "data": {"text": "x".repeat(text)},
        });
        object.to_string().into_bytes().into()
    }

    #[test]
    fn an_object_whose_metadata_alone_is_too_large_is_told_by_what_identifies_it() {
        for format in [PublishFormat::Meshery, PublishFormat::Kubernetes] {
            let encoding = Encoding { cluster_id: "c-1".into(), format };
            let detail = |labels, text, limit| {
                let encoded = encoding.encode(EventType::Added, &body(labels, text), Detail::Full, limit).unwrap()?;
                assert!(encoded.payload.len() <= limit, "{} > {limit}", encoded.payload.len());
                let message: Value = serde_json::from_slice(&encoded.payload).unwrap();
                let metadata = &message["Object"]["metadata"];
                assert_eq!((&metadata["name"], &metadata["uid"]), (&json!("many"), &json!("u-1")));
                Some(encoded.detail)
            };
            assert_eq!(detail(3, 100, 10_000), Some(Detail::Full));
            assert_eq!(detail(3, 10_000, 2_000), Some(Detail::MetadataOnly));
            assert_eq!(detail(3_000, 100, 2_000), Some(Detail::Skeleton));
            assert_eq!(detail(0, 0, 100), None, "not even that");
        }
    }

    #[test]
    fn a_shortened_message_knows_what_more_of_it_needs() {
        let encoding = Encoding::default();
        let encode =
            |at_most, limit| encoding.encode(EventType::Added, &body(300, 5_000), at_most, limit).unwrap().unwrap();
        let Encoded { payload: full, needs, .. } = encode(Detail::Full, 50_000);
        assert_eq!(needs, None);
        let Encoded { payload: metadata, needs, .. } = encode(Detail::Full, full.len() - 1);
        assert_eq!(needs, Some(full.len()));
        assert_eq!(
            encode(Detail::Full, metadata.len() - 1).needs,
            Some(metadata.len()),
            "the next level is the next gain"
        );
        assert_eq!(encode(Detail::MetadataOnly, 50_000).needs, Some(50_001), "it was refused");
    }

    #[test]
    fn a_message_that_was_refused_is_made_with_less() {
        let encoding = Encoding::default();
        let encode = |at_most| encoding.encode(EventType::Added, &body(1, 1), at_most, 10_000).unwrap().unwrap().detail;
        for detail in [Detail::Full, Detail::MetadataOnly, Detail::Skeleton] {
            assert_eq!(encode(detail), detail);
        }
    }
}
