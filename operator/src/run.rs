//! The operator as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client};
use meshsync_crds::MeshSync;
use meshsync_runtime::build_info::BuildInfo;
use meshsync_runtime::probes::{self, bind, serve};
use meshsync_runtime::readiness::Readiness;
use meshsync_runtime::shutdown::Shutdown;
use meshsync_runtime::tasks::Supervisor;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::meshsync::controller::{Context, on_error, reconcile};
use crate::meshsync::sweep::sweep;
use crate::meshsync::validate::Defaults;
use crate::metrics::Metrics;
use crate::surroundings::{Gatherer, Surroundings};
use crate::triggers;

/// Wait after a sweep that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Longer than any reconciliation takes.
const SWEEP_AGAIN: Duration = Duration::from_secs(30);
/// Time for the tasks to end.
const GRACE: Duration = Duration::from_secs(10);

/// What an operator is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace that it runs in.
    pub namespace: String,
    /// What is used where a MeshSync says nothing.
    pub defaults: Defaults,
    /// Probes and metrics.
    pub probe_address: SocketAddr,
}

/// Runs an operator until `shutdown`.
///
/// # Errors
/// A listener that cannot be opened, or a task that ended unasked.
pub async fn run(settings: Settings, client: Client, build: &BuildInfo, shutdown: Shutdown) -> anyhow::Result<()> {
    let readiness = Readiness::default();
    let listener = bind(settings.probe_address, "probes and metrics").await?;
    let mut registry = Registry::default();
    meshsync_runtime::metrics::register(&mut registry, build);
    let mut tasks = Supervisor::new(shutdown.clone());
    let metrics = Metrics::register(&mut registry);
    let router = probes::router(readiness.clone(), Arc::new(registry));
    tasks.spawn("probes", serve(listener, router, "probes and metrics", shutdown.clone()));

    let (surroundings, gathered) = watch::channel(None);
    let look_again = Arc::new(Notify::new());
    let changed = Arc::new(Notify::new());
    let gate = readiness.gate("crd", "the CustomResourceDefinition has not been looked for yet");
    let gatherer = Gatherer::new(client.clone(), settings.namespace, gate);
    let gathering = gatherer.run(surroundings, look_again.clone(), changed.clone());
    tasks.spawn("surroundings", shutdown.clone().interrupts(gathering));
    let (follower, told) = (client.clone(), look_again.clone());
    tasks.spawn(
        "triggers",
        shutdown.clone().interrupts(async move { triggers::follow_surroundings(follower, &told).await }),
    );
    let (follower, told) = (client.clone(), changed.clone());
    tasks.spawn(
        "children",
        shutdown.clone().interrupts(async move { triggers::follow_children(follower, &told).await }),
    );
    tasks.spawn("sweep", shutdown.clone().interrupts(sweep_departed(client.clone(), gathered.clone())));
    let context = Arc::new(Context {
        client: client.clone(),
        surroundings: gathered.clone(),
        defaults: settings.defaults,
        metrics,
        recorder: Recorder::new(client.clone(), Reporter { controller: build.name.to_owned(), instance: None }),
        waiting: Default::default(),
        told: Default::default(),
    });
    tasks.spawn("controller", control(client, context, gathered, changed, shutdown.clone()));
    tasks.run(GRACE).await.context("the operator stops")
}

/// Runs the controller once the CustomResourceDefinition is there.
async fn control(
    client: Client,
    context: Arc<Context>,
    mut gathered: watch::Receiver<Option<Surroundings>>,
    changed: Arc<Notify>,
    shutdown: Shutdown,
) -> Result<(), String> {
    tokio::select! {
        there = gathered.wait_for(Option::is_some) => there.map(drop).map_err(|error| error.to_string())?,
        () = shutdown.requested() => return Ok(()),
    }
    let triggers = futures::stream::unfold(changed, async |changed| {
        changed.notified().await;
        Some(((), changed))
    });
    let stop = shutdown.clone();
    Controller::new(Api::<MeshSync>::all(client), watcher::Config::default())
        .reconcile_all_on(triggers)
        .graceful_shutdown_on(async move { stop.requested().await })
        .run(reconcile, on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
    if shutdown.has_begun() { Ok(()) } else { Err("the controller's stream ended".to_owned()) }
}

/// Sweeps at the start and whenever a MeshSync goes: at once, and again when a reconciliation that was under way has
/// ended, which may have made anew what the first sweep took.
async fn sweep_departed(client: Client, mut gathered: watch::Receiver<Option<Surroundings>>) {
    if gathered.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut due = true;
    let mut again: Option<Instant> = None;
    let mut events =
        std::pin::pin!(watcher(Api::<MeshSync>::all(client.clone()), watcher::Config::default()).default_backoff());
    loop {
        if due {
            match sweep(&client).await {
                Ok(removed) if removed.is_empty() => due = false,
                Ok(removed) => {
                    tracing::info!(?removed, "swept what departed MeshSyncs left");
                    due = false;
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "cannot sweep");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        let later = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Delete(_) | watcher::Event::InitDone)) => {
                    due = true;
                    again = Some(Instant::now() + SWEEP_AGAIN);
                }
                Some(_) => {}
                None => return,
            },
            () = later => {
                due = true;
                again = None;
            }
        }
    }
}
