//! Clusters that the lab does not run itself: kind's, and those that exist.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kube::config::Kubeconfig;

use super::builder::ClusterBuilder;
use super::handle::{Cluster, LEVEL_FILE};
use super::level::Level;
use crate::process::run;
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

/// The user's kubeconfig, with `context` as the current context.
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
    fn existing_cluster_is_the_named_and_not_the_current_context() {
        let yaml = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters: []\nusers: []\ncontexts:\n\
                    - {name: prod, context: {cluster: p, user: p}}\n- {name: trial, context: {cluster: t, user: t}}\n";
        let config = Kubeconfig::from_yaml(yaml).unwrap();
        let written = only_context(config.clone(), "trial").unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["current-context"], "trial");
        let refused = only_context(config, "tria").unwrap_err().to_string();
        assert!(refused.contains("prod, trial"), "{refused}");
    }
}
