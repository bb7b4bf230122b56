//! The agent as a whole: makes the rooms, connects them, and takes them down in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use meshsync_crds::agent_config::{AgentConfig, SecretPolicy};
use meshsync_crds::narrowing::Narrowing;
use meshsync_runtime::probes::{self, bind, serve};
use meshsync_runtime::readiness::{Gate, Readiness};
use meshsync_runtime::shutdown::Shutdown;
use meshsync_runtime::tasks::Supervisor;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};

use crate::BUILD;
use crate::admin::{self, Admin};
use crate::config::{self, Candidate, ConfigSource};
use crate::discover::{Discovery, DiscoveryDeps, Health};
use crate::dump;
use crate::identity::Identity;
use crate::metrics::AgentCollector;
use crate::outbox::Outbox;
use crate::output::Output;
use crate::plan::ActivePlan;
use crate::plan::Served;
use crate::planner::Planner;
use crate::planner::PlannerDeps;
use crate::publish::broker::Broker;
use crate::publish::context::{Carryover, PublishContext};
use crate::publish::delivery::DeliveryBoard;
use crate::publish::fence::{Me, Role, Witness};
use crate::publish::message::Encoding;
use crate::publish::publisher::Publisher;
use crate::publish::stats::PublishStats;
use crate::report::Reporter;
use crate::requests::Requests;
use crate::snapshot::Store;
use crate::stream::{Progress, StreamSettings};
use crate::watch::{Board, Fleet, FleetDeps};

/// Time for draining the outbox when asked to stop; a pod gets 30 s by default.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
/// Time for the tasks to end after that.
const GRACE: Duration = Duration::from_secs(20);

/// Consumers that may wait for everything at the same time.
const WAITING_CONSUMERS: usize = 16;

/// What an agent is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the configuration comes from.
    pub source: ConfigSource,
    /// What the command line takes away from every configuration.
    pub narrowing: Narrowing,
    /// Where objects go.
    pub output: Output,
    /// Probes and metrics.
    pub probe_address: SocketAddr,
    /// Snapshot and debug pages.
    pub debug_address: SocketAddr,
    /// Whether to list by watches that begin with everything there is, where the server serves them.
    pub streamed_lists: bool,
    /// Stop after this time.
    pub stop_after: Option<Duration>,
    /// Most bytes that the stream may hold.
    pub stream_max_bytes: Option<i64>,
    /// Id of the cluster, whatever the configuration says.
    pub cluster_id: Option<String>,
    /// Name of the pod.
    pub pod: String,
}

/// What the rooms share.
#[derive(Clone)]
struct House {
    client: Client,
    store: Arc<Store>,
    queue: Arc<Outbox>,
    board: Arc<Board>,
    stats: Arc<PublishStats>,
    delivery: Arc<DeliveryBoard>,
    progress: Arc<Progress>,
    discovery: Arc<Health>,
    streamed_lists: bool,
    narrowing: Narrowing,
    active_plan: watch::Receiver<ActivePlan>,
    encoding: watch::Sender<Option<Encoding>>,
    shutdown: Shutdown,
}

/// Runs an agent until `shutdown`.
///
/// # Errors
/// A listener or broker configuration that cannot work, or a task that ended unasked.
pub async fn run(settings: Settings, client: Client, shutdown: Shutdown) -> anyhow::Result<()> {
    let readiness = Readiness::default();
    let probe_listener = bind(settings.probe_address, "probes and metrics").await?;
    let debug_listener = bind(settings.debug_address, "snapshot and debug pages").await?;
    let broker = settings.output.open().await?;
    let (active_plan, active_plan_rx) = watch::channel(ActivePlan::default());
    let house = House::new(&settings, client.clone(), active_plan_rx, shutdown.clone());

    let mut tasks = Supervisor::new(shutdown.clone());
    let registry = Arc::new(registry(&house, broker.as_ref()));
    let probe_router = probes::router(readiness.clone(), registry);
    tasks.spawn("probes", serve(probe_listener, probe_router, "probes and metrics", shutdown.clone()));
    let admin = admin::router(Admin {
        client: client.clone(),
        active_plan: house.active_plan.clone(),
        store: house.store.clone(),
        board: house.board.clone(),
    });
    tasks.spawn("debug", serve(debug_listener, admin, "snapshot and debug pages", shutdown.clone()));

    let (candidates, candidates_rx) = watch::channel(Candidate::Awaited);
    let follow = config::follow(settings.source.clone(), settings.narrowing.clone(), client.clone(), candidates);
    tasks.spawn("configuration", house.until_shutdown(follow));
    let (served, served_rx) = watch::channel(None);
    let rediscover = Arc::new(Notify::new());
    tasks.spawn("discovery", house.until_shutdown(discovery(&house, &readiness, served, rediscover.clone()).run()));
    let planner =
        planner(&house, &readiness, Heard { active_plan, candidates: candidates_rx, served: served_rx }, rediscover);
    tasks.spawn("planner", plan(planner, shutdown.clone()));
    let role = watch::channel(Role::Active).0;
    let identity = identity(&house, settings.cluster_id.clone(), role.subscribe(), broker.clone());
    let gate = readiness.gate("cluster-id", "not known yet");
    tasks.spawn("identity", house.until_shutdown(identity.run(gate)));
    let stream = StreamSettings { max_bytes: settings.stream_max_bytes, ..StreamSettings::default() };
    match broker {
        Some(broker) => start_publishing(&mut tasks, &house, (broker, role), &readiness, stream, settings.pod.clone()),
        // There is no stream to go on from.
        None => house.progress.done(HashMap::new()),
    }
    if let Some(after) = settings.stop_after {
        tokio::spawn(stop_after(after, shutdown));
    }
    let ended = tasks.run(GRACE).await;
    if let Output::File(path) = &settings.output {
        house.write_snapshot(path)?;
    }
    ended.context("the agent stops")
}

async fn stop_after(after: Duration, shutdown: Shutdown) {
    tokio::time::sleep(after).await;
    tracing::info!(?after, "--stopAfter elapsed");
    shutdown.begin();
}

impl House {
    fn new(settings: &Settings, client: Client, active_plan: watch::Receiver<ActivePlan>, shutdown: Shutdown) -> Self {
        Self {
            client,
            store: Store::new(),
            queue: Arc::default(),
            board: Arc::default(),
            stats: Arc::default(),
            delivery: Arc::default(),
            progress: Arc::default(),
            discovery: Arc::default(),
            streamed_lists: settings.streamed_lists,
            narrowing: settings.narrowing.clone(),
            active_plan,
            encoding: watch::channel(None).0,
            shutdown,
        }
    }

    /// `work` as a task that ends in good order at shutdown and never before.
    fn until_shutdown<W: Future<Output = ()>>(&self, work: W) -> impl Future<Output = Result<(), String>> + use<W> {
        self.shutdown.clone().interrupts(work)
    }

    /// Writes every object that the agent holds.
    fn write_snapshot(&self, path: &Path) -> anyhow::Result<()> {
        let publishes = |config: &Arc<AgentConfig>| config.publish.secrets == SecretPolicy::Publish;
        let is_private = self.active_plan.borrow().config.as_ref().is_some_and(publishes);
        let objects = dump::write_yaml_file(&self.store, path, is_private)
            .with_context(|| format!("cannot write the snapshot to {}", path.display()))?;
        tracing::info!(objects, file = %path.display(), "snapshot written");
        Ok(())
    }
}

fn registry(house: &House, broker: Option<&Broker>) -> Registry {
    let mut registry = Registry::default();
    meshsync_runtime::metrics::register(&mut registry, &BUILD);
    registry.register_collector(Box::new(AgentCollector {
        board: house.board.clone(),
        store: house.store.clone(),
        queue: house.queue.clone(),
        stats: house.stats.clone(),
        discovery: house.discovery.clone(),
        connection: broker.map(|broker| broker.connection.clone()),
    }));
    registry
}

fn discovery(
    house: &House,
    readiness: &Readiness,
    served: watch::Sender<Option<Served>>,
    rediscover: Arc<Notify>,
) -> Discovery {
    Discovery::new(DiscoveryDeps {
        client: house.client.clone(),
        served,
        rediscover,
        health: house.discovery.clone(),
        gate: readiness.gate("discovery", "the API server has not been asked yet"),
    })
}

/// What the planner hears, and where it tells what it makes of that.
struct Heard {
    active_plan: watch::Sender<ActivePlan>,
    candidates: watch::Receiver<Candidate>,
    served: watch::Receiver<Option<Served>>,
}

fn planner(house: &House, readiness: &Readiness, heard: Heard, rediscover: Arc<Notify>) -> Planner {
    let Heard { active_plan, candidates, served } = heard;
    let retry = watch::Sender::new(0);
    let replan = Arc::new(Notify::new());
    let fleet = Fleet::new(FleetDeps {
        client: house.client.clone(),
        store: house.store.clone(),
        queue: house.queue.clone(),
        board: house.board.clone(),
        readiness: readiness.clone(),
        retry: retry.subscribe(),
        rediscover,
        replan: replan.clone(),
        progress: house.progress.clone(),
        streamed_lists: house.streamed_lists,
    });
    Planner::new(PlannerDeps {
        fleet,
        candidates,
        narrowing: house.narrowing.clone(),
        served,
        active_plan,
        retry,
        replan,
        config_gate: readiness.gate("configuration", "none has been read yet"),
    })
}

async fn plan(mut planner: Planner, shutdown: Shutdown) -> Result<(), String> {
    let ended = shutdown.interrupts(planner.run()).await;
    planner.stop().await;
    ended
}

fn identity(
    house: &House,
    cluster_id: Option<String>,
    role: watch::Receiver<Role>,
    broker: Option<Broker>,
) -> Identity {
    Identity {
        client: house.client.clone(),
        active_plan: house.active_plan.clone(),
        encoding: house.encoding.clone(),
        cluster_id,
        store: house.store.clone(),
        queue: house.queue.clone(),
        role,
        broker,
    }
}

fn reporter(house: &House, broker: Broker, role: watch::Receiver<Role>, pod: String) -> Reporter {
    Reporter {
        client: house.client.clone(),
        active_plan: house.active_plan.clone(),
        board: house.board.clone(),
        store: house.store.clone(),
        queue: house.queue.clone(),
        broker,
        stats: house.stats.clone(),
        delivery: house.delivery.clone(),
        discovery: house.discovery.clone(),
        role,
        pod,
    }
}

fn start_publishing(
    tasks: &mut Supervisor,
    house: &House,
    (broker, role): (Broker, watch::Sender<Role>),
    readiness: &Readiness,
    stream: StreamSettings,
    pod: String,
) {
    let (ask, answers) = mpsc::channel(WAITING_CONSUMERS);
    let heard_as = role.subscribe();
    let parts = PublishContext {
        store: house.store.clone(),
        queue: house.queue.clone(),
        broker: broker.clone(),
        encoding: house.encoding.subscribe(),
        answers,
        stats: house.stats.clone(),
        progress: house.progress.clone(),
        active_plan: house.active_plan.clone(),
        delivery: house.delivery.clone(),
        me: Me::new(&broker.client, &pod),
        role,
        witness: Witness { client: house.client.clone(), active_plan: house.active_plan.clone() },
        shutdown: house.shutdown.clone(),
        carried: Carryover::default(),
    };
    let publisher = Publisher::new(parts, stream);
    tasks.spawn("publisher", drain(publisher, house.queue.clone(), house.shutdown.clone()));
    let requests = Requests {
        broker: broker.clone(),
        store: house.store.clone(),
        queue: house.queue.clone(),
        answers: ask,
        role: heard_as.clone(),
        version: BUILD.version,
    };
    tasks.spawn("requests", house.until_shutdown(requests.run()));
    let gate = readiness.gate("broker", format!("no connection to {}", broker.url));
    tasks.spawn("broker", house.until_shutdown(follow_connection(broker.clone(), gate)));
    let gate = readiness.gate("publisher", "not known yet");
    tasks.spawn("role", house.until_shutdown(follow_role(heard_as.clone(), gate)));
    let reporter = reporter(house, broker, heard_as, pod);
    tasks.spawn("report", house.until_shutdown(reporter.run()));
}

async fn follow_connection(broker: Broker, gate: Gate) {
    let mut connection = broker.connection;
    loop {
        if connection.borrow_and_update().up {
            gate.open();
        } else {
            gate.close(format!("no connection to {}", broker.url));
        }
        if connection.changed().await.is_err() {
            return;
        }
    }
}

/// Who stands by is not ready: nothing of its cluster is published.
async fn follow_role(mut role: watch::Receiver<Role>, gate: Gate) {
    loop {
        match role.borrow_and_update().standby() {
            None => gate.open(),
            Some(standby) => gate.close(format!("{}: {}", standby.reason(), standby.message())),
        }
        if role.changed().await.is_err() {
            return;
        }
    }
}

/// Publishes; once asked to stop, goes on until everything is out or the time is over.
async fn drain(publisher: Publisher, queue: Arc<Outbox>, shutdown: Shutdown) -> Result<(), String> {
    let too_long = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN_WITHIN).await;
    };
    tokio::select! {
        () = publisher.run() => match shutdown.has_begun() {
            true => Ok(()),
            false => Err("ended unasked".to_owned()),
        },
        () = too_long => {
            tracing::warn!(left = queue.len(), "stopping although not everything could be published");
            Ok(())
        }
    }
}
