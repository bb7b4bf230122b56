//! Which cluster this is: found out, or told by the configuration, before anything is published.

use std::sync::Arc;

use kube::Client;
use meshsync_runtime::readiness::Gate;
use tokio::sync::watch;

use crate::cluster_id::ask_cluster_id;
use crate::outbox::Outbox;
use crate::plan::ActivePlan;
use crate::publish::broker::Broker;
use crate::publish::fence::Role;
use crate::publish::message::Encoding;
use crate::publish::presence::{Counts, PRESENCE_SUBJECT};
use crate::snapshot::Store;

/// Finds out the cluster's id, tells what exists, and only then lets objects out.
pub(crate) struct Identity {
    /// For reading the id, and for counting.
    pub(crate) client: Client,
    /// What is watched.
    pub(crate) active_plan: watch::Receiver<ActivePlan>,
    /// Where to tell the id.
    pub(crate) encoding: watch::Sender<Option<Encoding>>,
    /// The id that was given on the command line, whatever the configuration says.
    pub(crate) cluster_id: Option<String>,
    /// What is held.
    pub(crate) store: Arc<Store>,
    /// What is published again when the id changes.
    pub(crate) queue: Arc<Outbox>,
    /// Whether this is the agent that publishes.
    pub(crate) role: watch::Receiver<Role>,
    /// Where to tell what exists.
    pub(crate) broker: Option<Broker>,
}

impl Identity {
    /// Goes on for ever.
    pub(crate) async fn run(self, gate: Gate) {
        let mut active_plan = self.active_plan.clone();
        let mut told: Option<ActivePlan> = None;
        let mut counts = Counts::default();
        loop {
            let now = active_plan.wait_for(|now| now.config.is_some()).await.map(|now| now.clone());
            let Ok(now) = now else { return };
            let Some(config) = now.config.clone() else { continue };
            let cluster_id = match self.cluster_id.as_ref().or(config.cluster_id.as_ref()) {
                Some(id) => id.clone(),
                None => tokio::select! {
                    id = ask_cluster_id(&self.client, &gate) => id,
                    Ok(_) = active_plan.wait_for(names_cluster) => continue,
                },
            };
            gate.open();
            let present = |now: &ActivePlan| (now.served.clone(), now.watched.clone(), now.failed.clone());
            if told.as_ref().map(present) != Some(present(&now)) {
                self.tell_presence(&mut counts, &cluster_id, &now).await;
            }
            told = Some(now);
            let encoding = Encoding { cluster_id, format: config.publish.format };
            let before = self.encoding.send_replace(Some(encoding.clone()));
            if before.is_some_and(|before| before != encoding) {
                tracing::info!("the format or the cluster's id changed: publishing everything again");
                self.queue.resync(&self.store);
            }
            if active_plan.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tell_presence(&self, counts: &mut Counts, cluster_id: &str, now: &ActivePlan) {
        // Who stands by is not to be heard: what exists in another cluster of the same id is not what exists here.
        let Some(broker) = self.broker.as_ref().filter(|_| self.role.borrow().is_active()) else { return };
        let failed = now.failed.iter().map(|group| format!("{}/{}", group.group, group.version)).collect();
        let presence = counts.observe(&self.client, cluster_id, &now.served, &now.watched, failed).await;
        // Waits for the broker as objects do, which come after it.
        if broker.connection.clone().wait_for(|connection| connection.up).await.is_err() {
            return;
        }
        match presence.message(broker.client.max_payload()) {
            Ok(message) => {
                if let Err(error) = broker.client.publish(PRESENCE_SUBJECT, message.into()).await {
                    tracing::warn!(%error, "cannot publish presence");
                }
            }
            Err(error) => tracing::error!(%error, "cannot tell what exists"),
        }
    }
}

fn names_cluster(now: &ActivePlan) -> bool {
    now.config.as_ref().is_some_and(|config| config.cluster_id.is_some())
}
