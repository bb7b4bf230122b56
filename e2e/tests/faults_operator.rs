//! An operator that is killed during its work completes it after a restart, and creates nothing twice.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::system::{NAME, NAMESPACE, System, deploy};
use meshsync_e2e::{await_condition, lab};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
/// The namespaced children of a MeshSync.
const CHILDREN: [&str; 6] = [
    "api/v1/namespaces/meshery/serviceaccounts/meshsync-agent",
    "api/v1/namespaces/meshery/secrets/meshsync-broker",
    "api/v1/namespaces/meshery/services/meshsync-broker",
    "api/v1/namespaces/meshery/configmaps/meshsync-agent",
    "apis/apps/v1/namespaces/meshery/deployments/meshsync-agent",
    "apis/apps/v1/namespaces/meshery/statefulsets/meshsync-broker",
];

async fn child(client: &kube::Client, path: &str) -> Result<Value> {
    Ok(client.request(Request::get(format!("/{path}")).body(Vec::new())?).await?)
}

/// Polls without a pause, to catch a state that lasts a few milliseconds.
async fn appears(client: &kube::Client, path: &str) -> Result<Value> {
    let end = Instant::now() + DEADLINE;
    loop {
        match child(client, path).await {
            Ok(child) => return Ok(child),
            Err(error) if Instant::now() > end => return Err(error.context(path.to_owned())),
            Err(_) => {}
        }
    }
}

/// Names of the cluster-wide children.
async fn cluster_wide(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let selector = format!("app.kubernetes.io/instance={NAME}");
    let names = cluster.kubectl(["get", "clusterroles,clusterrolebindings", "-l", &selector, "-o", "name"]).await?;
    Ok(names.lines().map(str::to_owned).collect())
}

#[test]
fn operator_killed_after_any_child_creates_the_rest_once() -> Result<()> {
    lab::run("operator-killed", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let client = cluster.client().await?;
        let operator = lab.operator_process(&cluster).await?;
        let system = System::of(&cluster);
        system.install_definition().await?;
        cluster.apply(std::fs::read(deploy("samples").join("meshsync.yaml"))?).await?;
        for path in CHILDREN {
            operator.start()?;
            let made = appears(&client, path).await?;
            operator.kill().await?;
            // The operator must create every child again except this one, from any state that the kill left.
            for other in CHILDREN.into_iter().filter(|other| *other != path) {
                let (collection, name) = other.rsplit_once('/').context("a path")?;
                let kind = collection.rsplit('/').next().context("a path")?;
                cluster.kubectl(["delete", kind, name, "-n", NAMESPACE, "--ignore-not-found"]).await?;
            }
            let still = child(&client, path).await?;
            ensure!(still["metadata"]["uid"] == made["metadata"]["uid"], "{path} was made twice");
        }
        operator.start()?;
        for path in CHILDREN {
            appears(&client, path).await?;
        }
        await_condition("the operator has done all that it can without an agent", DEADLINE, async || {
            let meshsync = system.meshsync().await?;
            Ok((meshsync["status"]["observedGeneration"] == meshsync["metadata"]["generation"]).then_some(()))
        })
        .await?;
        let names = cluster_wide(&cluster).await?;
        ensure!(names.len() == 2, "one role and one binding were to be made: {names:?}");
        // All components keep using the broker's first token.
        let token = child(&client, CHILDREN[1]).await?;
        operator.kill().await?;
        operator.start()?;
        system.patch(&serde_json::json!({"spec": {"agent": {"podLabels": {"again": "1"}}}})).await?;
        await_condition("an edit is followed", DEADLINE, async || {
            let deployment = child(&client, CHILDREN[4]).await?;
            Ok((deployment["spec"]["template"]["metadata"]["labels"]["again"] == "1").then_some(()))
        })
        .await?;
        ensure!(child(&client, CHILDREN[1]).await?["data"] == token["data"], "the token changed");
        Ok(())
    })
}
