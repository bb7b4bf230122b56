//! The connection to the API server.

mod args;
mod connector;
mod deadline;
mod error;
mod kubeconfig;
mod lane;
mod proxy;
mod transport;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt};
use tower::ServiceBuilder;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::build_info::BuildInfo;

pub use args::ClientArgs;
use connector::Connectors;
use deadline::DeadlineLayer;
pub use deadline::{Awaited, DeadlineError, Limits};
pub use error::{ConnectError, chain};
use kubeconfig::Description;
pub use proxy::ProxyError;
use transport::Transport;

/// Pause before the first retry.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause before a retry.
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Retries after the first attempt.
const RETRIES: u32 = 3;
/// Requests that may wait for the connection.
const BUFFER: usize = 1024;

/// Who retries a request that the server rejected because it is busy (429, 503, 504).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The caller, which backs off per type.
    Caller,
    /// The client, three times within a few seconds, even if the server asks for a longer pause: the caller gets the
    /// error and tries later. (kube's default is 15 silent retries, and a sleep of a day if `Retry-After` says so.)
    Briefly,
}

/// A client and its server.
#[derive(Clone)]
pub struct Connected {
    /// The client.
    pub client: Client,
    /// URL of the API server, for messages; the client itself does not reveal it.
    pub server: String,
}

/// Creates a client whose requests have [`Limits`]. It sends nothing yet.
///
/// # Errors
/// [`ConnectError`], which names the file and says what to do.
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
    // The library panics on a token that no header can contain, which an exec plugin may return.
    let auth = catch_unwind(AssertUnwindSafe(|| config.auth_layer())).map_err(|_| ConnectError::Token)?;
    let connectors = Connectors::new(&config, proxy.as_ref()).map_err(failed)?;
    let stack = ServiceBuilder::new()
        // Inside the retries, so that each attempt has its own limits.
        .layer(DeadlineLayer::new(limits, &server))
        .layer(config.base_uri_layer())
        .option_layer(auth.map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .service(Transport::new(config.cluster_url.clone(), connectors, limits.word));
    let builder = ClientBuilder::new(stack, config.default_namespace.clone());
    let client = match (retry, RetryPolicy::new(RETRY_FIRST, RETRY_LAST, RETRIES, false)) {
        (Retry::Briefly, Ok(policy)) => {
            // The buffer makes the service cloneable, which retries require.
            builder.with_layer(&BufferLayer::new(BUFFER)).with_layer(&RetryLayer::new(policy)).build()
        }
        (Retry::Caller, _) | (Retry::Briefly, Err(_)) => builder.build(),
    };
    Ok(Connected { client, server })
}

#[cfg(test)]
mod tests;
