//! How to reach the broker.

use std::path::PathBuf;

/// Where the original's users have their broker when they say nothing.
const DEFAULT_PORT_HINT: &str = "nats://host:4222";

/// How to reach the broker.
#[derive(Clone, Default)]
pub struct BrokerConfig {
    /// `nats://TOKEN@host:4222`, `nats://user:password@host`, `tls://host`, or bare `host:4222`; several of one cluster of
    /// brokers are separated by commas.
    pub url: String,
    /// Token that is not part of the URL.
    pub token: Option<String>,
    /// User and password that are not part of the URL.
    pub user: Option<(String, String)>,
    /// File with the seed of an nkey.
    pub nkey_file: Option<PathBuf>,
    /// File with a JWT and the seed that belongs to it.
    pub credentials_file: Option<PathBuf>,
    /// File with the certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// Whether the broker expects TLS before anything is said (`handshake_first`).
    pub tls_first: bool,
}

/// The URL without credentials; nothing else is ever shown.
impl std::fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerConfig").field("url", &self.public_url()).finish_non_exhaustive()
    }
}

/// A broker configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum BrokerConfigError {
    /// The URL cannot be read. The message must not quote it: it may hold a password.
    #[error("the broker URL cannot be read ({0}); expected {DEFAULT_PORT_HINT}, set with --broker-url or BROKER_URL")]
    Url(String),
    /// A file cannot be used. The message must not quote it.
    #[error("{what} cannot be read from {}: {why}; it is set with {option}", path.display())]
    File {
        /// What the file ought to hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// Flag and variable.
        option: &'static str,
    },
    /// The options are refused.
    #[error("cannot set up the connection to the broker: {0}")]
    Options(String),
}
