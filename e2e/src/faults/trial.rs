//! A cluster under churn, an agent that reaches its broker through a [`Proxy`], and consumers that record every
//! message.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::invariants::{Verdict, checkpoints, order_published, order_stored};
use super::proxy::Proxy;
use crate::await_condition;
use crate::bench::process;
use crate::churn::{Churn, Write};
use crate::cluster::Cluster;
use crate::everything::{NOT_WATCHED, await_equal, view_differences};
use crate::lab::Lab;
use crate::metrics::Metrics;
use crate::nats::{Nats, NatsBuilder};
use crate::process::Daemon;
use crate::stream::{Consumer, Entry, History, Recorder, Told};

/// Namespace of the churn.
pub const NAMESPACE: &str = "churn";
/// Longest time from the end of a fault until consumers hold the cluster again.
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);
/// Most memory that an agent may use without objects; the tests' build is not optimised for size.
const BASE_BYTES: u64 = 64 * 1024 * 1024;
/// Most memory that it may use per object.
const BYTES_AN_OBJECT: u64 = 16 * 1024;
/// Fewest writes before and after the fault of a trial: with fewer, the checker could find nothing.
const ENOUGH: usize = 100;

/// Begins with everything running and consumers that hold the cluster; ends with the checker's verdict.
///
/// ```no_run
/// # fn example() -> anyhow::Result<()> {
/// use meshsync_e2e::faults::{Link, Trial};
/// meshsync_e2e::shared::run("cut", async |lab, cluster| {
///     let trial = Trial::begin(lab, cluster, lab.nats().jetstream()).await?;
///     trial.proxy.set(Link::Cut);
///     trial.churn.go_on(100).await?;
///     trial.proxy.set(Link::Open);
///     trial.end().await
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct Trial {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The broker.
    pub nats: Nats,
    /// The link between agent and broker; other clients connect to the broker directly.
    pub proxy: Proxy,
    /// The agent.
    pub agent: Daemon,
    /// The churn.
    pub churn: Churn,
    history: History,
    heard: Recorder,
    stored: Consumer,
}

impl Trial {
    /// Starts everything.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn begin(lab: &Lab, cluster: &Arc<Cluster>, nats: NatsBuilder) -> Result<Self> {
        Self::begin_with(lab, cluster, nats, |agent| agent).await
    }

    /// As [`begin`](Self::begin), with an agent that is `prepared` first.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn begin_with(
        lab: &Lab,
        cluster: &Arc<Cluster>,
        nats: NatsBuilder,
        prepared: impl FnOnce(Daemon) -> Daemon,
    ) -> Result<Self> {
        Self::begin_at(lab, cluster, nats, cluster.kubeconfig(), prepared).await
    }

    /// As [`begin_with`](Self::begin_with), with an agent that reaches the API server as `kubeconfig` says.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn begin_at(
        lab: &Lab,
        cluster: &Arc<Cluster>,
        nats: NatsBuilder,
        kubeconfig: &Path,
        prepared: impl FnOnce(Daemon) -> Daemon,
    ) -> Result<Self> {
        let cluster = Arc::clone(cluster);
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        cluster.apply(namespace.to_string()).await?;
        cluster.kubectl(["delete", "configmap", "--all", "-n", NAMESPACE]).await?;
        let nats = nats.start().await?;
        let address = nats.url();
        let proxy = Proxy::start(address.trim_start_matches("nats://")).await?;
        let history = History::follow(nats.client().await?);
        let heard = Recorder::subscribe(nats.client().await?).await?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        let churn = Churn::start(&cluster, NAMESPACE).await?;
        let agent = prepared(lab.agent()?.arg("run").arg("--kubeconfig").arg(kubeconfig))
            .env("LOG_LEVEL", "info,meshsync_agent=debug")
            .env("BROKER_URL", format!("nats://{}", proxy.address()));
        agent.start()?;
        let trial = Self { cluster, nats, proxy, agent, churn, history, heard, stored };
        trial.live().await?;
        trial.churn.go_on(ENOUGH).await?;
        Ok(trial)
    }

    /// Waits until the agent publishes the newest changes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn live(&self) -> Result<()> {
        self.tells(ENOUGH / 2).await
    }

    /// Waits until the stream has this many further messages.
    ///
    /// # Errors
    /// When it does not.
    pub async fn tells(&self, messages: usize) -> Result<()> {
        let until = self.history.len() + messages;
        await_condition(
            "changes are stored",
            CONVERGED_WITHIN,
            async || Ok((self.history.len() >= until).then_some(())),
        )
        .await
    }

    /// Objects of a kind that consumers of the stream hold.
    #[must_use]
    pub fn stored(&self, api_version: &str, kind: &str) -> usize {
        self.stored.view().count(api_version, kind)
    }

    /// Messages that core subscribers have received so far.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.heard.len()
    }

    /// The messages of the stream so far.
    #[must_use]
    pub fn carried(&self) -> Vec<Entry> {
        self.history.entries()
    }

    /// Waits until the agent reports that changes have waited for the broker for `seconds`.
    ///
    /// # Errors
    /// When it never reports that.
    pub async fn behind_since(&self, seconds: f64) -> Result<()> {
        let within = Duration::from_secs_f64(seconds) + CONVERGED_WITHIN;
        await_condition("the agent reports that it is behind", within, async || {
            let age = Metrics::of_agent().await?.sum("meshsync_outbox_age_seconds");
            Ok((age >= seconds).then_some(()))
        })
        .await
    }

    /// Waits until the agent's log has `text`.
    ///
    /// # Errors
    /// When it never has.
    pub async fn says(&self, text: &str) -> Result<()> {
        let what = format!("the agent logs `{text}`");
        await_condition(&what, CONVERGED_WITHIN, async || Ok(self.agent.log().contains(text).then_some(()))).await
    }

    /// Continues the churn, stops it, and checks I1 to I6, also for core subscribers.
    ///
    /// # Errors
    /// What does not hold.
    pub async fn end(mut self) -> Result<()> {
        let writes = self.come_to_rest().await?;
        let mut last = String::new();
        let equal = await_condition("core subscribers hold the cluster", CONVERGED_WITHIN, async || {
            let differences = view_differences(&self.cluster, &self.heard.view(), &NOT_WATCHED).await?;
            last = differences.to_string();
            Ok(differences.is_empty().then_some(()))
        });
        equal.await.context(last).context("I1")?;
        self.check(&writes).await
    }

    async fn come_to_rest(&mut self) -> Result<Vec<Write>> {
        self.live().await.context("after the fault")?;
        self.churn.go_on(ENOUGH).await?;
        Ok(self.churn.stop().await)
    }

    async fn check(self, writes: &[Write]) -> Result<()> {
        await_equal(&self.cluster, &self.stored, &NOT_WATCHED, CONVERGED_WITHIN).await.context("I1")?;
        let objects = self.stored.view().len();
        self.read_twice(objects).await.context("I5")?;

        let jetstream = async_nats::jetstream::new(self.nats.client().await?);
        let stream = jetstream.stream_by_subject("meshsync.state.>").await?;
        let cluster = stream.trim_start_matches("meshsync-");
        let prefix = format!("meshsync.state.{cluster}.core.configmaps.{NAMESPACE}.");
        let checkpoint = format!("meshsync.checkpoint.{cluster}.core.configmaps");
        let newest = writes.iter().filter_map(|write| write.version).max().unwrap_or_default();
        let reaches = |entry: &Entry| {
            entry.subject == checkpoint && matches!(entry.told, Told::Checkpoint(position) if position >= newest)
        };
        await_condition("the last change has a checkpoint", CONVERGED_WITHIN, async || {
            Ok(self.history.entries().iter().any(reaches).then_some(()))
        })
        .await?;
        let entries = self.history.entries();
        let mut verdict = order_stored(&entries);
        verdict.extend(order_published(&self.heard.payloads()));
        verdict.extend(checkpoints(writes, &entries, &prefix, &checkpoint));
        ensure!(verdict.broken.is_empty(), "{verdict}");
        vacuous(&verdict)?;

        let peak = process::usage(self.agent.pid().context("the agent ended")?)?.peak_rss;
        let bound = BASE_BYTES + BYTES_AN_OBJECT * u64::try_from(objects)?;
        ensure!(peak <= bound, "I6: {peak} bytes were resident, for {objects} objects at most {bound}");
        self.agent.stop(Duration::from_secs(20)).await.map(drop)
    }

    /// I5: every reader of the stream gets the same state.
    async fn read_twice(&self, objects: usize) -> Result<()> {
        let resources =
            |consumer: &Consumer| -> Vec<Value> { consumer.view().resources().map(|(_, resource)| resource).collect() };
        for _ in 0..2 {
            let again = Consumer::stored(self.nats.client().await?, None).await?;
            await_condition("the stream is read", CONVERGED_WITHIN, async || {
                Ok((again.view().len() >= objects).then_some(()))
            })
            .await?;
            ensure!(resources(&again) == resources(&self.stored), "two readers of the stream hold different states");
        }
        Ok(())
    }
}

/// Fails if the checker had too little to check, because its result would prove nothing.
fn vacuous(verdict: &Verdict) -> Result<()> {
    let enough = ENOUGH as u64;
    ensure!(verdict.ordered > enough && verdict.covered > enough, "too little to check: {verdict}");
    ensure!(verdict.unknown <= verdict.covered, "too much is unknown: {verdict}");
    Ok(())
}
