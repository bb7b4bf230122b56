//! The connection to the API server.

mod deadline;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::client::ClientBuilder;
use kube::client::retry::RetryPolicy;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::build_info::BuildInfo;

use deadline::DeadlineLayer;
pub use deadline::{Awaited, DeadlineError, Limits};

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
    let mut config = config(args).await?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // A watch is silent for as long as nothing changes; everything else has the limits of the layer below.
    config.read_timeout = None;
    if let Ok(agent) = HeaderValue::from_str(&build.user_agent()) {
        config.headers.push((USER_AGENT, agent));
    }
    let server = config.cluster_url.to_string();
    let failed = |source| ConnectError::Client { url: server.clone(), source: Box::new(source) };
    // Inside of what repeats: each attempt has its own time.
    let deadline = DeadlineLayer::new(limits, &server);
    let builder = ClientBuilder::try_from(config).map_err(failed)?.with_layer(&deadline);
    let client = match (retry, RetryPolicy::new(RETRY_FIRST, RETRY_LAST, RETRIES, false)) {
        (Retry::Briefly, Ok(policy)) => {
            // The buffer makes the connection one that can be shared, which repeating takes.
            builder.with_layer(&BufferLayer::new(BUFFER)).with_layer(&RetryLayer::new(policy)).build()
        }
        (Retry::Caller, _) | (Retry::Briefly, Err(_)) => builder.build(),
    };
    Ok(Connected { client, server })
}

#[allow(clippy::disallowed_methods, reason = "the one place that may")]
async fn config(args: &ClientArgs) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &args.kubeconfig {
        let failed = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
        let file = Kubeconfig::read_from(path).map_err(failed)?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(failed);
    }
    if args.context.is_some() {
        return Config::from_kubeconfig(&options).await.map_err(|source| ConnectError::Infer(chain(&source)));
    }
    Config::infer().await.map_err(|source| ConnectError::Infer(chain(&source)))
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
