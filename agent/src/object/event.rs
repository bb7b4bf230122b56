//! One watch event, borrowed from its frame.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{ObjectError, utf8};
use super::fields::find;
use super::identity::ResourceVersion;
use super::outline::Outline;
use super::prepare::{Prepared, TypeContext, prepare, prepare_outline};
use super::scan::Scan;
use super::split::split;
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
    pub object: &'a str,
    /// Its members, where they were found on the way.
    outline: Option<Outline<'a>>,
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
        let frame = utf8(frame)?;
        if let Some(event) = Self::scan(frame) {
            return Ok(event);
        }
        let wire: Wire<'a> = serde_json::from_str(frame).map_err(|source| ObjectError::syntax(WHAT, &source))?;
        Ok(Self { kind: EventKind::new(wire.kind), object: wire.object.get(), outline: None })
    }

    /// Reads an event, if it is one of those that [`Scan`] reads and written as API servers do.
    fn scan(frame: &'a str) -> Option<Self> {
        let (mut kind, mut object) = (None, None);
        let mut scan = Scan::new(frame);
        scan.object(|scan, key| match key {
            r#""type""# if kind.is_none() => {
                // Of an odd escape, the two parsers may think differently.
                kind = text::decode(scan.string()?).filter(|kind| matches!(kind, Cow::Borrowed(_)));
                kind.is_some().then_some(())
            }
            r#""object""# if object.is_none() => {
                object = Some(Outline::scan_with_text(scan)?);
                Some(())
            }
            // Among these are second ones of those above, and odd spellings of them.
            _ => None,
        })?;
        let (object, outline) = object?;
        scan.is_at_end().then_some(Self { kind: EventKind::new(kind?), object, outline: Some(outline) })
    }

    /// As [`prepare`], for the object of the event.
    ///
    /// # Errors
    /// As [`prepare`].
    pub fn prepare(&self, context: &TypeContext) -> Result<Prepared, ObjectError> {
        match &self.outline {
            Some(outline) => prepare_outline(outline, context),
            None => prepare(self.object.as_bytes(), context),
        }
    }
}

impl<'a> EventKind<'a> {
    /// The kind that `word` spells.
    fn new(word: Cow<'a, str>) -> Self {
        match word.as_ref() {
            "ADDED" => Self::Added,
            "MODIFIED" => Self::Modified,
            "DELETED" => Self::Deleted,
            "BOOKMARK" => Self::Bookmark,
            "ERROR" => Self::Error,
            _ => Self::Unknown(word),
        }
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
    pub fn parse(object: &str) -> Result<Self, ObjectError> {
        let fields = split(object, "bookmark")?;
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
    metadata: Option<StatusMetadata>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct StatusMetadata {
    r#continue: Option<String>,
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
    pub fn parse(object: &str) -> Self {
        serde_json::from_str(object).unwrap_or_default()
    }

    /// Seconds that the server asks to wait.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref().and_then(|details| details.retry_after_seconds)
    }

    /// With an expired continue token: one with which the list may go on, from a newer state than it began with.
    #[must_use]
    pub fn continue_token(&self) -> Option<&str> {
        self.metadata.as_ref()?.r#continue.as_deref().filter(|token| !token.is_empty())
    }

    /// Whether the resourceVersion of the request is no longer served, so that only a new list helps.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_objects_are_read() {
        for (word, kind) in [
            ("ADDED", EventKind::Added),
            ("MODIFIED", EventKind::Modified),
            ("DELETED", EventKind::Deleted),
            ("BOOKMARK", EventKind::Bookmark),
            ("ERROR", EventKind::Error),
            ("RENAMED", EventKind::Unknown("RENAMED".into())),
        ] {
            let frame = format!("{{\"type\":\"{word}\",\"object\":{{\"word\": \"{word}\"}}}}");
            let event = WatchEvent::parse(frame.as_bytes()).unwrap();
            assert_eq!(event.kind, kind);
            assert_eq!(event.object, format!("{{\"word\": \"{word}\"}}"));
        }
        let escaped = br#"{"object":{},"\u0074ype":"\u0041DDED"}"#;
        assert_eq!(WatchEvent::parse(escaped).unwrap().kind, EventKind::Added);
    }

    #[test]
    fn a_broken_frame_is_reported_without_its_content() {
        for frame in [
            &b"{\"type\":\"ADDED\",\"object\":{\"password\":\"hunter2\""[..],
            b"{\"type\":\"hunter2\"}",
            b"{\"type\":[\"hunter2\"],\"object\":{}}",
            b"hunter2",
            b"{\"type\":\"ADDED\",\"object\":\"hunter2\xff\"}",
        ] {
            let message = WatchEvent::parse(frame).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn bookmarks_tell_version_and_end_of_the_initial_events() {
        let bookmark = Bookmark::parse;
        let at = |version, initial_events_end| Ok(Bookmark { resource_version: version, initial_events_end });
        let end = r#"{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"},"resourceVersion":"12"}}"#;
        assert_eq!(bookmark(end), at(ResourceVersion::Number(12), true));
        let plain = r#"{"kind":"Pod","metadata":{"resourceVersion":"13","annotations":null}}"#;
        assert_eq!(bookmark(plain), at(ResourceVersion::Number(13), false));
        assert_eq!(
            bookmark(r#"{"metadata":{"resourceVersion":""}}"#),
            Err(ObjectError::Missing { what: "bookmark metadata.resourceVersion" })
        );
    }

    #[test]
    fn an_expired_version_is_recognised_by_code_or_reason() {
        let status = WatchStatus::parse;
        assert!(status(r#"{"kind":"Status","code":410,"reason":"Gone"}"#).is_expired());
        assert!(status(r#"{"kind":"Status","reason":"Expired"}"#).is_expired());
        let busy = status(r#"{"kind":"Status","code":429,"message":"slow down","details":{"retryAfterSeconds":7}}"#);
        assert!(!busy.is_expired());
        assert_eq!((busy.message.as_str(), busy.retry_after_seconds()), ("slow down", Some(7)));
        assert_eq!(status("17"), WatchStatus::default());
    }
}
