//! The broker, on the command line.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use clap::Args;
use clap::builder::BoolishValueParser;

use crate::publish::broker;
use crate::publish::broker_config::BrokerConfig;

/// Time for the first connection. Who waits for a broker that is not there has most likely a wrong URL; one that goes
/// away later comes back.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where the broker is, for commands that a person waits for.
#[derive(Args, Debug)]
pub(super) struct BrokerArgs {
    /// Broker, or several of one cluster of them, separated by commas; credentials in the URL, in NATS_TOKEN, in NATS_USER and
    /// NATS_PASSWORD, or in a file. An error if it is not reached
    /// within 10 s; if the connection is lost later, it is made again
    #[arg(
        long,
        env = "BROKER_URL",
        value_name = "URL",
        default_value = "nats://localhost:4222",
        hide_env_values = true
    )]
    broker_url: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// What lets a client in at the broker; apart from the URL, which `run` reads otherwise.
#[derive(Args, Debug, Default)]
pub(super) struct AccessArgs {
    /// File with the certificate authorities to trust at the broker
    #[arg(long, env = "NATS_CA_FILE", value_name = "FILE")]
    broker_ca_file: Option<PathBuf>,
    /// File with the seed of an nkey, which begins with SU
    #[arg(long, env = "NATS_NKEY_FILE", value_name = "FILE", conflicts_with = "broker_credentials_file")]
    broker_nkey_file: Option<PathBuf>,
    /// Credentials file (.creds): a JWT and the seed that belongs to it
    #[arg(long, env = "NATS_CREDENTIALS_FILE", value_name = "FILE")]
    broker_credentials_file: Option<PathBuf>,
    /// Begin TLS before the broker has said anything, as its `handshake_first` asks for
    #[arg(long, env = "NATS_TLS_FIRST", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    broker_tls_first: bool,
}

impl BrokerArgs {
    /// A client that is connected.
    ///
    /// # Errors
    /// When the broker cannot be reached in time, or its address cannot be used.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let mut broker = broker::connect(&self.access.config(self.broker_url.clone())).await?;
        broker.reached(CONNECT_WITHIN).await?;
        Ok(broker.client)
    }
}

impl AccessArgs {
    /// How to reach the broker at `url`, with the credentials that the environment holds.
    pub(super) fn config(&self, url: String) -> BrokerConfig {
        self.config_with(url, variable)
    }

    fn config_with(&self, url: String, variable: impl Fn(&str) -> Option<String>) -> BrokerConfig {
        BrokerConfig {
            url,
            token: variable("NATS_TOKEN"),
            user: variable("NATS_USER").zip(variable("NATS_PASSWORD")),
            ca_file: self.broker_ca_file.clone(),
            nkey_file: self.broker_nkey_file.clone(),
            credentials_file: self.broker_credentials_file.clone(),
            tls_first: self.broker_tls_first,
        }
    }
}

/// A variable of the environment. One that is empty is not set: an optional key of a Secret comes that way.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        broker: BrokerArgs,
    }

    #[test]
    fn all_that_lets_a_client_in_is_used() {
        let args = ["t", "--broker-url", "tls://b", "--broker-ca-file", "/ca.pem"];
        let BrokerArgs { broker_url, access } = Cli::parse_from(args).broker;
        let config = access.config_with(broker_url, |name| Some(format!("value of {name}")));
        assert_eq!(config.url, "tls://b");
        assert_eq!(config.token.as_deref(), Some("value of NATS_TOKEN"));
        assert_eq!(config.user, Some(("value of NATS_USER".into(), "value of NATS_PASSWORD".into())));
        assert_eq!(config.ca_file, Some("/ca.pem".into()));
        assert!(!config.tls_first);
    }

    #[test]
    fn keys_and_the_kind_of_handshake_are_passed_on() {
        let config = |args: &[&str]| {
            let BrokerArgs { broker_url, access } = Cli::try_parse_from([&["t"], args].concat()).ok()?.broker;
            Some(access.config_with(broker_url, |_| None))
        };
        let nkey = config(&["--broker-nkey-file", "/n", "--broker-tls-first"]).unwrap();
        assert_eq!((nkey.nkey_file, nkey.credentials_file, nkey.tls_first), (Some("/n".into()), None, true));
        let creds = config(&["--broker-credentials-file", "/c", "--broker-tls-first=false"]).unwrap();
        assert_eq!((creds.nkey_file, creds.credentials_file, creds.tls_first), (None, Some("/c".into()), false));
        assert!(config(&["--broker-nkey-file", "/n", "--broker-credentials-file", "/c"]).is_none(), "which of them?");
    }

    #[test]
    fn a_user_without_password_is_none() {
        let access = AccessArgs::default();
        let config = access.config_with("b".into(), |name| (name == "NATS_USER").then(|| "u".into()));
        assert_eq!((config.token, config.user, config.ca_file), (None, None, None));
    }
}
