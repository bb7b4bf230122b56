//! Providers of clusters.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

/// Providers of clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Processes on this machine, in a private network namespace. Needs Linux and root.
    Local,
    /// A kind cluster of this name. Needs Docker and kind.
    Kind(String),
    /// A context of the user's kubeconfig.
    Existing(String),
}

/// A provider as named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProviderName {
    /// An existing cluster: needs --context
    Existing,
    /// A kind cluster: needs Docker and kind
    Kind,
    /// Processes on this machine: needs Linux, root and Go
    Local,
}

impl Provider {
    /// Chooses the provider for the lab `lab`: the requested provider, otherwise kind if it works, otherwise this
    /// machine. It never chooses an existing cluster on its own, because a test could delete somebody's objects there.
    ///
    /// # Errors
    /// When an existing cluster is asked for without naming its context, or a context is named for another provider.
    pub fn choose(
        asked: Option<ProviderName>,
        context: Option<&str>,
        kind_works: impl FnOnce() -> bool,
        lab: &str,
    ) -> Result<Self> {
        let kind = || Self::Kind(kind_cluster(lab));
        match (asked, context) {
            (Some(ProviderName::Existing) | None, Some(context)) => Ok(Self::Existing(context.to_owned())),
            (Some(ProviderName::Existing), None) => {
                bail!("--provider existing needs --context NAME (see `kubectl config get-contexts`)")
            }
            (Some(_), Some(context)) => bail!("--context {context} only goes with --provider existing"),
            (Some(ProviderName::Kind), None) => Ok(kind()),
            (Some(ProviderName::Local), None) => Ok(Self::Local),
            (None, None) => Ok(if kind_works() { kind() } else { Self::Local }),
        }
    }

    /// The form in which a lab's directory records its provider.
    pub(crate) fn record(&self) -> String {
        match self {
            Self::Local => "local".to_owned(),
            Self::Kind(cluster) => format!("kind {cluster}"),
            Self::Existing(context) => format!("existing {context}"),
        }
    }

    /// Reads the form of [`record`](Self::record); anything else, or no record, means this machine.
    pub(crate) fn from_record(record: &str) -> Self {
        match record.split_once(' ') {
            Some(("kind", cluster)) => Self::Kind(cluster.to_owned()),
            Some(("existing", context)) => Self::Existing(context.to_owned()),
            _ => Self::Local,
        }
    }
}

/// Whether Docker answers and kind is on PATH.
#[must_use]
pub fn kind_works() -> bool {
    let answers = |program: &str, argument: &str| {
        Command::new(program).arg(argument).output().is_ok_and(|out| out.status.success())
    };
    answers("docker", "info") && answers("kind", "version")
}

/// The kind cluster that belongs to the lab `lab`.
fn kind_cluster(lab: &str) -> String {
    format!("meshsync-lab-{lab}")
}

/// The commands that the kind provider runs. None of them touches the user's own kubeconfig.
pub(crate) mod kind {
    use super::{Command, Path};

    /// Creates the cluster and waits until its node is ready.
    pub(crate) fn create(cluster: &str, kubeconfig: &Path) -> Command {
        let mut command = kind(&["create", "cluster", "--wait=180s", "--name", cluster]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command
    }

    /// Removes the cluster; succeeds when there is none.
    pub(crate) fn delete(cluster: &str, kubeconfig: &Path) -> Command {
        let mut command = kind(&["delete", "cluster", "--name", cluster]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command
    }

    /// Loads an image archive into the cluster's node.
    pub(crate) fn load(cluster: &str, archive: &Path) -> Command {
        let mut command = kind(&["load", "image-archive", "--name", cluster]);
        command.arg(archive);
        command
    }

    fn kind(arguments: &[&str]) -> Command {
        let mut command = Command::new("kind");
        command.args(arguments);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(asked: Option<ProviderName>, context: Option<&str>, kind: bool) -> Result<Provider, String> {
        Provider::choose(asked, context, || kind, "a").map_err(|error| error.to_string())
    }

    #[test]
    fn existing_cluster_is_used_only_if_it_is_named() {
        assert_eq!(choose(None, None, false), Ok(Provider::Local));
        assert_eq!(choose(None, None, true), Ok(Provider::Kind("meshsync-lab-a".to_owned())));
        assert_eq!(choose(None, Some("prod"), true), Ok(Provider::Existing("prod".to_owned())));
        assert!(choose(Some(ProviderName::Existing), None, true).unwrap_err().contains("--context"));
        assert!(choose(Some(ProviderName::Local), Some("prod"), true).unwrap_err().contains("prod"));
        assert_eq!(choose(Some(ProviderName::Local), None, true), Ok(Provider::Local));
    }

    #[test]
    fn record_of_a_provider_round_trips() {
        let all = [Provider::Local, Provider::Kind("k".to_owned()), Provider::Existing("a b".to_owned())];
        for provider in all {
            assert_eq!(Provider::from_record(&provider.record()), provider);
        }
    }

    #[test]
    fn kind_commands_name_the_cluster_and_the_labs_kubeconfig() {
        let line = |command: Command| format!("{command:?}").replace('"', "");
        let kubeconfig = Path::new("/lab/kubeconfig");
        assert_eq!(
            line(kind::create("c", kubeconfig)),
            "kind create cluster --wait=180s --name c --kubeconfig /lab/kubeconfig"
        );
        assert_eq!(line(kind::delete("c", kubeconfig)), "kind delete cluster --name c --kubeconfig /lab/kubeconfig");
        assert_eq!(line(kind::load("c", Path::new("/lab/i.tar"))), "kind load image-archive --name c /lab/i.tar");
    }
}
