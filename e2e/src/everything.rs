//! Reads everything that a cluster holds, with kubectl, or page by page if that is too much: the independent side of
//! every comparison.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::await_condition;
use crate::cluster::Cluster;
use crate::equality::fingerprint::{self, Fingerprints};
use crate::equality::{Differences, compare};
use crate::stream::{Consumer, View};

/// Types that an agent does not watch by default.
pub const NOT_WATCHED: [&str; 3] = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];

/// Objects of a page: their trees are held at once, and an object may have a megabyte.
const PAGE: usize = 100;

/// Names of all types that can be listed and watched, as `kubectl api-resources` knows them, without `left_out`.
///
/// # Errors
/// When kubectl fails.
pub async fn types(cluster: &Cluster, left_out: &[&str]) -> Result<Vec<String>> {
    let names = cluster.kubectl(["api-resources", "--verbs=list,watch", "-o", "name"]).await?;
    Ok(names.lines().map(str::to_owned).filter(|name| !left_out.contains(&name.as_str())).collect())
}

/// Paths of the collections of all those types, e.g. `/apis/apps/v1/deployments`.
///
/// # Errors
/// When kubectl fails.
pub async fn collections(cluster: &Cluster, left_out: &[&str]) -> Result<Vec<String>> {
    let table = cluster.kubectl(["api-resources", "--verbs=list,watch", "--no-headers"]).await?;
    let path = |line: &str| {
        // NAME, SHORTNAMES (may be empty), APIVERSION, NAMESPACED, KIND
        let plural = line.split_whitespace().next()?;
        let version = line.split_whitespace().rev().nth(2)?;
        let group = version.split_once('/').map(|(group, _)| group);
        let name = group.map_or_else(|| plural.to_owned(), |group| format!("{plural}.{group}"));
        let prefix = if group.is_some() { "apis" } else { "api" };
        (!left_out.contains(&name.as_str())).then(|| format!("/{prefix}/{version}/{plural}"))
    };
    Ok(table.lines().filter_map(path).collect())
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

/// Fingerprints of the same objects, read page by page: there may be more of them than kubectl can hold.
///
/// # Errors
/// When a list cannot be read.
pub async fn fingerprints(cluster: &Cluster, left_out: &[&str]) -> Result<Fingerprints> {
    let client = cluster.client().await?;
    let mut found = Fingerprints::new();
    for path in collections(cluster, left_out).await? {
        let mut token = String::new();
        loop {
            let uri = format!("{path}?limit={PAGE}&continue={token}");
            let mut page: Value = client.request(http::Request::get(&uri).body(Vec::new())?).await.context(uri)?;
            // Items of a list have no kind; the list has it.
            let api_version = page["apiVersion"].take();
            let kind = page["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default().to_owned();
            for mut item in page["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                item["apiVersion"] = api_version.clone();
                item["kind"] = kind.clone().into();
                found.extend([fingerprint::of_cluster(&item)]);
            }
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}

/// What differs between `cluster` and what `consumer` assembled.
///
/// # Errors
/// When kubectl fails.
pub async fn differences(cluster: &Cluster, consumer: &Consumer, left_out: &[&str]) -> Result<Differences> {
    let view = consumer.view().clone();
    view_differences(cluster, &view, left_out).await
}

/// What differs between `cluster` and `view`.
///
/// # Errors
/// When kubectl fails.
pub async fn view_differences(cluster: &Cluster, view: &View, left_out: &[&str]) -> Result<Differences> {
    let objects = objects(cluster, left_out).await?;
    let view: Vec<Value> = view.resources().map(|(_, resource)| resource).collect();
    Ok(compare(&objects, &view))
}

/// Waits until `consumer` holds what `cluster` holds.
///
/// # Errors
/// When it does not within `deadline`; the message lists the differences.
pub async fn await_equal(cluster: &Cluster, consumer: &Consumer, left_out: &[&str], deadline: Duration) -> Result<()> {
    let mut last = String::new();
    let equal = await_condition("the consumer holds what the cluster holds", deadline, async || {
        let differences = differences(cluster, consumer, left_out).await?;
        last = differences.to_string();
        Ok(differences.is_empty().then_some(()))
    });
    equal.await.context(last)
}
