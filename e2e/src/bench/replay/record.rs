//! What a real API server says, taken down to be said again.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use http::{Request, header};
use kube::Client;
use serde_json::Value;
use serde_json::value::RawValue;

use super::template::Template;
use crate::bench::dataset::Kind;

/// Accept header for aggregated discovery (KEP-3352).
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// Content type of its answer.
pub(super) const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Objects of a type that are taken down.
const TEMPLATES: usize = 200;

/// A cluster as its API server told it.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Answers by path: discovery, version, the namespace `kube-system`.
    pub fixed: BTreeMap<String, String>,
    /// What copies of each kind are made from.
    pub templates: Vec<(Kind, Vec<Template>)>,
}

/// Asks the API server of a cluster with a loaded data set.
///
/// # Errors
/// What it does not answer.
pub async fn record(client: &Client) -> Result<Recording> {
    let mut fixed = BTreeMap::new();
    for path in ["/api", "/apis", "/version", "/api/v1/namespaces/kube-system"] {
        let accept = if path.starts_with("/api") && !path.contains('v') { AGGREGATED } else { "application/json" };
        let request = Request::get(path).header(header::ACCEPT, accept).body(Vec::new())?;
        fixed.insert(path.to_owned(), client.request_text(request).await.with_context(|| format!("GET {path}"))?);
    }
    let mut templates = Vec::new();
    for kind in Kind::ALL {
        let path = kind.everywhere();
        let request = Request::get(format!("{path}?limit={TEMPLATES}")).body(Vec::new())?;
        let text = client.request_text(request).await.with_context(|| format!("GET {path}"))?;
        let list: List<'_> = serde_json::from_str(&text)?;
        // Objects of the control plane have no labels, or no namespace of the data set.
        let of_data_set = |item: &&RawValue| {
            let object: Value = serde_json::from_str(item.get()).unwrap_or_default();
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            namespace.is_some_and(|namespace| namespace.starts_with("bench-"))
        };
        let own: Result<Vec<Template>> =
            list.items.iter().copied().filter(of_data_set).map(|raw| Template::new(raw.get())).collect();
        let own = own.with_context(|| format!("an object of {path}"))?;
        anyhow::ensure!(!own.is_empty(), "no objects of the data set at {path}");
        templates.push((kind, own));
    }
    Ok(Recording { fixed, templates })
}

#[derive(serde::Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}
