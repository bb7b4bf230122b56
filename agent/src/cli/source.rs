//! Where the configuration comes from, on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use meshsync_crds::agent_config::AgentConfig;

use crate::config::ConfigSource;

/// Where to read the configuration.
#[derive(Args, Debug)]
pub(super) struct SourceArgs {
    /// ConfigMap that holds the configuration, as the operator writes it; `run` follows it
    #[arg(long, env = "MESHSYNC_CONFIG_MAP", value_name = "NAMESPACE/NAME", conflicts_with = "config")]
    config_map: Option<NamespacedName>,
    /// File that holds the configuration; `run` follows it
    #[arg(long, env = "MESHSYNC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl SourceArgs {
    /// The source; `otherwise` is in force where none is named.
    pub(super) fn source(&self, otherwise: AgentConfig) -> ConfigSource {
        match (&self.config_map, &self.config) {
            (Some(NamespacedName { namespace, name }), _) => {
                ConfigSource::ConfigMap { namespace: namespace.clone(), name: name.clone() }
            }
            (None, Some(path)) => ConfigSource::File(path.clone()),
            (None, None) => ConfigSource::Fixed(Box::new(otherwise)),
        }
    }
}

/// `NAMESPACE/NAME`
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamespacedName {
    namespace: String,
    name: String,
}

impl FromStr for NamespacedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/NAME, e.g. meshery/meshsync-agent".to_owned()),
        }
    }
}
