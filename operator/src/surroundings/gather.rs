//! Keeps the surroundings current.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};
use meshsync_crds::names::{CLUSTER_ID_NAMESPACE, CRD_NAME};
use meshsync_runtime::discovery::Poller;
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, watch};

use super::{Surroundings, ceiling, cluster_default};
use crate::error::Error;

/// How often discovery is asked, which costs an empty answer while nothing changes.
const DISCOVERY_EVERY: Duration = Duration::from_secs(2);
/// How often everything is looked at, though nothing told of a change.
const ALL_EVERY: Duration = Duration::from_secs(300);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub struct Gatherer {
    client: Client,
    /// The operator's own.
    namespace: String,
    /// Open once the CustomResourceDefinition is there.
    gate: Gate,
    poller: Poller,
    now: Surroundings,
    /// When definition, default and rights were looked at last; none when they are to be looked at.
    complete: Option<Instant>,
}

impl Gatherer {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(client: Client, namespace: String, gate: Gate) -> Self {
        let (poller, now) = (Poller::default(), Surroundings::default());
        Self { client, namespace, gate, poller, now, complete: None }
    }

    /// Gathers for ever: `out` has the newest, `changed` is told. `look_again` says that the definition or the ceiling
    /// changed.
    pub async fn run(
        mut self,
        out: watch::Sender<Option<Surroundings>>,
        look_again: Arc<Notify>,
        changed: Arc<Notify>,
    ) {
        loop {
            let delay = match self.look().await {
                Ok(()) => {
                    self.gate.open();
                    if out.borrow().as_ref() != Some(&self.now) {
                        out.send_replace(Some(self.now.clone()));
                        changed.notify_one();
                    }
                    DISCOVERY_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "cannot look around");
                    self.complete = None;
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = look_again.notified() => self.complete = None,
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let mut definition = None;
        if self.complete.is_none_or(|at| at.elapsed() >= ALL_EVERY) {
            definition = Some(self.look_at_definition().await?);
            // What is served comes anew, and with it the question what of it may be granted.
            self.poller = Poller::default();
            self.complete = None;
        }
        let found = self.poller.poll(&self.client).await.map_err(|error| Error::Waiting(error.to_string()))?;
        if let Some(found) = found {
            let found = found.keeping(&self.now.discovered);
            // Both or neither: should the question fail, everything is asked for again.
            self.now.ungrantable = Arc::new(ceiling::ungrantable(&self.client, &found.types).await?);
            self.now.discovered = Arc::new(found);
            // A default that leaves nothing of what was served may leave something of what is served now.
            let definition = match definition {
                Some(definition) => definition,
                None => self.look_at_definition().await?,
            };
            self.look_at_default(&definition).await?;
        }
        self.complete.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn look_at_definition(&mut self) -> Result<CustomResourceDefinition, Error> {
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

    async fn look_at_default(&mut self, definition: &CustomResourceDefinition) -> Result<(), Error> {
        let served = &self.now.discovered.types;
        let default = cluster_default::settle(&self.client, &self.namespace, definition, served).await?;
        if let Some(problem) = &default.problem
            && self.now.default.problem.as_ref() != Some(problem)
        {
            tracing::error!("{problem}");
        }
        self.now.default = default;
        Ok(())
    }
}
