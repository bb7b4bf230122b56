//! One watch event, borrowed from its frame.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{ObjectError, utf8};
use super::fields::{find, split};
use super::identity::ResourceVersion;
use super::text;

/// Annotation on the bookmark that ends the initial events of a streamed list (`sendInitialEvents`).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watch event says about its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind<'a> {
    /// The object is new, or was there when the watch began.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone; what comes with the event is its last state.
    Deleted,
    /// Progress: the object holds only a resourceVersion; see [`Bookmark`].
    Bookmark,
    /// The watch failed: the object is a `Status`; see [`WatchStatus`].
    Error,
    /// A type that this program does not know.
    Unknown(Cow<'a, str>),
}

/// One watch event.
#[derive(Clone, Debug)]
pub struct WatchEvent<'a> {
    /// What happened.
    pub kind: EventKind<'a>,
    /// The object, untouched.
    pub object: &'a RawValue,
}

impl<'a> WatchEvent<'a> {
    /// Reads one frame of a watch stream.
    ///
    /// # Errors
    /// Not UTF-8, not JSON, or without `type` or `object`.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ObjectError> {
        const WHAT: &str = "watch event";
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let wire: Wire<'a> = serde_json::from_str(utf8(frame)?).map_err(|source| ObjectError::syntax(WHAT, &source))?;
        let kind = match wire.kind.as_ref() {
            "ADDED" => EventKind::Added,
            "MODIFIED" => EventKind::Modified,
            "DELETED" => EventKind::Deleted,
            "BOOKMARK" => EventKind::Bookmark,
            "ERROR" => EventKind::Error,
            _ => EventKind::Unknown(wire.kind),
        };
        Ok(Self { kind, object: wire.object })
    }
}

/// What a bookmark event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// The watch may be resumed from here.
    pub resource_version: ResourceVersion,
    /// All initial events of a streamed list have been sent.
    pub initial_events_end: bool,
}

impl Bookmark {
    /// Reads the object of a bookmark event.
    ///
    /// # Errors
    /// Not an object with `metadata.resourceVersion`.
    pub fn parse(object: &RawValue) -> Result<Self, ObjectError> {
        let fields = split(object.get(), "bookmark")?;
        let metadata = find(&fields, "metadata").ok_or(ObjectError::Missing { what: "bookmark metadata" })?;
        let metadata = split(metadata, "bookmark metadata")?;
        let resource_version = find(&metadata, "resourceVersion")
            .and_then(text::decode_non_empty)
            .ok_or(ObjectError::Missing { what: "bookmark metadata.resourceVersion" })?;
        let initial_events_end = match find(&metadata, "annotations").filter(|value| value.starts_with('{')) {
            Some(annotations) => find(&split(annotations, "bookmark annotations")?, INITIAL_EVENTS_END)
                .and_then(text::decode)
                .is_some_and(|value| value == "true"),
            None => false,
        };
        Ok(Self { resource_version: ResourceVersion::new(&resource_version), initial_events_end })
    }
}

/// The `Status` inside an error event or an error response, as far as it decides what to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WatchStatus {
    /// HTTP status code, e.g. 410; 0 when the server gave none.
    pub code: u16,
    /// Machine-readable reason, e.g. `Expired`.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// More about the failure.
    details: Option<StatusDetails>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusDetails {
    retry_after_seconds: Option<u64>,
}

impl WatchStatus {
    /// Reads the object of an error event; whatever cannot be read stays empty, because an error event must lead to a
    /// new list in any case.
    #[must_use]
    pub fn parse(object: &RawValue) -> Self {
        serde_json::from_str(object.get()).unwrap_or_default()
    }

    /// Seconds that the server asks to wait.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref().and_then(|details| details.retry_after_seconds)
    }

    /// Whether the resourceVersion of the request is no longer served, so that only a new list helps.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}
