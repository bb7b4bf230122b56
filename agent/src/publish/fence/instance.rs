//! What agents of one cluster say to each other, over the subject that the one that publishes listens to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest message that is read.
const LONGEST: usize = 4_096;
/// Longest name that is shown; those of pods and namespaces have 253 characters at most.
const LONGEST_NAME: usize = 253;

/// An agent's process that publishes, as it answers others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instance {
    /// Tells the process from all others.
    pub id: String,
    /// For people: its pod or host.
    #[serde(default)]
    pub name: String,
    /// When it began to publish.
    pub since: Timestamp,
    /// The MeshSync that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meshsync: Option<Owner>,
}

/// A MeshSync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Its uid.
    pub uid: String,
    /// `namespace/name`.
    pub name: String,
}

/// What one agent asks of the one that publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(in crate::publish) enum Question {
    /// Who are you? The answer is an [`Instance`].
    Who,
    /// How far is your API server? The answer is [`Revised`].
    Revision {
        /// Id of the agent that is asked.
        of: String,
        /// Name of the type of which a list is to tell it, e.g. `configmaps`.
        #[serde(rename = "type")]
        type_: String,
    },
    /// End: the one that asks is a successor of the same cluster.
    Yield {
        /// Id of the agent that is asked.
        of: String,
        /// Who asks.
        to: Instance,
    },
}

/// How far an API server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::publish) enum Revised {
    /// Version of a list that was made just now.
    #[serde(rename = "revision")]
    At(u64),
    /// Why it cannot be told.
    #[serde(rename = "problem")]
    Unknown(String),
}

impl Instance {
    /// Reads an answer; `None` if it is none.
    pub(in crate::publish) fn read(answer: &[u8]) -> Option<Self> {
        let Self { id, name, since, meshsync } = read(answer)?;
        let meshsync = meshsync.map(|Owner { uid, name }| Owner { uid, name: shown(&name) });
        Some(Self { id, name: shown(&name), since, meshsync })
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, name, since, meshsync } = self;
        f.write_str(if name.is_empty() { id } else { name })?;
        if let Some(Owner { name, .. }) = meshsync {
            write!(f, " of MeshSync {name}")?;
        }
        write!(f, ", which publishes since {since:.0}")
    }
}

/// A message of another agent, who may be anybody that the broker lets in.
pub(in crate::publish) fn read<T: for<'de> Deserialize<'de>>(message: &[u8]) -> Option<T> {
    serde_json::from_slice(message).ok().filter(|_| message.len() <= LONGEST)
}

/// The message that says it. There is nothing in these that could not be written.
pub(in crate::publish) fn written(said: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(said).unwrap_or_default().into()
}

/// Words of somebody else, on one line.
pub(in crate::publish) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        let meshsync = Some(Owner { uid: "u1".into(), name: "meshery/meshsync".into() });
        Instance { id: "i1".into(), name: "pod-1".into(), since: Timestamp::from_second(7).unwrap(), meshsync }
    }

    #[test]
    fn what_is_said_is_read_as_it_was_said() {
        assert_eq!(Instance::read(&written(&instance())), Some(instance()));
        for question in [
            Question::Who,
            Question::Revision { of: "i1".into(), type_: "pods".into() },
            Question::Yield { of: "i1".into(), to: instance() },
        ] {
            assert_eq!(read::<Question>(&written(&question)), Some(question));
        }
        for answer in [Revised::At(7), Revised::Unknown("no".into())] {
            assert_eq!(read::<Revised>(&written(&answer)), Some(answer));
        }
        assert_eq!(written(&Question::Who), br#"{"ask":"who"}"#.as_slice());
    }

    #[test]
    fn what_no_agent_says_is_nothing() {
        for other in [&b""[..], b"{}", b"pong", b"[1]", br#"{"since":"never","id":"x"}"#, br#"{"ask":"who"}"#] {
            assert_eq!(Instance::read(other), None);
        }
        assert_eq!(read::<Question>(b""), None);
        let long = Instance { name: "x".repeat(LONGEST), ..instance() };
        assert_eq!(Instance::read(&written(&long)), None);
        let hostile = Instance { name: "a\nb".repeat(900), ..instance() };
        let shown = Instance::read(&written(&hostile)).unwrap().to_string();
        assert!(!shown.contains('\n') && shown.len() < 400, "{shown}");
    }
}
