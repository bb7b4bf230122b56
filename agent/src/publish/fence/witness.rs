//! How far the API server's storage is: the one thing that two clusters never share for long, however faithfully one was cloned.
//!
//! Ids, names, certificates and objects come along with a clone; the count of writes to etcd goes on in each by itself. A list of
//! any type tells it, so an agent needs no right for this that it does not have.

use std::time::Duration;

use http::Request;
use kube::Client;
use meshsync_crds::discovery::ServedType;
use serde::Deserialize;
use tokio::sync::watch;

use super::instance::shown;
use crate::plan::ActivePlan;

/// Metadata of the list is all that is read.
const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io, application/json";
/// How long a list of one object may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Types that are tried before it is given up.
const TRIED: usize = 3;

/// Asks the API server.
#[derive(Clone)]
pub struct Witness {
    /// The client.
    pub client: Client,
    /// What is watched, hence may be listed.
    pub active_plan: watch::Receiver<ActivePlan>,
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl Witness {
    /// The first type that can tell it, and what it tells.
    pub(in crate::publish) async fn any_revision(&self) -> Result<(String, u64), String> {
        let mut problem = "nothing is watched yet".to_owned();
        for served in self.types().into_iter().take(TRIED) {
            match self.list(&served).await {
                Ok(revision) => return Ok((served.name(), revision)),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// What a list of the type with this name tells now.
    pub(in crate::publish) async fn revision(&self, name: &str) -> Result<u64, String> {
        match self.types().into_iter().find(|served| served.name() == name) {
            Some(served) => self.list(&served).await,
            None => Err("it does not watch the type that is asked for".to_owned()),
        }
    }

    /// What is watched, beginning with what surely stands in the cluster's own etcd. Events may have one of their own.
    fn types(&self) -> Vec<ServedType> {
        let plan = self.active_plan.borrow().plan.clone();
        let mut types: Vec<ServedType> = plan.iter().map(|spec| spec.selected.served.clone()).collect();
        types.sort_by_key(|served| (!served.group.is_empty(), served.plural == "events", served.name()));
        types
    }

    async fn list(&self, served: &ServedType) -> Result<u64, String> {
        let all = self.list_at(&served.collection_path()).await;
        let namespaces =
            self.active_plan.borrow().config.as_ref().map(|config| config.informer_config.namespaces.include.clone());
        match (all, namespaces.unwrap_or_default().first().filter(|_| served.namespaced)) {
            // It may be allowed there only.
            (Err(_), Some(namespace)) => self.list_at(&served.collection_path_in(namespace)).await,
            (all, _) => all,
        }
    }

    /// Without a resourceVersion the answer is never older than the question.
    async fn list_at(&self, path: &str) -> Result<u64, String> {
        let request = Request::get(format!("{path}?limit=1")).header(http::header::ACCEPT, ACCEPT).body(Vec::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(WITHIN, self.client.request_text(request)).await;
        let text = answer.map_err(|_| "the API server does not answer".to_owned())?;
        let text = text.map_err(|error| shown(&error.to_string()))?;
        let List { metadata } = serde_json::from_str(&text).map_err(|error| shown(&error.to_string()))?;
        metadata.resource_version.parse().map_err(|_| "its versions are no numbers".to_owned())
    }
}
