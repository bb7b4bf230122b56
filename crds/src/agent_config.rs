//! The document through which the operator tells an agent what to do.
//!
//! The operator writes it as key [`crate::names::AGENT_CONFIG_KEY`] of the agent's ConfigMap, as JSON (which is YAML,
//! so that a person may edit it either way); the agent watches that one object and applies changes while it runs.

use serde::{Deserialize, Serialize};

use crate::informer_config::{EffectiveInformerConfig, InformerConfig};

/// What an agent is to watch and how it publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// Identifies this configuration; the agent reports it back in `status.agent.appliedRevision` once in force.
    ///
    /// It also changes when only the agent's rights did, because a new revision makes the agent try refused types
    /// again at once. Empty where no operator wrote the document.
    #[serde(default)]
    pub revision: String,
    /// UID of the namespace `kube-system`. Absent: the agent asks the API server itself, which takes the right to get that
    /// namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// What to watch, nothing left open.
    #[serde(default = "default_informer_config", rename = "informer_config")]
    pub informer_config: EffectiveInformerConfig,
    /// What a published message looks like.
    #[serde(default)]
    pub publish: PublishConfig,
    /// What the agent holds in memory.
    #[serde(default, skip_serializing_if = "SnapshotConfig::is_default")]
    pub snapshot: SnapshotConfig,
    /// The MeshSync whose `status.agent` the agent writes; absent: it reports nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to: Option<ReportTarget>,
}

impl AgentConfig {
    /// What an agent does that nobody configured: watch everything but the built-in blacklist, redact Secrets.
    #[must_use]
    pub fn built_in() -> Self {
        Self { informer_config: default_informer_config(), ..Self::default() }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// A message that names line, column and field.
    pub fn parse(text: &str) -> Result<Self, AgentConfigError> {
        if text.trim().is_empty() {
            return Err(AgentConfigError { message: "the document is empty".to_owned() });
        }
        serde_saphyr::from_str(text).map_err(|source| AgentConfigError { message: source.to_string() })
    }
}

fn default_informer_config() -> EffectiveInformerConfig {
    InformerConfig::built_in().into_effective()
}

/// Text that is not an [`AgentConfig`].
#[derive(Debug, thiserror::Error)]
#[error("not a valid agent configuration: {message}")]
pub struct AgentConfigError {
    message: String,
}

/// What a published message looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishConfig {
    /// Shape of the object inside the envelope.
    #[serde(default)]
    pub format: PublishFormat,
    /// What happens to the values of Secrets.
    #[serde(default)]
    pub secrets: SecretPolicy,
}

/// Shape of the object inside the envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PublishFormat {
    /// The resource object that Meshery Server reads.
    #[default]
    Meshery,
    /// The Kubernetes object as it is, without managedFields and with Secrets redacted.
    Kubernetes,
}

/// What happens to the values of Secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecretPolicy {
    /// Keys stay, values are replaced by a fixed placeholder.
    #[default]
    Redact,
    /// Values are published as they are.
    Publish,
}

/// What an agent holds in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotConfig {
    /// How much of each object.
    #[serde(default)]
    pub mode: SnapshotMode,
}

impl SnapshotConfig {
    /// Left out of the document then, which older agents read as well.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How much of each object an agent holds in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotMode {
    /// All of it, compressed.
    #[default]
    Full,
    /// What tells it from others and from its other states; its body only until that is published. What is asked for later
    /// is read from the broker's stream or the API server.
    HashOnly,
}

/// The MeshSync whose status an agent reports into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportTarget {
    /// Namespace of the MeshSync.
    pub namespace: String,
    /// Name of the MeshSync.
    pub name: String,
    /// UID of the MeshSync: a report for a deleted and re-created one must not land in the new one.
    pub uid: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_almost_empty_document_means_the_built_in_configuration() {
        assert_eq!(AgentConfig::parse("revision: ''").unwrap(), AgentConfig::built_in());
    }

    #[test]
    fn json_and_yaml_read_the_same() {
        let config = AgentConfig {
            revision: "r1".into(),
            cluster_id: Some("uid-1".into()),
            informer_config: EffectiveInformerConfig { blacklist: vec!["po".into()], ..Default::default() },
            publish: PublishConfig { format: PublishFormat::Kubernetes, secrets: SecretPolicy::Publish },
            snapshot: SnapshotConfig { mode: SnapshotMode::HashOnly },
            report_to: Some(ReportTarget { namespace: "ns".into(), name: "n".into(), uid: "u".into() }),
        };
        let json = serde_json::to_string(&config).unwrap();
        let yaml = serde_saphyr::to_string(&config).unwrap();
        assert_eq!(AgentConfig::parse(&json).unwrap(), config, "{json}");
        assert_eq!(AgentConfig::parse(&yaml).unwrap(), config, "{yaml}");
    }

    #[test]
    fn garbage_is_named_not_guessed() {
        for (text, word) in [("", "empty"), ("{", "line"), ("publish: {format: xml}", "xml"), ("revison: a", "revison")]
        {
            let error = AgentConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
