//! Asks discovery again and again, in a task of its own: whatever becomes of a request, it holds up nothing else.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use meshsync_runtime::discovery::{Discovered, DiscoveryError, Leaving, Poller, Server, server_state};
use meshsync_runtime::readiness::Gate;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::health::Health;
use crate::apiserver::backoff::{Backoff, jitter};
use crate::plan::Served;

/// How often discovery is asked. While nothing changes, the server answers with an empty 304.
const POLL: Duration = Duration::from_secs(2);
/// How long a start waits for an API server that says it is not ready: what it names meanwhile is a part of what there is.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const STARTING: Duration = Duration::from_millis(250);

/// What the task needs from outside.
pub struct DiscoveryDeps {
    /// Client without retries of its own.
    pub client: Client,
    /// Where to tell what is served; none until it is known.
    pub served: watch::Sender<Option<Served>>,
    /// Told when discovery should be asked at once.
    pub rediscover: Arc<Notify>,
    /// Where to tell how it goes.
    pub health: Arc<Health>,
    /// Closed until discovery has been read once.
    pub gate: Gate,
}

/// See the module.
pub struct Discovery {
    deps: DiscoveryDeps,
    poller: Poller,
    leaving: Leaving,
    backoff: Backoff,
    began: Instant,
}

impl Discovery {
    /// One that has not asked yet.
    #[must_use]
    pub fn new(deps: DiscoveryDeps) -> Self {
        let (poller, leaving, backoff) = (Poller::default(), Leaving::default(), Backoff::default());
        Self { deps, poller, leaving, backoff, began: Instant::now() }
    }

    /// Asks for ever.
    pub async fn run(mut self) {
        loop {
            let delay = self.look().await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.deps.rediscover.notified() => {}
            }
        }
    }

    /// Asks once; gives the time until the next look.
    async fn look(&mut self) -> Duration {
        // Asked first: an answer that came before the server was ready is not made complete by what it is a moment later.
        let server = match self.leaving.is_in_doubt() {
            true => server_state(&self.deps.client).await,
            false => Server::Ready,
        };
        let is_first = self.leaving.current().is_none();
        if is_first && server == Server::NotReady && self.began.elapsed() < STARTS_WITHIN {
            self.deps.gate.close("the API server says that it is not ready");
            return STARTING;
        }
        match self.poller.poll(&self.deps.client).await {
            Ok(found) => self.answered(found, server),
            Err(error) => self.failed(&error),
        }
    }

    fn answered(&mut self, found: Option<Discovered>, server: Server) -> Duration {
        self.backoff.healthy(std::time::Instant::now());
        self.deps.health.succeeded(found.as_ref());
        self.deps.gate.open();
        if (found.is_some() || self.leaving.is_in_doubt()) && self.leaving.answered(Instant::now(), found, server) {
            let discovered = Arc::new(self.leaving.current().cloned().unwrap_or_default());
            self.deps.served.send_replace(Some(Served { discovered, is_settled: self.leaving.is_settled() }));
        }
        POLL
    }

    fn failed(&mut self, error: &DiscoveryError) -> Duration {
        self.leaving.broke_off();
        let delay = self.backoff.failed(std::time::Instant::now(), None, jitter());
        let told = self.deps.health.failed(error.to_string());
        // What is known stays in force, and an API server that is away is no fault of this process: it goes on being ready.
        match self.leaving.current() {
            None => self.deps.gate.close(told),
            Some(_) => self.deps.gate.open_with(told),
        }
        tracing::warn!(%error, retry_in = ?delay, "discovery failed; what is known stays in force");
        delay
    }
}
