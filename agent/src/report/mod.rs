//! What the agent says of itself in `status.agent` of its MeshSync.
//!
//! Written at once when what is in force, the phase, or the refused and failing types change; counters alone at most every
//! [`COUNTERS_EVERY`], so that a busy cluster does not make the agent a busy writer.

mod compose;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use meshsync_crds::agent_config::ReportTarget;
use meshsync_crds::names::{AGENT_FIELD_MANAGER, GROUP, VERSION};
use meshsync_crds::{AgentBrokerStatus, AgentStandby, AgentStatus, FailingType, MeshSync};
use tokio::sync::watch;

use crate::discover::Health;
use crate::outbox::Outbox;
use crate::plan::ActivePlan;
use crate::publish::broker::Broker;
use crate::publish::delivery::DeliveryBoard;
use crate::publish::fence::Role;
use crate::publish::stats::PublishStats;
use crate::snapshot::Store;
use crate::watch::Board;

pub use compose::{Facts, compose};

/// How often the facts are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two writes that only counters caused.
const COUNTERS_EVERY: Duration = Duration::from_secs(30);
/// What an API server says to an apply with a field that the CustomResourceDefinition does not have.
const UNDECLARED_FIELD: &str = "field not declared in schema";
/// Wait after a write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where the facts come from.
#[derive(Clone)]
pub struct Reporter {
    /// For writing; without retries of its own.
    pub client: Client,
    /// What is in force.
    pub active_plan: watch::Receiver<ActivePlan>,
    /// What the loops do.
    pub board: Arc<Board>,
    /// What is held.
    pub store: Arc<Store>,
    /// What waits.
    pub queue: Arc<Outbox>,
    /// The broker and the connection to it.
    pub broker: Broker,
    /// What was published.
    pub stats: Arc<PublishStats>,
    /// How it is delivered.
    pub delivery: Arc<DeliveryBoard>,
    /// How discovery fares.
    pub discovery: Arc<Health>,
    /// Whether this is the agent that publishes.
    pub(crate) role: watch::Receiver<Role>,
    /// Name of the pod.
    pub pod: String,
}

impl Reporter {
    /// Reports for ever.
    pub async fn run(self) {
        let mut written: Option<(AgentStatus, Instant)> = None;
        let mut not_before = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let target = self.active_plan.borrow().config.as_ref().and_then(|config| config.report_to.clone());
            let Some(target) = target else { continue };
            // The one that publishes reports.
            if self.role.borrow().standby().is_some_and(|standby| !standby.is_trouble()) {
                written = None;
                continue;
            }
            let status = compose(self.facts());
            if Instant::now() < not_before || !is_due(&status, written.as_ref()) {
                continue;
            }
            match self.write(&target, status.clone()).await {
                Ok(()) => written = Some((status, Instant::now())),
                Err(error) => {
                    tracing::warn!(%error, "cannot write status.agent of MeshSync {}/{}", target.namespace, target.name);
                    not_before = Instant::now() + RETRY_AFTER;
                }
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            active_plan: self.active_plan.borrow().clone(),
            types: self.board.snapshot(),
            objects: self.store.stats().objects,
            outbox: self.queue.len(),
            behind_since: self.queue.oldest_since().and_then(|since| ago(since.elapsed())),
            broker: AgentBrokerStatus {
                url: self.broker.url.clone(),
                connected: self.broker.connection.borrow().up,
                error: self.broker.trouble.borrow().clone(),
            },
            delivery: self.delivery.state(),
            too_large: self.stats.too_large.load(std::sync::atomic::Ordering::Relaxed),
            discovery: self.discovery.report(),
            unpublished: self.delivery.unpublished(),
            standby: self.role.borrow().standby().map(|standby| AgentStandby {
                reason: standby.reason().to_owned(),
                message: compose::cut(&standby.message()),
                since: Some(Time(standby.since)),
            }),
            pod: self.pod.clone(),
        }
    }

    async fn write(&self, target: &ReportTarget, mut status: AgentStatus) -> Result<(), kube::Error> {
        status.reported_at = Some(Time(Timestamp::now()));
        let patch = serde_json::json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "MeshSync",
            // With the uid, a report for a MeshSync that was deleted never lands in its successor.
            "metadata": {"name": target.name, "namespace": target.namespace, "uid": target.uid},
            "status": {"agent": status},
        });
        let api: Api<MeshSync> = Api::namespaced(self.client.clone(), &target.namespace);
        let params = PatchParams::apply(AGENT_FIELD_MANAGER).force();
        let applied = match api.patch_status(&target.name, &params, &Patch::Apply(&patch)).await {
            Err(kube::Error::Api(status)) if status.message.contains(UNDECLARED_FIELD) => {
                // The definition is of an older release: a merge leaves out what it does not know, where apply refuses all.
                let params = PatchParams { field_manager: params.field_manager, ..PatchParams::default() };
                api.patch_status(&target.name, &params, &Patch::Merge(&patch)).await?
            }
            applied => applied?,
        };
        tracing::debug!(version = applied.resource_version(), "status.agent written");
        Ok(())
    }
}

fn ago(elapsed: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_sub(jiff::SignedDuration::try_from(elapsed).ok()?).ok()
}

/// Whether `status` is to be written now.
fn is_due(status: &AgentStatus, written: Option<&(AgentStatus, Instant)>) -> bool {
    let Some((before, at)) = written else { return true };
    if without_counters(status) != without_counters(before) {
        return true;
    }
    status != before && at.elapsed() >= COUNTERS_EVERY
}

fn without_counters(status: &AgentStatus) -> AgentStatus {
    // Several servers of one broker may fail in ways that differ, in turns: only whether there is an error is news.
    let broker =
        status.broker.clone().map(|broker| AgentBrokerStatus { error: broker.error.map(|_| String::new()), ..broker });
    // So may a type: which fail, and why in a word, is news; the words of the last failure are not.
    let failing = status.failing.iter().cloned().map(|failing| FailingType { message: String::new(), ..failing });
    let status = AgentStatus { broker, failing: failing.collect(), ..status.clone() };
    AgentStatus { objects: 0, outbox: 0, behind_since: None, pending_types: 0, too_large: 0, ..status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_broker_is_reported_at_once_and_another_error_of_it_like_a_counter() {
        let status = |error: Option<&str>| AgentStatus {
            broker: Some(AgentBrokerStatus {
                connected: error.is_none(),
                error: error.map(str::to_owned),
                ..Default::default()
            }),
            ..AgentStatus::default()
        };
        let due = |before, after, ago| {
            let at = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
            is_due(&status(after), Some(&(status(before), at)))
        };
        assert!(due(None, Some("DNS error"), 0) && due(Some("DNS error"), None, 0));
        assert!(!due(Some("DNS error"), Some("timed out"), 0) && due(Some("DNS error"), Some("timed out"), 31));
    }
}
