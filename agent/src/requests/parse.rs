//! Request messages, read liberally.

use serde::Deserialize;
use serde_json::Value;

/// A request that has an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entity {
    /// Send everything that is held.
    InformerStore {
        /// Subject for the answer.
        reply: String,
    },
    /// Publish everything again.
    ResyncDiscovery,
    /// Tell the version.
    Meta,
}

/// Why a request has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not the JSON of a request.
    #[error("not a request: {0}")]
    Shape(String),
    /// An entity that this agent does not serve.
    #[error("nothing is done for the entity {0:?}")]
    Entity(String),
    /// An answer was asked for and the subject for it is missing or cannot be published to.
    #[error("informer-store without a usable subject in Payload.Reply: {0:?}")]
    Reply(String),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Request")]
    request: Option<Request>,
}

#[derive(Deserialize)]
struct Request {
    #[serde(rename = "Entity", alias = "entity", default)]
    entity: String,
    #[serde(rename = "Payload", alias = "payload", default)]
    payload: Value,
}

/// Longest entity or subject that is quoted or used.
const MAX: usize = 255;

/// Reads a request.
///
/// # Errors
/// [`ParseError`]: what to log.
pub fn parse(message: &[u8]) -> Result<Entity, ParseError> {
    let envelope: Envelope = serde_json::from_slice(message).map_err(|error| ParseError::Shape(error.to_string()))?;
    let request = envelope.request.ok_or_else(|| ParseError::Shape("`Request` is missing".to_owned()))?;
    match request.entity.as_str() {
        "informer-store" => reply_subject(&request.payload).map(|reply| Entity::InformerStore { reply }),
        "resync-discovery" => Ok(Entity::ResyncDiscovery),
        "meshsync-meta" => Ok(Entity::Meta),
        other => Err(ParseError::Entity(other.chars().take(MAX).collect())),
    }
}

/// The payload is an object, or the same as JSON text.
fn reply_subject(payload: &Value) -> Result<String, ParseError> {
    let parsed: Value = match payload {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        other => other.clone(),
    };
    let subject = ["Reply", "reply"].iter().find_map(|key| parsed.get(key)?.as_str()).unwrap_or_default();
    let usable = !subject.is_empty()
        && subject.len() <= MAX
        // A subject to publish to has no white space, no wildcards and no empty token (NATS protocol).
        && subject.split('.').all(|token| !token.is_empty() && token.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != '>'))
        // The server's own subjects are not for answers.
        && !subject.starts_with('$');
    if usable { Ok(subject.to_owned()) } else { Err(ParseError::Reply(subject.chars().take(MAX).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: &str) -> Result<Entity, ParseError> {
        parse(
            format!(r#"{{"ObjectType":"request-payload","EventType":"","Request":{request},"Object":null}}"#)
                .as_bytes(),
        )
    }

    #[test]
    fn what_the_server_sends_is_understood() {
        let store = Entity::InformerStore { reply: "meshery-server.meshsync.store".into() };
        assert_eq!(
            of(r#"{"Entity":"informer-store","Payload":{"Reply":"meshery-server.meshsync.store"}}"#),
            Ok(store.clone())
        );
        assert_eq!(
            of(r#"{"Entity":"informer-store","Payload":"{\"Reply\":\"meshery-server.meshsync.store\"}"}"#),
            Ok(store)
        );
        assert_eq!(of(r#"{"Entity":"resync-discovery","Payload":""}"#), Ok(Entity::ResyncDiscovery));
        assert_eq!(of(r#"{"Entity":"resync-discovery"}"#), Ok(Entity::ResyncDiscovery));
        assert_eq!(of(r#"{"Entity":"meshsync-meta","Payload":null}"#), Ok(Entity::Meta));
    }

    #[test]
    fn anything_else_is_an_error_and_nothing_more() {
        assert!(matches!(parse(b"\xff\x00"), Err(ParseError::Shape(_))));
        assert!(matches!(parse(b"{}"), Err(ParseError::Shape(_))));
        assert!(matches!(of("7"), Err(ParseError::Shape(_))));
        // An array is read as a request without fields, which asks for nothing.
        assert_eq!(of("[]"), Err(ParseError::Entity(String::new())));
        assert_eq!(of(r#"{"Entity":"delete-everything"}"#), Err(ParseError::Entity("delete-everything".into())));
        for subject in ["", "a b", "a.>", "*", "a..b", "$SYS.x", "a\\nPUB x"] {
            let request = format!(r#"{{"Entity":"informer-store","Payload":{{"Reply":"{subject}"}}}}"#);
            assert!(matches!(of(&request), Err(ParseError::Reply(_))), "{subject}");
        }
        assert!(matches!(of(r#"{"Entity":"informer-store","Payload":7}"#), Err(ParseError::Reply(_))));
    }
}
