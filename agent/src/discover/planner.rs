//! See the room's documentation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::discovery::ServedType;
use meshsync_crds::narrowing::Narrowing;
use meshsync_crds::selection::Selection;
use meshsync_runtime::discovery::{Discovered, FailedGroup, Poller};
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, watch};

use crate::config::Candidate;
use crate::watch::pace::{Pace, jitter};
use crate::watch::{Fleet, WatchSpec};

/// How often discovery is asked. While nothing changes, the server answers with an empty 304.
const POLL: Duration = Duration::from_secs(2);

/// What is in force, for everybody who needs to know.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The configuration; `None` until the first one could be applied.
    pub config: Option<Arc<AgentConfig>>,
    /// A later one that was refused: its revision, where it could be read that far, and why.
    pub rejected: Option<(String, String)>,
    /// What is noteworthy about the configuration in force.
    pub problems: Vec<String>,
    /// Everything that the API server serves.
    pub served: Arc<Vec<ServedType>>,
    /// Names of the types that are watched.
    pub watched: BTreeSet<String>,
    /// How they are.
    pub plan: Arc<Vec<WatchSpec>>,
    /// Groups whose discovery failed.
    pub failed: Vec<FailedGroup>,
}

/// What the planner needs from outside.
pub struct PlannerDeps {
    /// Client without retries of its own.
    pub client: Client,
    /// The loops.
    pub fleet: Fleet,
    /// Configurations as they come.
    pub candidates: watch::Receiver<Candidate>,
    /// What the command line takes away from each.
    pub narrowing: Narrowing,
    /// Where to tell what is in force.
    pub in_force: watch::Sender<InForce>,
    /// Counts configurations: refused types are tried again with each.
    pub retry: watch::Sender<u64>,
    /// Told when discovery should be asked at once.
    pub rediscover: Arc<Notify>,
    /// Closed until discovery has been read once.
    pub discovery_gate: Gate,
    /// Closed until a configuration is in force.
    pub config_gate: Gate,
}

/// See the room's documentation.
pub struct Planner {
    deps: PlannerDeps,
    poller: Poller,
    discovered: Option<Discovered>,
    /// Types that were missing from the last discovery. In a cluster with several API servers one may not have heard of
    /// a new type yet: only a type that is missing twice in a row is gone.
    missing: BTreeSet<(String, String, String)>,
    pace: Pace,
}

impl Planner {
    /// A planner that has not looked yet.
    #[must_use]
    pub fn new(deps: PlannerDeps) -> Self {
        Self { deps, poller: Poller::default(), discovered: None, missing: BTreeSet::new(), pace: Pace::default() }
    }

    /// Plans until the process ends; the fleet is stopped by dropping the future and then calling [`Planner::stop`].
    pub async fn run(&mut self) {
        loop {
            let delay = self.look().await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.deps.rediscover.notified() => {}
                _ = self.deps.candidates.changed() => {
                    self.deps.retry.send_modify(|count| *count += 1);
                    self.plan().await;
                }
            }
        }
    }

    /// Ends all loops; the snapshot stays.
    pub async fn stop(&mut self) {
        self.deps.fleet.stop().await;
    }

    /// Asks discovery, plans if it changed, and gives the time until the next look.
    async fn look(&mut self) -> Duration {
        match self.poller.poll(&self.deps.client).await {
            Ok(None) if self.missing.is_empty() => POLL,
            Ok(found) => {
                if let Some(found) = found {
                    self.take(found);
                } else {
                    self.drop_missing();
                }
                self.deps.discovery_gate.open();
                self.pace.healthy(Instant::now());
                self.plan().await;
                POLL
            }
            Err(error) => {
                let delay = self.pace.failed(Instant::now(), None, jitter());
                if self.discovered.is_none() {
                    self.deps.discovery_gate.close(error.to_string());
                }
                tracing::warn!(%error, retry_in = ?delay, "discovery failed; what is known stays in force");
                delay
            }
        }
    }

    /// Takes in a changed discovery, keeping types that are missing for the first time.
    fn take(&mut self, mut found: Discovered) {
        if let Some(before) = self.discovered.take() {
            found = found.keeping(&before);
            let now: BTreeSet<_> = found.types.iter().map(key).collect();
            let absent: Vec<ServedType> = before.types.into_iter().filter(|t| !now.contains(&key(t))).collect();
            let first_time = absent.into_iter().filter(|t| !self.missing.contains(&key(t)));
            let first_time: Vec<ServedType> = first_time.collect();
            self.missing = first_time.iter().map(key).collect();
            found.types.extend(first_time);
        }
        self.discovered = Some(found);
    }

    /// What was missing in the last discovery is missing still: it is gone.
    fn drop_missing(&mut self) {
        let missing = std::mem::take(&mut self.missing);
        if let Some(discovered) = &mut self.discovered {
            discovered.types.retain(|t| !missing.contains(&key(t)));
        }
    }

    /// Holds the newest configuration against discovery and makes the fleet follow.
    async fn plan(&mut self) {
        let Some(discovered) = &self.discovered else { return };
        let candidate = self.deps.candidates.borrow_and_update().clone();
        let before = self.deps.in_force.borrow().clone();
        let mut now = InForce {
            served: Arc::new(discovered.types.clone()),
            failed: discovered.failed.clone(),
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
                        self.deps.in_force.send_replace(now);
                        return;
                    }
                }
            }
        };
        now.problems = selection.problems.iter().map(ToString::to_string).collect();
        now.watched = selection.types.iter().map(|t| t.served.name()).collect();
        now.plan = self.follow(&config, selection).await;
        now.config = Some(config);
        self.deps.config_gate.open();
        self.deps.in_force.send_replace(now);
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
    async fn follow(&mut self, config: &AgentConfig, selection: Selection) -> Arc<Vec<WatchSpec>> {
        let plan: Vec<WatchSpec> =
            selection.types.into_iter().map(|selected| WatchSpec::new(selected, config)).collect();
        let applied = self.deps.fleet.apply(plan.clone()).await;
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

fn key(t: &ServedType) -> (String, String, String) {
    (t.group.clone(), t.version.clone(), t.plural.clone())
}
