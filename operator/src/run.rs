//! The operator as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{Controller, watcher};
use kube::{Api, Client};
use meshsync_crds::MeshSync;
use meshsync_runtime::build_info::BuildInfo;
use meshsync_runtime::probes::{self, bind, serve};
use meshsync_runtime::readiness::Readiness;
use meshsync_runtime::shutdown::Shutdown;
use meshsync_runtime::tasks::Supervisor;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

use crate::cluster_info::{ClusterInfo, ClusterInfoWatcher};
use crate::meshsync::context::Context;
use crate::meshsync::controller::{on_error, reconcile};
use crate::meshsync::events::Events;
use crate::meshsync::garbage_collect;
use crate::meshsync::validate::Defaults;
use crate::metrics::Metrics;
use crate::triggers;

/// How long the tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Settings of an operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace that the operator runs in.
    pub namespace: String,
    /// Values for fields that a MeshSync leaves out.
    pub defaults: Defaults,
    /// Address of probes and metrics.
    pub probe_address: SocketAddr,
}

/// Runs the operator until `shutdown`.
///
/// # Errors
/// A listener could not be opened, or a task ended without being asked to.
pub async fn run(settings: Settings, client: Client, build: &BuildInfo, shutdown: Shutdown) -> anyhow::Result<()> {
    let readiness = Readiness::default();
    let listener = bind(settings.probe_address, "probes and metrics").await?;
    let mut registry = Registry::default();
    meshsync_runtime::metrics::register(&mut registry, build);
    let mut tasks = Supervisor::new(shutdown.clone());
    let metrics = Metrics::register(&mut registry);
    let router = probes::router(readiness.clone(), Arc::new(registry));
    tasks.spawn("probes", serve(listener, router, "probes and metrics", shutdown.clone()));

    let (sender, cluster_info) = watch::channel(None);
    let refresh = Arc::new(Notify::new());
    let changed = Arc::new(Notify::new());
    let gate = readiness.gate("crd", "the CustomResourceDefinition has not been read yet");
    let watcher = ClusterInfoWatcher::new(client.clone(), settings.namespace, gate);
    let watching = watcher.run(sender, refresh.clone(), changed.clone());
    tasks.spawn("cluster-info", shutdown.clone().interrupts(watching));
    let triggers = triggers::watch_cluster_info(client.clone(), refresh);
    tasks.spawn("cluster-info-triggers", shutdown.clone().interrupts(triggers));
    let triggers = triggers::watch_children(client.clone(), changed.clone());
    tasks.spawn("child-triggers", shutdown.clone().interrupts(triggers));
    tasks.spawn(
        "garbage-collection",
        shutdown.clone().interrupts(garbage_collect::run(client.clone(), cluster_info.clone())),
    );
    let reporter = Reporter { controller: build.name.to_owned(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context {
        client: client.clone(),
        cluster_info: cluster_info.clone(),
        defaults: settings.defaults,
        metrics,
        events: Events::new(recorder),
        waiting: Default::default(),
    });
    tasks.spawn("controller", control(client, context, cluster_info, changed, shutdown.clone()));
    tasks.run(GRACE).await.context("the operator stops")
}

/// Runs the controller once the CustomResourceDefinition has been read.
async fn control(
    client: Client,
    context: Arc<Context>,
    mut cluster_info: watch::Receiver<Option<ClusterInfo>>,
    changed: Arc<Notify>,
    shutdown: Shutdown,
) -> Result<(), String> {
    tokio::select! {
        known = cluster_info.wait_for(Option::is_some) => known.map(drop).map_err(|error| error.to_string())?,
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
