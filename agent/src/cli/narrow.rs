//! Flags and environment of the original agent that narrow whatever configuration there is.

use clap::Args;
use clap::builder::BoolishValueParser;
use meshsync_crds::agent_config::{AgentConfig, SecretPolicy};
use meshsync_crds::informer_config::built_in_blacklist_beside;
use meshsync_crds::narrowing::Narrowing;

use super::source::SourceArgs;
use crate::config::ConfigSource;

/// What the command line takes away from the configuration.
#[derive(Args, Debug)]
pub(super) struct NarrowArgs {
    /// Only objects in these namespaces, and none that is in no namespace; rights in these are enough. Narrows any
    /// configuration
    #[arg(long = "outputNamespaces", value_name = "LIST", value_delimiter = ',')]
    output_namespaces: Vec<String>,
    /// Only these types, singular or plural, in any case. Narrows any configuration
    #[arg(long = "outputResources", value_name = "LIST", value_delimiter = ',')]
    output_resources: Vec<String>,
    /// If true, values of Secrets are redacted whatever the configuration says. False publishes them only where neither
    /// --config nor --config-map is given: a configuration has its own word for it, `publish.secrets`
    #[arg(long, env = "MESHSYNC_REDACT_SECRETS", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    redact_secrets: Option<bool>,
}

impl NarrowArgs {
    /// The limits.
    pub(super) fn narrowing(&self) -> Narrowing {
        let given =
            |list: &[String]| list.iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
        Narrowing {
            namespaces: given(&self.output_namespaces),
            resources: given(&self.output_resources),
            redact: self.redact_secrets == Some(true),
        }
    }

    /// The source that `named` names; else a fixed configuration, which these flags may widen where the default is narrow.
    pub(super) fn source(&self, named: &SourceArgs) -> ConfigSource {
        let mut fixed = AgentConfig::built_in();
        fixed.informer_config.blacklist = built_in_blacklist_beside(&self.narrowing().resources);
        if self.redact_secrets == Some(false) {
            fixed.publish.secrets = SecretPolicy::Publish;
        }
        let source = named.source(fixed);
        if self.redact_secrets == Some(false) && !matches!(source, ConfigSource::Fixed(_)) {
            tracing::warn!(
                "MESHSYNC_REDACT_SECRETS=false does nothing beside a configuration: set its `publish.secrets`"
            );
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        narrow: NarrowArgs,
        #[command(flatten)]
        source: SourceArgs,
    }

    /// The limits, and the configuration where it is fixed.
    fn parsed(args: &[&str]) -> (Narrowing, Option<AgentConfig>) {
        let Cli { narrow, source } = Cli::parse_from(["t"].iter().chain(args));
        let config = match narrow.source(&source) {
            ConfigSource::Fixed(config) => Some(*config),
            _ => None,
        };
        (narrow.narrowing(), config)
    }

    #[test]
    fn flags_narrow_beside_a_configuration_too() {
        let flags = ["--outputNamespaces", "a, b", "--outputResources", "pod,", "--redact-secrets", "true"];
        let expected =
            Narrowing { namespaces: vec!["a".into(), "b".into()], resources: vec!["pod".into()], redact: true };
        assert_eq!(parsed(&flags), (expected.clone(), Some(AgentConfig::built_in())));
        let with_config = [&flags[..], &["--config", "/c.yaml"]].concat();
        assert_eq!(parsed(&with_config), (expected, None));
    }

    #[test]
    fn secrets_are_published_only_where_no_configuration_says_otherwise() {
        let (narrowing, config) = parsed(&["--redact-secrets", "false"]);
        assert!(narrowing.is_nothing());
        assert_eq!(config.map(|config| config.publish.secrets), Some(SecretPolicy::Publish));
        let (narrowing, config) = parsed(&["--redact-secrets", "0", "--config-map", "a/b"]);
        assert!(narrowing.is_nothing() && config.is_none());
    }

    #[test]
    fn a_type_that_is_left_out_by_default_is_not_when_it_is_asked_for() {
        let (_, config) = parsed(&["--outputResources", "event,pod"]);
        assert_eq!(config.unwrap().informer_config.blacklist, ["leases.coordination.k8s.io"]);
    }
}
