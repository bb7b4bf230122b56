//! The broker, on the command line.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use clap::Args;

use crate::publish::broker::{self, BrokerConfig};

/// Time for the first connection. Who waits for a broker that is not there has most likely a wrong URL; one that goes
/// away later comes back.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where the broker is, for commands that a person waits for.
#[derive(Args, Debug)]
pub(super) struct BrokerArgs {
    /// Broker; credentials in the URL or in NATS_TOKEN, or NATS_USER and NATS_PASSWORD. An error if it is not reached
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
#[derive(Args, Debug)]
pub(super) struct AccessArgs {
    /// File with the certificate authorities to trust at the broker
    #[arg(long, env = "NATS_CA_FILE", value_name = "FILE")]
    broker_ca_file: Option<PathBuf>,
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
    }

    #[test]
    fn a_user_without_password_is_none() {
        let access = AccessArgs { broker_ca_file: None };
        let config = access.config_with("b".into(), |name| (name == "NATS_USER").then(|| "u".into()));
        assert_eq!((config.token, config.user, config.ca_file), (None, None, None));
    }
}
