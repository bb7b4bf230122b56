//! From an item of the outbox to the bytes that go out.

use bytes::Bytes;
use meshsync_crds::agent_config::PublishFormat;
use meshsync_crds::discovery::ServedType;

use crate::encode::{Deleted, Detail, EncodeError, EventType, kubernetes, meshery};
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
pub(super) struct Encoded {
    pub(super) payload: Bytes,
    /// How much of the object is in it.
    pub(super) detail: Detail,
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

    /// The message about an object that exists, no longer than `limit` if that can be had by leaving out all but its
    /// metadata.
    ///
    /// # Errors
    /// `body` is not what the snapshot should hold.
    pub(super) fn encode(&self, event: EventType, body: &[u8], limit: usize) -> Result<Encoded, EncodeError> {
        // Most of a message is the body; in the Meshery format, quotes inside of strings add some.
        let mut out = Vec::with_capacity(body.len() + body.len() / 4 + 512);
        self.write(event, body, Detail::Full, &mut out)?;
        let mut detail = Detail::Full;
        if out.len() > limit {
            out.clear();
            detail = Detail::MetadataOnly;
            self.write(event, body, detail, &mut out)?;
        }
        Ok(Encoded { payload: out.into(), detail })
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

    fn write(&self, event: EventType, body: &[u8], detail: Detail, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.format {
            PublishFormat::Meshery => meshery::encode_event(event, body, &self.cluster_id, detail, out),
            PublishFormat::Kubernetes => kubernetes::encode_event(event, body, detail, out),
        }
    }
}
