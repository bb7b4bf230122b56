//! Finds and reads a kubeconfig, by the same rules as kubectl.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use kube::client::AuthError;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};

use super::args::ClientArgs;
use super::error::{ConnectError, chain};

/// How to reach a cluster.
pub(super) struct Description {
    /// Address and credentials.
    pub(super) config: Config,
    /// The `proxy-url` of its kubeconfig.
    pub(super) proxy_url: Option<String>,
}

/// Reads the kubeconfig that `args` name, otherwise `$KUBECONFIG`, otherwise `~/.kube/config`, otherwise the pod's
/// service account.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(super) async fn describe(args: &ClientArgs) -> Result<Description, ConnectError> {
    let files = Files::of(args);
    let Some(file) = files.read()? else {
        if let Some(context) = &args.context {
            return Err(ConnectError::Infer(format!(
                "there is no kubeconfig for the context {context}; {files} is not there"
            )));
        }
        let config = Config::incluster().map_err(|error| {
            ConnectError::Infer(format!("{files} is not there, and this is no pod of a cluster ({})", chain(&error)))
        })?;
        return Ok(Description { config, proxy_url: None });
    };
    let context = context(&file, args.context.as_deref(), &files)?;
    let proxy_url = file
        .contexts
        .iter()
        .find(|candidate| candidate.name == context)
        .and_then(|found| found.context.as_ref())
        .and_then(|found| file.clusters.iter().find(|cluster| cluster.name == found.cluster))
        .and_then(|found| found.cluster.as_ref()?.proxy_url.clone());
    let options = KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(without_proxies(file), &options).await;
    let mut config = config.map_err(|source| files.unusable(source))?;
    tidy_token(&mut config)?;
    Ok(Description { config, proxy_url })
}

/// Where a kubeconfig may be.
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// Whether a missing file is an error.
    required: bool,
}

impl std::fmt::Display for Files {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        formatter.write_str(&paths.join(":"))
    }
}

impl Files {
    fn of(args: &ClientArgs) -> Self {
        if let Some(path) = &args.kubeconfig {
            return Self { paths: vec![path.clone()], required: true };
        }
        let list = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
        Self::found(list.as_deref(), std::env::home_dir().as_deref())
    }

    pub(super) fn found(list: Option<&std::ffi::OsStr>, home: Option<&Path>) -> Self {
        let paths = match list {
            Some(list) => std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
            None => home.map(|home| home.join(".kube").join("config")).into_iter().collect(),
        };
        Self { paths, required: false }
    }

    /// Merges all files that exist; the first file that defines a name wins. `None` if they define nothing.
    pub(super) fn read(&self) -> Result<Option<Kubeconfig>, ConnectError> {
        let mut merged: Option<Kubeconfig> = None;
        for path in self.paths.iter().filter(|path| self.required || path.exists()) {
            let unusable = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            merged = Some(match merged {
                Some(earlier) => earlier.merge(file).map_err(unusable)?,
                None => file,
            });
        }
        Ok(merged.filter(|file| self.required || !file.contexts.is_empty()))
    }

    fn unusable(&self, source: kube::config::KubeconfigError) -> ConnectError {
        ConnectError::Kubeconfig { path: self.to_string().into(), source: Box::new(source) }
    }
}

/// Returns the name of the context to use, which exists.
fn context(file: &Kubeconfig, wanted: Option<&str>, files: &Files) -> Result<String, ConnectError> {
    let current = file.current_context.as_deref().filter(|name| !name.is_empty());
    let names = || file.contexts.iter().map(|context| context.name.as_str());
    let name = wanted.or(current);
    if let Some(name) = name.filter(|name| names().any(|existing| existing == *name)) {
        return Ok(name.to_owned());
    }
    let existing: Vec<_> = names().collect();
    Err(ConnectError::Context {
        path: files.to_string().into(),
        problem: match name {
            Some(name) => format!("has no context {name}"),
            None => "has no current context".to_owned(),
        },
        existing: if existing.is_empty() { "none".to_owned() } else { existing.join(", ") },
    })
}

/// The proxy comes from `proxy-url` itself, because the library would interpret it differently.
fn without_proxies(mut file: Kubeconfig) -> Kubeconfig {
    file.clusters
        .iter_mut()
        .filter_map(|cluster| cluster.cluster.as_mut())
        .for_each(|cluster| cluster.proxy_url = None);
    file
}

/// Trims the token: a pasted token often ends in a newline, which a header cannot contain.
fn tidy_token(config: &mut Config) -> Result<(), ConnectError> {
    let Some(token) = &config.auth_info.token else { return Ok(()) };
    let token = token.expose_secret().trim().to_owned();
    if HeaderValue::from_str(&token).is_err() {
        return Err(ConnectError::Token);
    }
    config.auth_info.token = Some(SecretString::from(token));
    Ok(())
}

/// Turns an error about credentials into one that says what to do.
pub(super) fn explain(config: &Config, url: &str, error: kube::Error) -> ConnectError {
    if let (kube::Error::Auth(AuthError::AuthExecStart(source)), Some(exec)) = (&error, &config.auth_info.exec) {
        let hint = exec.install_hint.as_deref().map(str::trim).filter(|hint| !hint.is_empty());
        return ConnectError::ExecPlugin {
            command: exec.command.clone().unwrap_or_default(),
            reason: source.to_string(),
            hint: hint.map(|hint| format!(": {hint}")).unwrap_or_default(),
        };
    }
    if chain(&error).contains("UnsupportedCertVersion") {
        return ConnectError::CertificateVersion;
    }
    ConnectError::Client { url: url.to_owned(), source: Box::new(error) }
}
