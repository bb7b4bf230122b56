//! The connection to NATS: made in the background, kept for ever, its state always known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ClientError, ConnectOptions, Event};
use tokio::sync::watch;

use super::address::Credentials;
use super::broker_config::{BrokerConfig, BrokerConfigError};
use super::keys::Keys;
use super::trouble::Trouble;

/// Name under which Meshery Server looks for the agent among the broker's connections.
const CLIENT_NAME: &str = "meshsync";
/// Messages that wait inside the client library. The publisher confirms batch by batch, so few ever do.
const CLIENT_CAPACITY: usize = 1024;

/// Whether there is a connection, and the how-manieth it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Whether there is one now.
    pub up: bool,
    /// Grows with every connection made: what was sent over an older one and not confirmed may be lost.
    pub generation: u64,
}

impl Connection {
    /// Whether the connection of this generation is the one that there is.
    #[must_use]
    pub const fn is(&self, generation: u64) -> bool {
        self.up && self.generation == generation
    }
}

/// There was no connection in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {url} within {within:?}{}; set --broker-url or BROKER_URL, credentials in it, in NATS_TOKEN, in \
    NATS_USER and NATS_PASSWORD, with --broker-nkey-file or --broker-credentials-file, and --broker-ca-file for a certificate \
    that is not publicly trusted",
    why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
pub struct NotReached {
    url: String,
    within: Duration,
    why: Option<String>,
}

/// A client that reconnects for ever, and what is known of its connection.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The client.
    pub client: Client,
    /// The connection as it changes.
    pub connection: watch::Receiver<Connection>,
    /// Why there is no connection, since the first attempt that failed; never holds a credential.
    pub trouble: watch::Receiver<Option<String>>,
    /// URL without credentials.
    pub url: String,
}

impl Broker {
    /// Waits until there is a connection: for commands that a person waits for.
    ///
    /// # Errors
    /// When there is none in time, with the last reason.
    pub async fn reached(&mut self, within: Duration) -> Result<(), NotReached> {
        let connected = self.connection.wait_for(|connection| connection.up);
        match tokio::time::timeout(within, connected).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotReached { url: self.url.clone(), within, why: self.trouble.borrow().clone() }),
        }
    }
}

impl BrokerConfig {
    /// With what the URL holds, unless credentials are given otherwise.
    fn with(mut self, credentials: Option<Credentials>) -> Self {
        match credentials {
            Some(_) if self.token.is_some() || self.user.is_some() => {}
            Some(Credentials::Token(token)) => self.token = Some(token),
            Some(Credentials::User(user, password)) => self.user = Some((user, password)),
            None => {}
        }
        self
    }

    /// What must never be shown, also as the URL spells it.
    fn secrets(&self) -> Vec<String> {
        let password = self.user.as_ref().map(|(_, password)| password.clone());
        [self.token.clone(), password].into_iter().flatten().chain(self.spelt_secrets()).collect()
    }

    fn options(&self, keys: Keys, state: watch::Sender<Connection>, trouble: Arc<Trouble>) -> ConnectOptions {
        let tried = trouble.clone();
        let mut options = ConnectOptions::new()
            .name(CLIENT_NAME)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .client_capacity(CLIENT_CAPACITY)
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(delays())
            .event_callback(move |event| {
                note(&state, &trouble, &event);
                std::future::ready(())
            })
            // Called before each attempt. It leaves the choice to the library, and hears what the last one came to.
            .reconnect_to_server_callback(move |servers, _| {
                let answers: Vec<_> = servers.into_iter().map(|server| server.last_error).collect();
                tried.tries_again(&answers, Instant::now());
                std::future::ready(None)
            });
        if let Some(token) = &self.token {
            options = options.token(token.clone());
        }
        if let Some((user, password)) = &self.user {
            options = options.user_and_password(user.clone(), password.clone());
        }
        options = keys.add_to(options);
        if self.tls_first {
            options = options.tls_first().require_tls(true);
        }
        if let Some(path) = &self.ca_file {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        options
    }
}

/// Shortest and longest time before an attempt to connect.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// How long to wait before an attempt, by how many failed in a row, that one included: a broker that is back is used at once,
/// one that is away is not hammered, nor is one that accepts and hangs up. The very first attempt waits for nothing.
fn delays() -> impl Fn(usize) -> Duration {
    let (shortest, longest) = DELAYS;
    let is_first = AtomicBool::new(true);
    move |attempt| {
        if is_first.swap(false, Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        shortest.saturating_mul(2_u32.saturating_pow(doublings)).min(longest)
    }
}

fn note(state: &watch::Sender<Connection>, trouble: &Trouble, event: &Event) {
    match event {
        Event::Connected => {
            trouble.is_over();
            state.send_modify(|connection| {
                connection.up = true;
                connection.generation += 1;
            });
            tracing::info!("connected to the broker");
        }
        // Asked for: nobody uses it any more.
        Event::Closed => {
            state.send_modify(|connection| connection.up = false);
            tracing::debug!("the connection to the broker is closed");
        }
        Event::Disconnected => {
            state.send_modify(|connection| connection.up = false);
            tracing::warn!("the connection to the broker is lost; trying again for as long as it takes");
        }
        Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
        Event::ClientError(ClientError::Other(kind)) => trouble.failed(kind),
        Event::ClientError(error) => tracing::warn!(%error, "broker client"),
        Event::SlowConsumer(_) => tracing::warn!("requests arrive faster than they are handled"),
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "broker"),
    }
}

/// Begins to connect; returns at once, whether the broker is there or not.
///
/// # Errors
/// [`BrokerConfigError`] when the configuration can never work.
pub async fn connect(config: &BrokerConfig) -> Result<Broker, BrokerConfigError> {
    let (state, connection) = watch::channel(Connection::default());
    let (addresses, credentials) = config.addresses()?;
    let keys = Keys::read(config)?;
    let config = config.clone().with(credentials);
    let url = config.public_url();
    let secrets = config.secrets().into_iter().chain(keys.secrets()).collect();
    let trouble = Arc::new(Trouble::new(url.clone(), secrets));
    let last = trouble.follow();
    let options = config.options(keys, state, trouble);
    let client = options.connect(addresses).await.map_err(|error| BrokerConfigError::Options(error.to_string()))?;
    Ok(Broker { client, connection, trouble: last, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_otherwise_counts_more_than_what_the_url_holds() {
        let of_url = || Some(Credentials::User("u".into(), "p%40w".into()));
        let found = |token: Option<&str>, user: Option<(&str, &str)>| {
            let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
            let config = BrokerConfig { token: token.map(str::to_owned), user, ..BrokerConfig::default() };
            let BrokerConfig { token, user, .. } = config.with(of_url());
            (token, user)
        };
        assert_eq!(found(None, None), (None, Some(("u".into(), "p%40w".into()))));
        assert_eq!(found(Some("t"), None), (Some("t".into()), None));
        assert_eq!(found(None, Some(("v", "w"))), (None, Some(("v".into(), "w".into()))));
    }

    #[test]
    fn a_password_is_hidden_however_it_is_spelt() {
        let config = BrokerConfig { url: "nats://user:p%40ssword@broker".into(), ..BrokerConfig::default() };
        let (_, credentials) = config.addresses().unwrap();
        assert_eq!(config.clone().with(credentials).secrets(), ["p@ssword", "p%40ssword"]);
        let config = BrokerConfig { url: "nats://t%6Fken@broker".into(), ..BrokerConfig::default() };
        let (_, credentials) = config.addresses().unwrap();
        assert_eq!(config.clone().with(credentials).secrets(), ["token", "t%6Fken"]);
    }

    #[test]
    fn only_the_very_first_attempt_waits_for_nothing() {
        let delay = delays();
        let millis = |attempt| delay(attempt).as_millis();
        assert_eq!([1, 2, 3].map(millis), [0, 200, 400]);
        // Connected, and lost again.
        assert_eq!([1, 2, 6, 7, 1_000_000].map(millis), [100, 200, 3_200, 4_000, 4_000]);
    }
}
