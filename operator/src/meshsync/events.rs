//! Reports what changed: as Kubernetes events, and problems in the log as well.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};
use meshsync_crds::conditions::{AUTHORIZED, BROKER_AVAILABLE, PUBLISHED, RESOLVED};
use meshsync_crds::{MeshSync, MeshSyncStatus};

use super::status::Outcome;
use super::validate::hash;

/// Longest note of an event that the API accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// Ends a note that was cut.
const ELLIPSIS: &str = "…";

/// Writes events, each problem once.
pub struct Events {
    recorder: Recorder,
    announced: Announced,
}

impl Events {
    /// Events that `recorder` writes; nothing has been announced yet.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, announced: Announced::default() }
    }
}

/// The problems that were announced: for each uid of a MeshSync and each condition, a hash of reason and message.
///
/// The previous status cannot serve instead: it comes from a cache, which may lag behind the last write.
#[derive(Debug, Default)]
struct Announced(Mutex<HashMap<String, BTreeMap<String, String>>>);

impl Announced {
    /// The conditions among `wrong` that were not announced for this MeshSync. A condition that is missing from `wrong` has
    /// recovered and is announced when it fails again, unless `complete` is false.
    fn news<'a>(&self, uid: &str, wrong: Vec<&'a Condition>, complete: bool) -> Vec<&'a Condition> {
        let mut announced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = announced.remove(uid).unwrap_or_default();
        let mut now = if complete { BTreeMap::new() } else { before.clone() };
        now.extend(wrong.iter().map(|condition| (condition.type_.clone(), digest(condition))));
        let is_news = |condition: &&Condition| before.get(&condition.type_) != now.get(&condition.type_);
        let news = wrong.into_iter().filter(is_news).collect();
        // A healthy MeshSync takes no memory here.
        if !now.is_empty() {
            announced.insert(uid.to_owned(), now);
        }
        news
    }
}

fn digest(condition: &Condition) -> String {
    hash(&(&condition.reason, &condition.message))
}

/// Whether the condition reports a mistake in the spec or in an object that it refers to. A pod that is still starting is
/// no mistake, and failed requests are logged one by one.
fn is_wrong(condition: &Condition) -> bool {
    match condition.type_.as_str() {
        RESOLVED => condition.reason != "Resolved",
        AUTHORIZED => condition.reason == "NotGrantable",
        BROKER_AVAILABLE => ["SecretNotFound", "Unreachable"].contains(&condition.reason.as_str()),
        PUBLISHED => ["ClusterIdShared", "BrokerShared", "AnotherPublishes"].contains(&condition.reason.as_str()),
        _ => false,
    }
}

/// Announces new problems, and children that were written or removed.
pub(super) async fn announce(events: &Events, meshsync: &MeshSync, outcome: &Outcome<'_>, now: &MeshSyncStatus) {
    let wrong = now.conditions.iter().filter(|condition| is_wrong(condition)).collect();
    // After a failed apply, most conditions only repeat the failure.
    let complete = !matches!(outcome, Outcome::Failed(_));
    for condition in events.announced.news(&meshsync.uid().unwrap_or_default(), wrong, complete) {
        let Condition { type_, reason, message, .. } = condition;
        let (namespace, name) = (meshsync.namespace().unwrap_or_default(), meshsync.name_any());
        tracing::warn!(%reason, "MeshSync {namespace}/{name}: {type_}: {message}");
        warn(events, meshsync, &format!("status.conditions{{{type_}}}"), reason, message.clone()).await;
    }
    if let Outcome::Applied(applied) = outcome {
        for (reason, what, children) in
            [("Applied", "applied", &applied.written), ("Removed", "removed", &applied.removed)]
        {
            if let Some(first) = children.first() {
                let message = format!("{what} {}", children.join(", "));
                let about = child_reference(meshsync, first);
                publish(events, meshsync, (EventType::Normal, reason), message, about).await;
            }
        }
    }
}

/// Writes a warning about a field of `meshsync`.
pub(super) async fn warn(events: &Events, meshsync: &MeshSync, field: &str, reason: &str, note: String) {
    let about = field_reference(meshsync, field, &note);
    publish(events, meshsync, (EventType::Warning, reason), note, about).await;
}

/// A reference to the child `Kind name`. Events with different references are not counted as repetitions of the first.
fn child_reference(meshsync: &MeshSync, child: &str) -> ObjectReference {
    let (kind, name) = child.split_once(' ').unwrap_or((child, ""));
    ObjectReference {
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: meshsync.namespace(),
        ..ObjectReference::default()
    }
}

/// A reference to a field, made unique by a hash of the note: otherwise an event with the same reason and another note would
/// count as a repetition of the first, and keep the first note.
fn field_reference(meshsync: &MeshSync, field: &str, note: &str) -> ObjectReference {
    ObjectReference { field_path: Some(format!("{field}#{}", hash(&note))), ..meshsync.object_ref(&()) }
}

async fn publish(
    events: &Events,
    meshsync: &MeshSync,
    (type_, reason): (EventType, &str),
    note: String,
    about: ObjectReference,
) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(cut(note)),
        action: "Reconcile".to_owned(),
        secondary: Some(about),
    };
    if let Err(error) = events.recorder.publish(&event, &meshsync.object_ref(&())).await {
        tracing::warn!(%error, reason, "cannot write an event");
    }
}

/// Shortens a note that the API would refuse.
fn cut(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let fits = (0..=MAX_NOTE - ELLIPSIS.len()).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(fits.unwrap_or_default());
        note.push_str(ELLIPSIS);
    }
    note
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::super::fixtures::dereferenced;
    use super::*;

    fn condition(type_: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn problem_is_announced_once_and_again_after_a_change_or_recovery() {
        let announced = Announced::default();
        let a = condition(RESOLVED, "NothingSelected", "the first cause");
        let b = condition(RESOLVED, "NothingSelected", "the second cause");
        let c = condition(AUTHORIZED, "NotGrantable", "pods");
        let round = |uid: &str, wrong: &[&Condition], complete: bool| -> Vec<String> {
            announced
                .news(uid, wrong.to_vec(), complete)
                .into_iter()
                .map(|condition| condition.message.clone())
                .collect()
        };
        let nothing = Vec::<String>::new();
        assert_eq!(round("one", &[&a], true), ["the first cause"]);
        assert_eq!(round("one", &[&a, &c], true), ["pods"]);
        assert_eq!(round("two", &[&a], true), ["the first cause"], "another MeshSync");
        assert_eq!(round("one", &[&b, &c], true), ["the second cause"]);
        assert_eq!(round("one", &[&b], false), nothing);
        assert_eq!(round("one", &[&b, &c], true), nothing, "apply failed, so the problem had not recovered");
        assert_eq!(round("one", &[], true), nothing);
        assert_eq!(round("one", &[&c], true), ["pods"], "it had recovered");
        assert_eq!(round("two", &[], true), nothing);
        assert_eq!(announced.0.lock().unwrap().len(), 1, "a healthy MeshSync is kept");
    }

    #[test]
    fn mistakes_are_distinguished_from_slow_starts() {
        for (type_, reason, wrong) in [
            (RESOLVED, "Resolved", false),
            (RESOLVED, "UnknownType", true),
            (RESOLVED, "InvalidTypePattern", true),
            (AUTHORIZED, "Granted", false),
            (AUTHORIZED, "NotGrantable", true),
            (AUTHORIZED, "Conflict", false),
            (BROKER_AVAILABLE, "Starting", false),
            (BROKER_AVAILABLE, "SecretNotFound", true),
            (BROKER_AVAILABLE, "Unreachable", true),
            // Told of one condition, although all have it.
            (BROKER_AVAILABLE, "ClusterIdShared", false),
            (PUBLISHED, "ClusterIdShared", true),
            (PUBLISHED, "Synchronizing", false),
            (meshsync_crds::conditions::READY, "NotGrantable", false),
        ] {
            assert_eq!(is_wrong(&condition(type_, reason, "")), wrong, "{type_} {reason}");
        }
    }

    #[test]
    fn references_differ_when_notes_differ() {
        let meshsync = dereferenced(json!({}), &[]).meshsync;
        let about = |note: &str| field_reference(&meshsync, "status.conditions{Resolved}", note);
        assert_eq!(about("one"), about("one"));
        assert_ne!(about("one"), about("two"));
        assert_eq!(about("one").name.as_deref(), Some("ms"));
    }

    #[test]
    fn note_is_cut_by_bytes_and_between_characters() {
        assert_eq!(cut("ä".repeat(512)), "ä".repeat(512));
        let long = cut(format!("a{}", "ä".repeat(600)));
        assert!(long.len() == 1024 && long.ends_with("ä…"), "{} bytes", long.len());
        assert_eq!(cut("ä".repeat(600)).len(), 1023, "510 characters and the ellipsis");
    }
}
