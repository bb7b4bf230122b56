//! Keeps the cluster information current.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};
use meshsync_crds::names::{CLUSTER_ID_NAMESPACE, CRD_NAME};
use meshsync_runtime::discovery::Poller;
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, watch};

use super::{ClusterInfo, ceiling, default_config};
use crate::error::Error;

/// How often to poll discovery. While nothing changes, the answer has no body.
const DISCOVERY_EVERY: Duration = Duration::from_secs(2);
/// How often to read everything even without a notification.
const ALL_EVERY: Duration = Duration::from_secs(300);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Reads the cluster information and publishes each change.
pub struct ClusterInfoWatcher {
    client: Client,
    /// The operator's namespace.
    namespace: String,
    /// Opens once the CustomResourceDefinition exists.
    gate: Gate,
    poller: Poller,
    now: ClusterInfo,
    /// When definition, default and rights were last read; `None` if they must be read.
    complete: Option<Instant>,
}

impl ClusterInfoWatcher {
    /// A watcher that has read nothing yet.
    #[must_use]
    pub fn new(client: Client, namespace: String, gate: Gate) -> Self {
        let (poller, now) = (Poller::default(), ClusterInfo::default());
        Self { client, namespace, gate, poller, now, complete: None }
    }

    /// Runs for ever: sends the newest information to `out` and notifies `changed`. `refresh` reports that the definition or
    /// the ceiling changed.
    pub async fn run(mut self, out: watch::Sender<Option<ClusterInfo>>, refresh: Arc<Notify>, changed: Arc<Notify>) {
        loop {
            let delay = match self.refresh().await {
                Ok(()) => {
                    self.gate.open();
                    if out.borrow().as_ref() != Some(&self.now) {
                        out.send_replace(Some(self.now.clone()));
                        changed.notify_one();
                    }
                    DISCOVERY_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "cannot refresh cluster information");
                    self.complete = None;
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = refresh.notified() => self.complete = None,
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let mut definition = None;
        if self.complete.is_none_or(|at| at.elapsed() >= ALL_EVERY) {
            definition = Some(self.read_definition().await?);
            // A new poller reads all of discovery, and rights are checked again for every served type.
            self.poller = Poller::default();
            self.complete = None;
        }
        let found = self.poller.poll(&self.client).await?;
        if let Some(found) = found {
            let found = found.keeping(&self.now.discovered);
            // Both or neither: if the check fails, everything is read again.
            self.now.ungrantable = Arc::new(ceiling::ungrantable(&self.client, &found.types).await?);
            self.now.discovered = Arc::new(found);
            // A default that selected none of the types served before may select one that is served now.
            let definition = match definition {
                Some(definition) => definition,
                None => self.read_definition().await?,
            };
            self.read_default(&definition).await?;
        }
        self.complete.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn read_definition(&mut self) -> Result<CustomResourceDefinition, Error> {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let action = format!("read CustomResourceDefinition {CRD_NAME}");
        let Some(crd) = crds.get_opt(CRD_NAME).await.map_err(Error::api(action))? else {
            let problem = format!(
                "the CustomResourceDefinition {CRD_NAME} is not installed; install it with \
                 `meshsync-operator crd generate | kubectl apply -f -`"
            );
            self.gate.close(problem.clone());
            return Err(Error::Waiting(problem));
        };
        if self.now.cluster_id.is_empty() {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            let action = format!("read the namespace {CLUSTER_ID_NAMESPACE}, whose uid is the cluster's id");
            let namespace = namespaces.get(CLUSTER_ID_NAMESPACE).await.map_err(Error::api(action))?;
            self.now.cluster_id = namespace.uid().unwrap_or_default();
        }
        self.now.crd_uid = crd.uid().unwrap_or_default();
        Ok(crd)
    }

    async fn read_default(&mut self, definition: &CustomResourceDefinition) -> Result<(), Error> {
        let served = &self.now.discovered.types;
        let default = default_config::settle(&self.client, &self.namespace, definition, served).await?;
        if let Some(problem) = &default.problem
            && self.now.default.problem.as_ref() != Some(problem)
        {
            tracing::error!("{problem}");
        }
        self.now.default = default;
        Ok(())
    }
}
