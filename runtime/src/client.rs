//! The connection to the API server.

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
    /// The client, three times within a few seconds. (kube's own default is 15 times in silence.)
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

/// Makes a client. Nothing is sent yet.
///
/// # Errors
/// [`ConnectError`], which names the file and what to do.
pub async fn connect(args: &ClientArgs, build: &BuildInfo, retry: Retry) -> Result<Connected, ConnectError> {
    let mut config = config(args).await?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // A watch is silent for as long as nothing changes; the agent has its own limit for that.
    config.read_timeout = None;
    if let Ok(agent) = HeaderValue::from_str(&build.user_agent()) {
        config.headers.push((USER_AGENT, agent));
    }
    let server = config.cluster_url.to_string();
    let failed = |source| ConnectError::Client { url: server.clone(), source: Box::new(source) };
    let client = match (retry, RetryPolicy::new(RETRY_FIRST, RETRY_LAST, RETRIES, true)) {
        (Retry::Briefly, Ok(policy)) => {
            // The buffer makes the connection one that can be shared, which repeating takes.
            let builder = ClientBuilder::try_from(config).map_err(failed)?;
            builder.with_layer(&BufferLayer::new(BUFFER)).with_layer(&RetryLayer::new(policy)).build()
        }
        (Retry::Caller, _) | (Retry::Briefly, Err(_)) => Client::try_from(config).map_err(failed)?,
    };
    Ok(Connected { client, server })
}

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
mod tests {
    use super::*;

    const BUILD: BuildInfo = BuildInfo { name: "test", version: "0", revision: None };

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_named() {
        crate::tls::install_provider();
        let args = ClientArgs { kubeconfig: Some("no/such/file".into()), context: None };
        let error = connect(&args, &BUILD, Retry::Caller).await.err().unwrap().to_string();
        assert!(error.contains("no/such/file") && error.contains("--kubeconfig"), "{error}");
    }

    fn kubeconfig(name: &str, content: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meshsync-{name}-{}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        path
    }

    fn for_server(url: &str) -> String {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": url}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        })
        .to_string()
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_told() {
        crate::tls::install_provider();
        let cases = [("broken", "clusters: [", None), ("context", &for_server("http://localhost"), Some("elsewhere"))];
        for (name, content, context) in cases {
            let path = kubeconfig(name, content);
            let args = ClientArgs { kubeconfig: Some(path.clone()), context: context.map(str::to_owned) };
            let error = connect(&args, &BUILD, Retry::Caller).await.err().unwrap().to_string();
            std::fs::remove_file(&path).unwrap();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(error.contains(context.unwrap_or("parse")), "{error}");
        }
    }

    /// What a server that is always busy was asked, as User-Agents.
    async fn asked(retry: Retry) -> Vec<String> {
        crate::tls::install_provider();
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = asked.clone();
        let busy = axum::Router::new().fallback(async move |headers: http::HeaderMap| {
            seen.lock().unwrap().push(headers.get(USER_AGENT).unwrap().to_str().unwrap().to_owned());
            http::StatusCode::SERVICE_UNAVAILABLE
        });
        let listener = crate::probes::bind("127.0.0.1:0".parse().unwrap(), "test").await.unwrap();
        let path =
            kubeconfig(&format!("busy-{retry:?}"), &for_server(&format!("http://{}", listener.local_addr().unwrap())));
        let shutdown = crate::shutdown::Shutdown::new();
        let server = tokio::spawn(crate::probes::serve(listener, busy, "test", shutdown.clone()));
        let args = ClientArgs { kubeconfig: Some(path.clone()), context: None };
        let Connected { client, .. } = connect(&args, &BUILD, retry).await.unwrap();
        assert!(client.apiserver_version().await.is_err());
        drop(client);
        shutdown.begin();
        server.await.unwrap().unwrap();
        std::fs::remove_file(path).unwrap();
        std::mem::take(&mut *asked.lock().unwrap())
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_by_a_client_that_says_who_it_is_as_often_as_agreed() {
        assert_eq!(asked(Retry::Caller).await, ["test/0"]);
        assert_eq!(asked(Retry::Briefly).await, ["test/0"; 4]);
    }
}
