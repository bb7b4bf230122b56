//! The loop of one type as a whole, against a script of answers.

use meshsync_runtime::readiness::{GateReport, Readiness};
use tokio::sync::{Notify, watch};

use super::super::common::Shared;
use super::super::initial::Streaming;
use super::super::places::ListPlaces;
use super::super::type_loop::run;
use super::*;
use crate::object::{Prepared, prepare};
use crate::snapshot::Stored;
use crate::stream::{Checkpoint, Progress, TypeKey};

pub(super) fn bookmark(version: u64, annotations: Value) -> String {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    event("BOOKMARK", json!({"kind": "ConfigMap", "metadata": metadata}))
}

pub(super) fn end(version: u64) -> String {
    bookmark(version, json!({"k8s.io/initial-events-end": "true"}))
}

pub(super) fn added(name: &str, version: u64) -> String {
    event("ADDED", object("n", name, version))
}

pub(super) fn text((status, body): (u16, String)) -> (u16, Answer) {
    (status, whole(body))
}

pub(super) fn lines(lines: &[String]) -> (u16, Answer) {
    (200, whole(lines.concat()))
}

/// A stream that goes on without saying any more.
pub(super) fn open_end(lines: &[String]) -> (u16, Answer) {
    let body = Full::new(Bytes::from(lines.concat()));
    (200, body.with_trailers(std::future::pending()).boxed_unsync())
}

/// What the loop of a type did until it asked for what the script does not have.
pub(super) struct Ran {
    pub(super) asked: Vec<String>,
    pub(super) report: crate::watch::TypeReport,
    pub(super) names: Vec<String>,
    pub(super) is_ready: bool,
    pub(super) gates: Vec<GateReport>,
    pub(super) position: Option<String>,
}

pub(super) async fn run_loop(spec: WatchSpec, answers: Vec<(u16, Answer)>) -> Ran {
    Play { spec, streamed: true, ..Play::default() }.run(answers).await
}

/// What the loop of a type begins with.
pub(super) struct Play {
    pub(super) spec: WatchSpec,
    pub(super) streamed: bool,
    /// Version of a checkpoint that an earlier process left.
    pub(super) checkpoint: Option<&'static str>,
    /// Objects that it stored.
    pub(super) stored: Vec<Value>,
}

impl Default for Play {
    fn default() -> Self {
        Self { spec: spec(), streamed: false, checkpoint: None, stored: Vec::new() }
    }
}

impl Play {
    pub(super) async fn run(self, answers: Vec<(u16, Answer)>) -> Ran {
        let Self { spec, streamed, checkpoint, stored } = self;
        let (over, stop) = (CancellationToken::new(), CancellationToken::new());
        let Scene { client, table, board, sink, asked, .. } = Scene::with(&spec, answers, Some(over.clone()));
        let (readiness, progress) = (Readiness::default(), Arc::new(Progress::default()));
        let checkpoint = checkpoint.map(|version| Checkpoint {
            resource_version: version.into(),
            fingerprint: format!("{:016x}", spec.fingerprint()),
            objects: stored.len() as u64,
            digest: String::new(),
        });
        progress.done(
            checkpoint.map(|checkpoint| (TypeKey::from(&spec.selected.served), checkpoint)).into_iter().collect(),
        );
        for object in stored {
            let prepared = prepare(object.to_string().as_bytes(), &spec.context()).unwrap();
            let Prepared { uid, name, resource_version, hash, .. } = prepared;
            let stored = Stored { uid, name, resource_version, hash: Some(hash), sequence: 1 };
            let _taken = table.restore(stored);
        }
        let (_retry, retried) = watch::channel(0);
        let shared = Arc::new(Shared {
            client,
            places: ListPlaces::default(),
            streaming: Streaming::new(streamed),
            retry: retried,
            rediscover: Arc::new(Notify::new()),
            progress: progress.clone(),
            readiness: readiness.clone(),
            is_narrowed: std::sync::atomic::AtomicBool::new(false),
        });
        let gate = readiness.gate("type/configmaps", "not yet");
        let running = tokio::spawn(run(spec, sink, shared, Some(gate), stop.clone()));
        over.cancelled().await;
        let (is_ready, gates) = (readiness.is_ready(), readiness.report().gates);
        stop.cancel();
        running.await.unwrap();
        let mut names: Vec<String> = table.keys().iter().map(|(_, name)| name.to_string()).collect();
        names.sort();
        Ran {
            asked: asked.await.unwrap(),
            report: board.snapshot().remove("configmaps").unwrap(),
            names,
            is_ready,
            gates,
            position: progress.positions().into_values().next().map(|position| position.version.to_string()),
        }
    }
}

/// The requests, by what they are.
pub(super) fn kinds(asked: &[String]) -> Vec<String> {
    let kind = |uri: &String| match uri.split_once("&resourceVersion=") {
        _ if uri.contains("sendInitialEvents=true") => "stream".to_owned(),
        Some((_, version)) => format!("watch {version}"),
        None if uri.contains("limit=1&") || uri.ends_with("limit=1") => "version".to_owned(),
        None => uri.split_once("&continue=").map_or("list".to_owned(), |(_, token)| format!("list {token}")),
    };
    asked.iter().map(kind).collect()
}
