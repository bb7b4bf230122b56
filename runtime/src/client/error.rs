//! Errors of creating a client.

use std::path::PathBuf;

use super::proxy::ProxyError;

/// No client could be created.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The named kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig {}: {source}; check --kubeconfig, --context and the file's permissions", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig was named or found.
    #[error(
        "found no cluster to connect to: {0}; name a kubeconfig with --kubeconfig or $KUBECONFIG, or run inside a pod"
    )]
    Infer(String),
    /// The kubeconfig has no current context, or not the requested context.
    #[error("the kubeconfig {} {problem}; name a context with --context: {existing}", path.display())]
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
    /// The exec plugin, which provides credentials, cannot be started.
    #[error("cannot start {command}, which provides the kubeconfig's credentials ({reason}); install it{hint}")]
    ExecPlugin {
        /// The program.
        command: String,
        /// The operating system's error.
        reason: String,
        /// The kubeconfig's installation hint, after a colon.
        hint: String,
    },
    /// The client certificate is of X.509 version 1.
    #[error(
        "the client certificate of the kubeconfig is X.509 version 1, which TLS here does not take; \
         have it issued again as version 3, that is with any extension, such as extendedKeyUsage=clientAuth"
    )]
    CertificateVersion,
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The configuration was read, but no client can be created from it.
    #[error("cannot create a client for {url}: {source}")]
    Client {
        /// The API server.
        url: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Many libraries repeat the cause in their own messages.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
