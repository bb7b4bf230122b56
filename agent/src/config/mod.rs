//! Where the agent's configuration comes from: its ConfigMap, a file, or the command line.
//!
//! Whatever the source, a document that cannot be read changes nothing: the last good one stays in force and what is wrong
//! with the new one is reported.

mod candidate;
mod config_map;
mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::narrowing::Narrowing;
use tokio::sync::watch;

pub use candidate::Candidate;
use candidate::Candidates;

/// Where to read the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Key `config.yaml` of a ConfigMap, watched.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A file, read again when it changes.
    File(PathBuf),
    /// Fixed.
    Fixed(Box<AgentConfig>),
}

/// Follows `source` into `candidates`, for ever; each configuration is narrowed first.
pub async fn follow(source: ConfigSource, narrowing: Narrowing, client: Client, candidates: watch::Sender<Candidate>) {
    if !narrowing.is_nothing() {
        tracing::info!("the command line narrows every configuration: {narrowing}");
    }
    let candidates = Candidates { sender: candidates, narrowing: &narrowing };
    match source {
        ConfigSource::ConfigMap { namespace, name } => {
            config_map::follow(&client, &namespace, &name, &candidates).await
        }
        ConfigSource::File(path) => file::follow(&path, &candidates).await,
        ConfigSource::Fixed(config) => {
            candidates.offer(Candidate::Read(Arc::new(*config)));
            std::future::pending().await
        }
    }
}

/// The configuration as it is now.
///
/// # Errors
/// Why it cannot be read `within` that time.
pub async fn read_once(
    source: ConfigSource,
    narrowing: &Narrowing,
    client: Client,
    within: Duration,
) -> Result<Arc<AgentConfig>, String> {
    let (candidates, mut read) = watch::channel(Candidate::Awaited);
    let place = format!("{source:?}");
    let came = tokio::select! {
        () = follow(source, narrowing.clone(), client, candidates) => None,
        came = tokio::time::timeout(within, read.wait_for(|candidate| *candidate != Candidate::Awaited)) => {
            came.ok().and_then(Result::ok).map(|candidate| candidate.clone())
        }
    };
    match came {
        Some(Candidate::Read(config)) => Ok(config),
        Some(Candidate::Unreadable(message)) => Err(message),
        Some(Candidate::Awaited) | None => {
            Err(format!("the configuration cannot be read within {} s: {place}", within.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use meshsync_crds::agent_config::SecretPolicy;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "nothing is asked")]
    #[tokio::test]
    async fn each_state_of_a_file_is_narrowed() {
        let path = std::env::temp_dir().join(format!("meshsync-narrowed-{}", std::process::id()));
        let text = |namespace: &str| {
            let lists = "blacklist: [], whitelist: [], metadataOnly: []";
            format!(
                "publish: {{secrets: publish}}\n\
                 informer_config: {{{lists}, namespaces: {{exclude: [{namespace}]}}}}\n"
            )
        };
        let namespaces = vec!["a".to_owned(), "b".to_owned()];
        let narrowing = Narrowing { namespaces, redact: true, ..Narrowing::default() };
        let (service, _unasked) =
            tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        let client = Client::new(service, "default");
        let (sender, mut candidates) = watch::channel(Candidate::Awaited);
        std::fs::write(&path, text("a")).unwrap();
        let task = tokio::spawn(follow(ConfigSource::File(path.clone()), narrowing, client, sender));
        for (excluded, left) in [("a", "b"), ("b", "a")] {
            std::fs::write(&path, text(excluded)).unwrap();
            let is_left = |candidate: &Candidate| match candidate {
                Candidate::Read(config) => config.informer_config.namespaces.include == [left],
                _ => false,
            };
            let found = tokio::time::timeout(Duration::from_secs(20), candidates.wait_for(is_left)).await;
            let Candidate::Read(config) = found.unwrap().unwrap().clone() else { unreachable!() };
            assert_eq!(config.publish.secrets, SecretPolicy::Redact);
        }
        task.abort();
        std::fs::remove_file(path).unwrap();
    }
}
