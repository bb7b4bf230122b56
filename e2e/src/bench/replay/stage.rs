//! What every scenario with a replayed cluster begins with, and how events are brought to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{CHANGE_LABEL, Recording, World, record, serve};
use crate::await_condition;
use crate::bench::contender::agent_config;
use crate::bench::dataset::Kind;
use crate::bench::load::load;
use crate::cluster::Level;
use crate::lab::Lab;
use crate::nats::Nats;
use crate::process::Daemon;
use crate::progress::say;
use crate::stream::Consumer;

/// Objects of the real cluster that is recorded.
const RECORDED: usize = 2_000;
/// Longest time for one step.
pub(super) const DEADLINE: Duration = Duration::from_secs(900);
/// Subjects of the stored state.
pub(super) const STATE: &str = "meshsync.state.>";

/// A replayed cluster, a broker and an agent that is live.
pub(super) struct Stage {
    pub(super) world: Arc<World>,
    pub(super) nats: Nats,
    pub(super) agent: Daemon,
    /// From the agent's start until everything was stored.
    pub(super) seconds: f64,
}

pub(super) async fn recording(lab: &Lab) -> Result<Recording> {
    say(format!("recording a real API server with {RECORDED} objects"));
    let cluster = lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
    let client = cluster.client().await?;
    load(&client, RECORDED).await?;
    record(&client).await
}

impl Stage {
    pub(super) async fn set(lab: &Lab, program: &Path, objects: usize, hash_only: bool, pinned: bool) -> Result<Self> {
        let world = Arc::new(World::new(recording(lab).await?, objects));
        let address = serve(Arc::clone(&world)).await?;
        let nats = lab.nats().jetstream().max_payload(8 * 1024 * 1024).start().await?;
        let (kubeconfig, config) = (kubeconfig(lab.dir(), address)?, agent_config(lab.dir(), hash_only)?);
        let arguments = ["run", "--log-level=warn", "--config"];
        let agent = if pinned {
            lab.daemon("bench-agent", "/usr/bin/taskset").args(["-c", "1"]).arg(program)
        } else {
            lab.daemon("bench-agent", program)
        };
        let agent = agent.args(arguments).arg(config).env("KUBECONFIG", kubeconfig).env("BROKER_URL", nats.url());
        let started = Instant::now();
        agent.start()?;
        let mut stage = Self { world, nats, agent, seconds: 0.0 };
        stage.stored(objects).await?;
        stage.seconds = started.elapsed().as_secs_f64();
        say(format!("{} objects stored in {:.1} s", stage.world.objects(), stage.seconds));
        let live = Kind::ALL.len();
        await_condition("every watch is open", DEADLINE, async || Ok((stage.world.watched() >= live).then_some(())))
            .await?;
        Ok(stage)
    }

    /// Waits until the stream has a message for every object.
    async fn stored(&self, objects: usize) -> Result<()> {
        let expected = self.world.objects() as u64;
        let context = async_nats::jetstream::new(self.nats.client().await?);
        let mut told = 0;
        await_condition("every object is stored", DEADLINE, async || {
            self.agent.ensure_running()?;
            let Ok(name) = context.stream_by_subject(STATE).await else { return Ok(None) };
            let stream = context.get_stream(&name).await?;
            let messages = stream.cached_info().state.messages;
            if messages > told + objects as u64 / 10 {
                told = messages;
                say(format!("{messages} messages stored"));
            }
            Ok((messages >= expected).then_some(()))
        })
        .await
    }

    pub(super) fn pid(&self) -> Result<u32> {
        self.agent.pid().context("the agent ended")
    }

    /// Waits until a consumer of the stream has the last change of every object.
    pub(super) async fn settled(&self) -> Result<()> {
        let consumer = Consumer::stored(self.nats.client().await?, None).await?;
        let expected = self.world.last_changes();
        let differences = || {
            let view = consumer.view();
            let found: std::collections::HashMap<&str, Option<u64>> = view
                .keys()
                .map(|key| (key.name.as_str(), view.get(key).and_then(|object| change_of(&object))))
                .collect();
            expected.iter().filter(|(name, change)| found.get(name.as_str()) != Some(&Some(**change))).count()
        };
        let settled = await_condition("every change is stored", Duration::from_secs(120), async || {
            // Each look reads the whole view.
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok((differences() == 0).then_some(()))
        });
        settled.await.with_context(|| format!("{} of {} objects differ", differences(), expected.len()))
    }

    pub(super) async fn end(self) -> Result<()> {
        self.agent.stop(Duration::from_secs(30)).await.map(drop)
    }
}

/// The number of the last change in an object of the Meshery format.
fn change_of(object: &Value) -> Option<u64> {
    let labels = object.pointer("/metadata/labels")?.as_array()?;
    let label = labels.iter().find(|label| label.get("key").and_then(Value::as_str) == Some(CHANGE_LABEL))?;
    label.get("value")?.as_str()?.parse().ok()
}

/// Writes a kubeconfig that leads to the replay.
pub(super) fn kubeconfig(dir: &Path, server: SocketAddr) -> Result<PathBuf> {
    let file = dir.join("replay.kubeconfig");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "replay",
        "clusters": [{"name": "replay", "cluster": {"server": format!("http://{server}")}}],
        "contexts": [{"name": "replay", "context": {"cluster": "replay", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    std::fs::write(&file, kubeconfig.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Calls `each` `rate` times a second, a few at a time, as events come from a cluster.
pub(super) async fn paced(rate: u64, duration: Duration, mut each: impl AsyncFnMut(u64)) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let (began, total) = (Instant::now(), rate * duration.as_secs());
    let mut done = 0;
    while done < total {
        tick.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while done < due.min(total) {
            each(done).await;
            done += 1;
        }
    }
}

/// Kinds in turn, pods most often.
pub(super) fn kind(number: u64) -> Kind {
    match number % 10 {
        0..6 => Kind::Pod,
        6 => Kind::ReplicaSet,
        7 => Kind::EndpointSlice,
        8 => Kind::ConfigMap,
        _ => Kind::Deployment,
    }
}
