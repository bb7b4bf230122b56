//! Everything that a cluster holds, asked with kubectl: the independent side of every comparison.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::equality::{Differences, compare};
use crate::stream::Consumer;

/// Types that an agent leaves out unless told otherwise.
pub const NOT_WATCHED: [&str; 3] = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];

/// Names of all types that can be listed and watched, as `kubectl api-resources` knows them, without `left_out`.
///
/// # Errors
/// When kubectl fails.
pub async fn types(cluster: &Cluster, left_out: &[&str]) -> Result<Vec<String>> {
    let names = cluster.kubectl(["api-resources", "--verbs=list,watch", "-o", "name"]).await?;
    Ok(names.lines().map(str::to_owned).filter(|name| !left_out.contains(&name.as_str())).collect())
}

/// All objects of all types but `left_out`.
///
/// # Errors
/// When kubectl fails or does not answer with a list.
pub async fn objects(cluster: &Cluster, left_out: &[&str]) -> Result<Vec<Value>> {
    let types = types(cluster, left_out).await?.join(",");
    let text = cluster.kubectl(["get", &types, "--all-namespaces", "-o", "json"]).await?;
    let mut list: Value = serde_json::from_str(&text).context("kubectl get -o json")?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => anyhow::bail!("kubectl get -o json gave no list"),
    }
}

/// What differs between `cluster` and what `consumer` assembled.
///
/// # Errors
/// When kubectl fails.
pub async fn differences(cluster: &Cluster, consumer: &Consumer, left_out: &[&str]) -> Result<Differences> {
    let objects = objects(cluster, left_out).await?;
    let view: Vec<Value> = consumer.view().resources().map(|(_, resource)| resource).collect();
    Ok(compare(&objects, &view))
}
