//! Decides what is watched: what the configuration selects of what is served.
//!
//! The planner resolves the configuration against discovery whenever one of the two changes, and makes the watch manager
//! follow. Nothing else starts or stops watch loops.

use std::sync::Arc;

use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::discovery::ServedType;
use meshsync_crds::narrowing::Narrowing;
use meshsync_crds::selection::Selection;
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, watch};

use crate::config::Candidate;
use crate::plan::Served;
use crate::plan::{ActivePlan, WatchSpec};
use crate::watch::Fleet;

/// What the planner needs from outside.
pub struct PlannerDeps {
    /// The loops.
    pub fleet: Fleet,
    /// Configurations as they come.
    pub candidates: watch::Receiver<Candidate>,
    /// What the command line takes away from each.
    pub narrowing: Narrowing,
    /// What is served, as it changes.
    pub served: watch::Receiver<Option<Served>>,
    /// Where to tell what is in force.
    pub active_plan: watch::Sender<ActivePlan>,
    /// Counts configurations: refused types are tried again with each.
    pub retry: watch::Sender<u64>,
    /// Told when the fleet can follow further than it could.
    pub replan: Arc<Notify>,
    /// Closed until a configuration is in force.
    pub config_gate: Gate,
}

/// See the module.
pub struct Planner {
    deps: PlannerDeps,
}

impl Planner {
    /// A planner that has not planned yet.
    #[must_use]
    pub fn new(deps: PlannerDeps) -> Self {
        Self { deps }
    }

    /// Plans until the process ends; the fleet is stopped by dropping the future and then calling [`Planner::stop`].
    pub async fn run(&mut self) {
        loop {
            tokio::select! {
                Ok(()) = self.deps.served.changed() => {}
                () = self.deps.replan.notified() => {}
                Ok(()) = self.deps.candidates.changed() => self.deps.retry.send_modify(|count| *count += 1),
                // Whoever told is gone: the process ends.
                else => return std::future::pending().await,
            }
            self.plan().await;
        }
    }

    /// Ends all loops; the snapshot stays.
    pub async fn stop(&mut self) {
        self.deps.fleet.stop().await;
    }

    /// Holds the newest configuration against discovery and makes the fleet follow.
    async fn plan(&mut self) {
        let Some(discovery) = self.deps.served.borrow_and_update().clone() else { return };
        let discovered = Arc::clone(&discovery.discovered);
        let candidate = self.deps.candidates.borrow_and_update().clone();
        let before = self.deps.active_plan.borrow().clone();
        let mut now = ActivePlan {
            served: Arc::new(discovered.types.clone()),
            failed: discovered.failed.clone(),
            discovery: discovery.clone(),
            rejected: None,
            ..before.clone()
        };
        let newest = match candidate {
            Candidate::Awaited => return,
            Candidate::Read(config) => self.judge(&config, &discovered.types).map(|selection| (config, selection)),
            Candidate::Unreadable(message) => Err((String::new(), message)),
        };
        let (config, selection) = match newest {
            Ok(newest) => newest,
            Err(rejected) => {
                if before.rejected.as_ref() != Some(&rejected) {
                    tracing::error!(revision = rejected.0, "configuration refused: {}", rejected.1);
                }
                now.rejected = Some(rejected);
                // Types may have come or gone: the last good configuration still has to be held against them.
                match now.config.clone().map(|config| (self.select(&config, &discovered.types), config)) {
                    Some((selection, config)) => (config, selection),
                    None => {
                        let reason = now.rejected.as_ref().map(|(_, message)| message.clone()).unwrap_or_default();
                        self.deps.config_gate.close(reason);
                        self.deps.active_plan.send_replace(now);
                        return;
                    }
                }
            }
        };
        now.problems = selection.problems.iter().map(ToString::to_string).collect();
        now.watched = selection.types.iter().map(|t| t.served.name()).collect();
        now.plan = self.follow(&config, selection, &discovery).await;
        now.config = Some(config);
        self.deps.config_gate.open();
        self.deps.active_plan.send_replace(now);
    }

    fn select(&self, config: &AgentConfig, served: &[ServedType]) -> Selection {
        self.deps.narrowing.select(&config.informer_config, served)
    }

    /// The selection of a configuration that may be put in force, else its revision and what is wrong with it.
    fn judge(&self, config: &AgentConfig, served: &[ServedType]) -> Result<Selection, (String, String)> {
        let selection = self.select(config, served);
        match selection.rejection() {
            None => Ok(selection),
            Some(rejection) => Err((config.revision.clone(), rejection.message)),
        }
    }

    /// Makes the fleet follow; gives what it follows now.
    async fn follow(&mut self, config: &AgentConfig, selection: Selection, discovery: &Served) -> Arc<Vec<WatchSpec>> {
        let plan: Vec<WatchSpec> =
            selection.types.into_iter().map(|selected| WatchSpec::new(selected, config)).collect();
        let applied = self.deps.fleet.apply(plan.clone(), discovery).await;
        if applied != crate::watch::Applied::default() {
            tracing::info!(
                revision = config.revision,
                started = applied.started.len(),
                restarted = applied.restarted.len(),
                stopped = ?applied.stopped,
                objects_removed = applied.removed,
                "plan applied"
            );
        }
        Arc::new(plan)
    }
}

#[cfg(test)]
mod tests;
