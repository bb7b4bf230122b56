//! The connection to the API server.

mod connector;
mod deadline;
mod kubeconfig;
mod lane;
mod proxy;
mod transport;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt};
use tower::ServiceBuilder;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::build_info::BuildInfo;

use connector::Connectors;
use deadline::DeadlineLayer;
pub use deadline::{Awaited, DeadlineError, Limits};
use kubeconfig::Description;
pub use proxy::ProxyError;
use transport::Transport;

/// Which cluster to talk to.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// Path of a kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the pod's own account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig file [default: its current context]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// Waits between repetitions, and their number.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);
const RETRIES: u32 = 3;
/// Requests that wait for the connection.
const BUFFER: usize = 1024;

/// Who repeats a request that the server was too busy for (429, 503, 504).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The caller, which paces itself per type.
    Caller,
    /// The client, three times within a few seconds, whatever pause the server asks for: the caller is told and comes back
    /// later. (kube's own default is 15 times in silence, and a day's sleep where `Retry-After` says so.)
    Briefly,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file that was named cannot be used.
    #[error("cannot use the kubeconfig {}: {source}; check --kubeconfig, --context and the file's permissions", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig was named and none could be found.
    #[error(
        "found no cluster to talk to: {0}; name a kubeconfig with --kubeconfig or $KUBECONFIG, or run inside a pod"
    )]
    Infer(String),
    /// The kubeconfig names no context that exists.
    #[error("the kubeconfig {} {problem}; name one with --context: {existing}", path.display())]
    Context {
        /// The file, or files.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// Contexts that exist.
        existing: String,
    },
    /// The token cannot be sent.
    #[error(
        "the kubeconfig's token, or that of its exec plugin, holds a line break or another character that no header may"
    )]
    Token,
    /// The program that gets credentials cannot be started.
    #[error("cannot start {command}, which the kubeconfig gets its credentials from ({reason}); install it{hint}")]
    ExecPlugin {
        /// The program.
        command: String,
        /// The operating system's answer.
        reason: String,
        /// What the kubeconfig says about installing it, after a colon.
        hint: String,
    },
    /// The client certificate is of an old kind.
    #[error(
        "the client certificate of the kubeconfig is X.509 version 1, which TLS here does not take; \
         have it issued again as version 3, that is with any extension, such as extendedKeyUsage=clientAuth"
    )]
    CertificateVersion,
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The configuration was read, but no client can be made from it.
    #[error("cannot make a client for {url}: {source}")]
    Client {
        /// The API server.
        url: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A client, and what it talks to.
#[derive(Clone)]
pub struct Connected {
    /// The client.
    pub client: Client,
    /// URL of the API server, for messages: the client itself does not tell.
    pub server: String,
}

/// Makes a client, whose requests have [`Limits`]. Nothing is sent yet.
///
/// # Errors
/// [`ConnectError`], which names the file and what to do.
pub async fn connect(args: &ClientArgs, build: &BuildInfo, retry: Retry) -> Result<Connected, ConnectError> {
    connect_within(args, build, retry, Limits::default()).await
}

async fn connect_within(
    args: &ClientArgs,
    build: &BuildInfo,
    retry: Retry,
    limits: Limits,
) -> Result<Connected, ConnectError> {
    let Description { mut config, proxy_url } = kubeconfig::describe(args).await?;
    if let Ok(agent) = HeaderValue::from_str(&build.user_agent()) {
        config.headers.push((USER_AGENT, agent));
    }
    let server = config.cluster_url.to_string();
    let failed = |source| kubeconfig::explain(&config, &server, source);
    let proxy = proxy::choose(proxy_url.as_deref(), &config.cluster_url, |name| std::env::var(name).ok())?;
    if let Some(proxy) = &proxy {
        tracing::debug!(?proxy, server, "connecting through a proxy");
    }
    // The library panics over a token that no header can hold, as an exec plugin may give one.
    let auth = catch_unwind(AssertUnwindSafe(|| config.auth_layer())).map_err(|_| ConnectError::Token)?;
    let connectors = Connectors::new(&config, proxy.as_ref()).map_err(failed)?;
    let stack = ServiceBuilder::new()
        // Inside of what repeats: each attempt has its own time.
        .layer(DeadlineLayer::new(limits, &server))
        .layer(config.base_uri_layer())
        .option_layer(auth.map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .service(Transport::new(config.cluster_url.clone(), connectors, limits.word));
    let builder = ClientBuilder::new(stack, config.default_namespace.clone());
    let client = match (retry, RetryPolicy::new(RETRY_FIRST, RETRY_LAST, RETRIES, false)) {
        (Retry::Briefly, Ok(policy)) => {
            // The buffer makes the connection one that can be shared, which repeating takes.
            builder.with_layer(&BufferLayer::new(BUFFER)).with_layer(&RetryLayer::new(policy)).build()
        }
        (Retry::Caller, _) | (Retry::Briefly, Err(_)) => builder.build(),
    };
    Ok(Connected { client, server })
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Many libraries repeat the cause in their own message.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
