//! The headers of a stored message: all that is needed to know what is stored without reading it.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use crate::encode::EventType;
use crate::object::{ResourceVersion, Uid};

/// Uid of the object; absent for an object without.
pub(super) const UID: &str = "Meshsync-Uid";
/// resourceVersion of the state that was stored.
pub(super) const RESOURCE_VERSION: &str = "Meshsync-Resource-Version";
/// Hash of the object's published content, 16 hexadecimal digits.
pub(super) const HASH: &str = "Meshsync-Hash";
/// `ADDED`, `MODIFIED` or `DELETED`.
pub(super) const EVENT: &str = "Meshsync-Event";
/// apiVersion of the object.
pub(super) const API_VERSION: &str = "Meshsync-Api-Version";
/// Kind of the object.
pub(super) const KIND: &str = "Meshsync-Kind";
/// Which encoding made the message: another one's messages are replaced although their objects did not change.
pub(super) const ENCODING: &str = "Meshsync-Encoding";
/// Bytes that a message with more of the object would have; absent where all of it is in the message.
pub(super) const NEEDS: &str = "Meshsync-Needs";

/// Room for the names of all headers, and for numbers.
const FIXED_ROOM: usize = 704;

const MESSAGE_ID: HeaderName = async_nats::header::NATS_MESSAGE_ID;
const MESSAGE_TTL: HeaderName = async_nats::header::NATS_MESSAGE_TTL;
const EXPECTED_SEQUENCE: HeaderName = async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;

/// What the headers of one message say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Uid; `None` for an object without.
    pub uid: Option<Uid>,
    /// Version of the state.
    pub resource_version: ResourceVersion,
    /// Hash of the content.
    pub hash: u64,
    /// What the message says about the object.
    pub event: EventType,
    /// apiVersion.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Encoding.
    pub encoding: String,
    /// Bytes, headers included, that a message with more of the object would have; `None` where all of it is in the message.
    pub needs: Option<usize>,
}

/// What a message may be stored for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions<'a> {
    /// Sequence of the message that it replaces; 0 when there must be none.
    pub replaces: u64,
    /// Identifies the attempt: within the stream's window, a second message with the same id is not stored.
    pub message_id: &'a str,
    /// Seconds after which the message goes by itself, leaving no subject.
    pub ttl_seconds: Option<u64>,
}

impl Stamp {
    /// The headers of a message.
    #[must_use]
    pub fn headers(&self, conditions: &Conditions<'_>) -> HeaderMap {
        let Self { uid, resource_version, hash, event, api_version, kind, encoding, needs } = self;
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: &str| headers.insert(name, line(value));
        if let Some(uid) = uid {
            put(HeaderName::from_static(UID), &uid.to_string());
        }
        put(HeaderName::from_static(RESOURCE_VERSION), &resource_version.to_string());
        put(HeaderName::from_static(HASH), &format!("{hash:016x}"));
        put(HeaderName::from_static(EVENT), event.as_str());
        put(HeaderName::from_static(API_VERSION), api_version);
        put(HeaderName::from_static(KIND), kind);
        put(HeaderName::from_static(ENCODING), encoding);
        if let Some(bytes) = needs {
            put(HeaderName::from_static(NEEDS), &bytes.to_string());
        }
        let Conditions { replaces, message_id, ttl_seconds } = conditions;
        put(MESSAGE_ID, message_id);
        put(EXPECTED_SEQUENCE, &replaces.to_string());
        if let Some(seconds) = ttl_seconds {
            put(MESSAGE_TTL, &format!("{seconds}s"));
        }
        headers
    }

    /// Identifies the attempt to store this under `subject` in place of the message with sequence `replaces`.
    ///
    /// The broker swallows a second message with the id of a first. Uid and version may be those of another object, too, or
    /// missing, and a `DELETED` has no hash: only with the subject are the messages of two objects never taken for one.
    #[must_use]
    pub fn message_id(&self, subject: &str, replaces: u64) -> String {
        let Self { uid, resource_version, hash, .. } = self;
        let uid = uid.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{uid}@{resource_version}:{hash:016x}>{replaces}/{:016x}", xxh3_64(subject.as_bytes()))
    }

    /// Most bytes that [`Self::headers`] have in a message.
    #[must_use]
    pub fn header_room(&self) -> usize {
        let Self { uid, resource_version, hash: _, event: _, api_version, kind, encoding, needs: _ } = self;
        let uid = uid.as_ref().map(|uid| uid.to_string().len()).unwrap_or_default();
        // Uid and version stand in the message's id, too.
        let texts = 2 * (uid + resource_version.to_string().len()) + api_version.len() + kind.len() + encoding.len();
        FIXED_ROOM + texts
    }

    /// What `headers` say; `None` if the agent did not write them.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &'static str| headers.get(HeaderName::from_static(name)).map(HeaderValue::as_str);
        let event = match text(EVENT)? {
            "ADDED" => EventType::Added,
            "MODIFIED" => EventType::Modified,
            "DELETED" => EventType::Deleted,
            _ => return None,
        };
        Some(Self {
            uid: text(UID).map(Uid::new),
            resource_version: ResourceVersion::new(text(RESOURCE_VERSION).unwrap_or_default()),
            hash: u64::from_str_radix(text(HASH)?, 16).ok()?,
            event,
            api_version: text(API_VERSION)?.to_owned(),
            kind: text(KIND)?.to_owned(),
            encoding: text(ENCODING)?.to_owned(),
            needs: text(NEEDS).and_then(|bytes| bytes.parse().ok()),
        })
    }
}

/// A header value is one line. What comes from an API server may be anything; a broken value makes the object differ at
/// the next comparison, and no more.
fn line(text: &str) -> HeaderValue {
    text.parse().unwrap_or_else(|_| HeaderValue::from(text.replace(['\r', '\n'], " ").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_all_of_a_stamp_and_have_room() {
        let stamp = Stamp {
            uid: Some(Uid::new("u1")),
            resource_version: ResourceVersion::new("7"),
            hash: u64::MAX,
            event: EventType::Modified,
            api_version: "v1".into(),
            kind: "Thing".into(),
            encoding: "e1".into(),
            needs: Some(usize::MAX),
        };
        let message_id = stamp.message_id("a.subject", u64::MAX);
        let conditions = Conditions { replaces: u64::MAX, message_id: &message_id, ttl_seconds: Some(u64::MAX) };
        let headers = stamp.headers(&conditions);
        let bytes: usize = headers
            .iter()
            .flat_map(|(name, values)| {
                values.iter().map(move |value| name.to_string().len() + value.as_str().len() + ": \r\n".len())
            })
            .sum();
        assert!(bytes + "NATS/1.0\r\n\r\n".len() <= stamp.header_room(), "{bytes} > {}", stamp.header_room());
        assert_eq!(Stamp::read(&headers), Some(stamp.clone()));
        let whole = Stamp { needs: None, ..stamp };
        assert_eq!(Stamp::read(&whole.headers(&conditions)), Some(whole));
    }

    #[test]
    fn a_message_is_identified_by_its_object_not_by_its_uid_alone() {
        let stamp = |uid: Option<&str>| Stamp {
            uid: uid.map(Uid::new),
            resource_version: ResourceVersion::None,
            hash: 0,
            event: EventType::Deleted,
            api_version: "v1".into(),
            kind: "Thing".into(),
            encoding: "e1".into(),
            needs: None,
        };
        for uid in [None, Some("u1")] {
            let id = |subject| stamp(uid).message_id(subject, 0);
            assert_ne!(id("meshsync.state.c.core.things.n.a"), id("meshsync.state.c.core.things.n.b"));
            assert_eq!(id("meshsync.state.c.core.things.n.a"), id("meshsync.state.c.core.things.n.a"));
        }
    }
}
