//! Clusters that the lab does not run itself: kind's, and those that exist.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kube::config::Kubeconfig;

use super::{Cluster, ClusterBuilder, LEVEL_FILE, Level};
use crate::assets::{self, Tool};
use crate::progress::step;
use crate::provider::{Provider, kind};

/// Creates the kind cluster, or takes the context of the existing one, and waits for its API server.
pub(super) async fn start(builder: &ClusterBuilder) -> Result<Cluster> {
    ensure!(
        builder.audit_policy.is_none() && builder.apiserver_arguments.is_empty(),
        "only a local cluster's API server can be given a policy or arguments"
    );
    let kubeconfig = builder.dir.join("kubeconfig");
    match &builder.provider {
        Provider::Kind(name) => {
            step(&format!("creating the kind cluster {name}"), || run(kind::create(name, &kubeconfig)))?;
        }
        Provider::Existing(context) => fs::write(&kubeconfig, only_context(Kubeconfig::read()?, context)?)
            .with_context(|| format!("cannot write {}", kubeconfig.display()))?,
        Provider::Local => {}
    }
    fs::write(builder.dir.join(LEVEL_FILE), Level::Node.to_string()).context("cannot record the cluster's level")?;
    let cluster = Cluster {
        dir: builder.dir.clone(),
        provider: builder.provider.clone(),
        level: Level::Node,
        kubeconfig,
        components: Vec::new(),
        node: None,
    };
    cluster.await_apiserver().await?;
    Ok(cluster)
}

/// kubectl for a lab's cluster. That of a kind cluster is the node's own: of the cluster's release by construction, and
/// there without Go. It sees the node's files, not this machine's: pass documents on standard input.
pub(super) fn kubectl(provider: &Provider, dir: &Path) -> Result<Command> {
    if let Provider::Kind(name) = provider {
        let mut command = Command::new("docker");
        command.args(["exec", "--interactive", &format!("{name}-control-plane"), "kubectl"]);
        command.arg("--kubeconfig=/etc/kubernetes/admin.conf");
        return Ok(command);
    }
    let mut command = Command::new(assets::ensure(Tool::Kubectl)?);
    // Discovery of one cluster must not be served from the cache of another at the same address.
    command.env("KUBECACHEDIR", dir.join("kubectl-cache")).env("KUBECONFIG", dir.join("kubeconfig"));
    Ok(command)
}

/// Runs one of kind's commands.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", words.trim());
    Ok(())
}

/// The user's kubeconfig with `context` as its current one, whatever theirs is.
fn only_context(mut config: Kubeconfig, context: &str) -> Result<Vec<u8>> {
    let names: Vec<_> = config.contexts.iter().map(|named| named.name.as_str()).collect();
    ensure!(names.contains(&context), "the kubeconfig has no context `{context}`, only: {}", names.join(", "));
    config.current_context = Some(context.to_owned());
    Ok(serde_json::to_vec_pretty(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_cluster_is_the_named_one_not_the_current_one() {
        let yaml = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters: []\nusers: []\ncontexts:\n\
                    - {name: prod, context: {cluster: p, user: p}}\n- {name: trial, context: {cluster: t, user: t}}\n";
        let config = Kubeconfig::from_yaml(yaml).unwrap();
        let written = only_context(config.clone(), "trial").unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["current-context"], "trial");
        let refused = only_context(config, "tria").unwrap_err().to_string();
        assert!(refused.contains("prod, trial"), "{refused}");
    }

    #[test]
    fn kubectl_of_a_kind_cluster_runs_on_its_node() {
        let command = kubectl(&Provider::Kind("c".to_owned()), Path::new("/lab")).unwrap();
        let line = format!("{command:?}").replace('"', "");
        assert_eq!(line, "docker exec --interactive c-control-plane kubectl --kubeconfig=/etc/kubernetes/admin.conf");
    }
}
