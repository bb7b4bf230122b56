//! The operator as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{Controller, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use meshsync_crds::MeshSync;
use meshsync_crds::names::{CEILING_CLUSTER_ROLE, CLUSTER_ID_NAMESPACE, CRD_NAME, LABEL_MESHSYNC_UID};
use meshsync_runtime::build_info::BuildInfo;
use meshsync_runtime::discovery::Poller;
use meshsync_runtime::probes::{self, bind, serve};
use meshsync_runtime::readiness::{Gate, Readiness};
use meshsync_runtime::shutdown::Shutdown;
use meshsync_runtime::tasks::Supervisor;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::cluster_default;
use crate::error::Error;
use crate::meshsync::controller::{Context, on_error, reconcile};
use crate::meshsync::sweep::sweep;
use crate::meshsync::validate::DefaultImages;
use crate::surroundings::{Surroundings, ungrantable};

/// How often discovery is asked, which costs an empty answer while nothing changes.
const DISCOVERY_EVERY: Duration = Duration::from_secs(2);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Time for the tasks to end.
const GRACE: Duration = Duration::from_secs(10);

/// What an operator is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace that it runs in.
    pub namespace: String,
    /// Images that are used where a MeshSync names none.
    pub images: DefaultImages,
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
    let router = probes::router(readiness.clone(), Arc::new(registry));
    tasks.spawn("probes", serve(listener, router, "probes and metrics", shutdown.clone()));

    let (surroundings, gathered) = watch::channel(None);
    let look_again = Arc::new(Notify::new());
    let changed = Arc::new(Notify::new());
    let gate = readiness.gate("crd", "the CustomResourceDefinition has not been looked for yet");
    tasks.spawn(
        "surroundings",
        until(
            shutdown.clone(),
            gather(client.clone(), settings.namespace.clone(), surroundings, gate, look_again.clone(), changed.clone()),
        ),
    );
    for watch in [follow_definition(&client, &look_again), follow_ceiling(&client, &look_again)] {
        tasks.spawn("triggers", until(shutdown.clone(), watch));
    }
    tasks.spawn("children", until(shutdown.clone(), follow_children(client.clone(), changed.clone())));
    tasks.spawn("sweep", until(shutdown.clone(), sweep_departed(client.clone(), gathered.clone())));
    let context = Arc::new(Context {
        client: client.clone(),
        surroundings: gathered.clone(),
        images: settings.images,
        recorder: Recorder::new(client.clone(), Reporter { controller: build.name.to_owned(), instance: None }),
        waiting: Default::default(),
    });
    tasks.spawn("controller", control(client, context, gathered, changed, shutdown.clone()));
    tasks.run(GRACE).await.context("the operator stops")
}

async fn until(shutdown: Shutdown, work: impl Future<Output = ()>) -> Result<(), String> {
    tokio::select! {
        () = work => Err("ended unasked".to_owned()),
        () = shutdown.requested() => Ok(()),
    }
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

/// Keeps the surroundings current, for ever.
async fn gather(
    client: Client,
    namespace: String,
    out: watch::Sender<Option<Surroundings>>,
    gate: Gate,
    look_again: Arc<Notify>,
    changed: Arc<Notify>,
) {
    let mut poller = Poller::default();
    let mut now = Surroundings::default();
    loop {
        let delay = match look(&client, &namespace, &mut poller, &mut now, &gate).await {
            Ok(()) => {
                gate.open();
                if out.borrow().as_ref() != Some(&now) {
                    out.send_replace(Some(now.clone()));
                    changed.notify_one();
                }
                DISCOVERY_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, retry_in = ?RETRY, "cannot look around");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = look_again.notified() => {
                // The ceiling or the definition changed: ask about rights anew.
                now.ungrantable = Arc::new(BTreeMap::new());
                poller = Poller::default();
            }
        }
    }
}

async fn look(
    client: &Client,
    namespace: &str,
    poller: &mut Poller,
    now: &mut Surroundings,
    gate: &Gate,
) -> Result<(), Error> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = crds.get_opt(CRD_NAME).await.map_err(Error::api(format!("read CustomResourceDefinition {CRD_NAME}")))?;
    let Some(crd) = crd else {
        let problem = format!(
            "the CustomResourceDefinition {CRD_NAME} is not installed; install it with \
             `meshsync-operator crd generate | kubectl apply -f -`"
        );
        gate.close(problem.clone());
        return Err(Error::Waiting(problem));
    };
    if now.cluster_id.is_empty() {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let action = format!("read the namespace {CLUSTER_ID_NAMESPACE}, whose uid is the cluster's id");
        now.cluster_id =
            namespaces.get(CLUSTER_ID_NAMESPACE).await.map_err(Error::api(action))?.uid().unwrap_or_default();
    }
    now.crd_uid = crd.uid().unwrap_or_default();
    let default = cluster_default::settle(client, namespace, &crd).await?;
    if let Some(problem) = &default.problem
        && now.default.problem.as_ref() != Some(problem)
    {
        tracing::error!("{problem}");
    }
    now.default = default;
    let found = poller.poll(client).await.map_err(|error| Error::Waiting(error.to_string()))?;
    if let Some(found) = found {
        let found = found.keeping(&now.discovered);
        now.ungrantable = Arc::new(ungrantable(client, &found.types).await.map_err(Error::api("review the ceiling"))?);
        now.discovered = Arc::new(found);
    }
    Ok(())
}

type Trigger = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// An edit of the annotation must reach every MeshSync at once.
fn follow_definition(client: &Client, look_again: &Arc<Notify>) -> Trigger {
    follow::<CustomResourceDefinition>(
        Api::all(client.clone()),
        format!("metadata.name={CRD_NAME}"),
        look_again.clone(),
    )
}

/// So must a change of the ceiling.
fn follow_ceiling(client: &Client, look_again: &Arc<Notify>) -> Trigger {
    follow::<ClusterRole>(Api::all(client.clone()), format!("metadata.name={CEILING_CLUSTER_ROLE}"), look_again.clone())
}

/// Errors stay in here: in a controller, one trigger that fails would starve all others.
fn follow<K>(api: Api<K>, fields: String, notify: Arc<Notify>) -> Trigger
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    Box::pin(async move {
        let events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff().touched_objects();
        let mut events = std::pin::pin!(events.predicate_filter(predicates::resource_version, Default::default()));
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => notify.notify_one(),
                Err(error) => tracing::warn!(%error, "cannot watch {}", K::kind(&())),
            }
        }
    })
}

/// A child that somebody changed or deleted is put right.
async fn follow_children(client: Client, changed: Arc<Notify>) {
    tokio::join!(
        follow_kind::<Deployment>(&client, &changed),
        follow_kind::<StatefulSet>(&client, &changed),
        follow_kind::<ConfigMap>(&client, &changed),
        follow_kind::<Secret>(&client, &changed),
        follow_kind::<Service>(&client, &changed),
        follow_kind::<ServiceAccount>(&client, &changed),
        follow_kind::<Role>(&client, &changed),
        follow_kind::<RoleBinding>(&client, &changed),
        follow_kind::<ClusterRole>(&client, &changed),
        follow_kind::<ClusterRoleBinding>(&client, &changed),
    );
}

async fn follow_kind<K>(client: &Client, changed: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().labels(LABEL_MESHSYNC_UID);
    let mut events = std::pin::pin!(watcher(Api::<K>::all(client.clone()), config).default_backoff().touched_objects());
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot watch {}", K::kind(&())),
        }
    }
}

/// Sweeps at the start and whenever a MeshSync goes.
async fn sweep_departed(client: Client, mut gathered: watch::Receiver<Option<Surroundings>>) {
    if gathered.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut due = true;
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
        match events.next().await {
            Some(Ok(watcher::Event::Delete(_) | watcher::Event::InitDone)) => due = true,
            Some(_) => {}
            None => return,
        }
    }
}
