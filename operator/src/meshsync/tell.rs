//! Tells people what is news: by events, and in the log what is wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use meshsync_crds::conditions::{AUTHORIZED, BROKER_AVAILABLE, RESOLVED};
use meshsync_crds::{MeshSync, MeshSyncStatus};

use super::controller::Context;
use super::status::Outcome;
use super::validate::hash;

/// What the API takes of an event's note, in bytes.
const MAX_NOTE: usize = 1024;
/// Ends a note that was cut.
const ELLIPSIS: &str = "…";

/// What was told of MeshSyncs with which something is wrong: by uid and condition, a hash of what the condition said.
///
/// The status of before would not do: it comes from a cache, which may be behind what was written a moment ago.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<String, BTreeMap<String, String>>>);

impl Told {
    /// Those of `wrong` that were not told of this MeshSync. What is not in it any more is news when it comes again, unless
    /// `wrong` is not `complete`.
    fn news<'a>(&self, uid: &str, wrong: Vec<&'a Condition>, complete: bool) -> Vec<&'a Condition> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.remove(uid).unwrap_or_default();
        let mut now = if complete { BTreeMap::new() } else { before.clone() };
        now.extend(wrong.iter().map(|condition| (condition.type_.clone(), said(condition))));
        let is_news = |condition: &&Condition| before.get(&condition.type_) != now.get(&condition.type_);
        let news = wrong.into_iter().filter(is_news).collect();
        // Of a MeshSync with which all is well nothing is kept.
        if !now.is_empty() {
            told.insert(uid.to_owned(), now);
        }
        news
    }
}

fn said(condition: &Condition) -> String {
    hash(&(&condition.reason, &condition.message))
}

/// Whether something is wrong with what was asked for or what it refers to. What only takes its time, such as the start of
/// a pod, is not; and of failed requests the log has each.
fn is_wrong(condition: &Condition) -> bool {
    match condition.type_.as_str() {
        RESOLVED => condition.reason != "Resolved",
        AUTHORIZED => condition.reason == "NotGrantable",
        BROKER_AVAILABLE => ["SecretNotFound", "Unreachable"].contains(&condition.reason.as_str()),
        _ => false,
    }
}

/// Tells what a person would want to hear about once.
pub(super) async fn tell(context: &Context, meshsync: &MeshSync, outcome: &Outcome<'_>, now: &MeshSyncStatus) {
    let wrong = now.conditions.iter().filter(|condition| is_wrong(condition)).collect();
    // Where applying failed, most conditions say only that.
    let complete = !matches!(outcome, Outcome::Failed(_));
    for condition in context.told.news(&meshsync.uid().unwrap_or_default(), wrong, complete) {
        let Condition { type_, reason, message, .. } = condition;
        let (namespace, name) = (meshsync.namespace().unwrap_or_default(), meshsync.name_any());
        tracing::warn!(%reason, "MeshSync {namespace}/{name}: {type_}: {message}");
        warn(context, meshsync, &format!("status.conditions{{{type_}}}"), reason, message.clone()).await;
    }
    if let Outcome::Applied(applied) = outcome {
        for (reason, what, children) in
            [("Applied", "applied", &applied.written), ("Removed", "removed", &applied.removed)]
        {
            if let Some(first) = children.first() {
                let message = format!("{what} {}", children.join(", "));
                let about = child_reference(meshsync, first);
                publish(context, meshsync, (EventType::Normal, reason), message, about).await;
            }
        }
    }
}

/// Writes a warning about a field of `meshsync`.
pub(super) async fn warn(context: &Context, meshsync: &MeshSync, field: &str, reason: &str, note: String) {
    let about = field_reference(meshsync, field, &note);
    publish(context, meshsync, (EventType::Warning, reason), note, about).await;
}

/// `Kind name` as a reference: events that differ in it are not counted as repetitions of the first.
fn child_reference(meshsync: &MeshSync, child: &str) -> ObjectReference {
    let (kind, name) = child.split_once(' ').unwrap_or((child, ""));
    ObjectReference {
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: meshsync.namespace(),
        ..ObjectReference::default()
    }
}

/// A field, and what is said of it: without the latter, another note for the same reason would be counted as a repetition
/// of the first, whose note stays.
fn field_reference(meshsync: &MeshSync, field: &str, note: &str) -> ObjectReference {
    ObjectReference { field_path: Some(format!("{field}#{}", hash(&note))), ..meshsync.object_ref(&()) }
}

async fn publish(
    context: &Context,
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
    if let Err(error) = context.recorder.publish(&event, &meshsync.object_ref(&())).await {
        tracing::warn!(%error, reason, "cannot write an event");
    }
}

/// The API refuses an event whose note is longer.
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
    fn what_is_wrong_is_told_once_and_again_when_it_changed_or_was_gone() {
        let told = Told::default();
        let a = condition(RESOLVED, "NothingSelected", "the first cause");
        let b = condition(RESOLVED, "NothingSelected", "the second cause");
        let c = condition(AUTHORIZED, "NotGrantable", "pods");
        let round = |uid: &str, wrong: &[&Condition], complete: bool| -> Vec<String> {
            told.news(uid, wrong.to_vec(), complete).into_iter().map(|condition| condition.message.clone()).collect()
        };
        let nothing = Vec::<String>::new();
        assert_eq!(round("one", &[&a], true), ["the first cause"]);
        assert_eq!(round("one", &[&a, &c], true), ["pods"]);
        assert_eq!(round("two", &[&a], true), ["the first cause"], "another MeshSync");
        assert_eq!(round("one", &[&b, &c], true), ["the second cause"]);
        assert_eq!(round("one", &[&b], false), nothing);
        assert_eq!(round("one", &[&b, &c], true), nothing, "it was not gone: applying had failed");
        assert_eq!(round("one", &[], true), nothing);
        assert_eq!(round("one", &[&c], true), ["pods"], "it was gone");
        assert_eq!(round("two", &[], true), nothing);
        assert_eq!(told.0.lock().unwrap().len(), 1, "kept of a MeshSync with which all is well");
    }

    #[test]
    fn what_is_wrong_is_told_apart_from_what_takes_its_time() {
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
            (meshsync_crds::conditions::READY, "NotGrantable", false),
        ] {
            assert_eq!(is_wrong(&condition(type_, reason, "")), wrong, "{type_} {reason}");
        }
    }

    #[test]
    fn another_note_is_about_something_else_and_the_same_one_is_not() {
        let meshsync = dereferenced(json!({}), &[]).meshsync;
        let about = |note: &str| field_reference(&meshsync, "status.conditions{Resolved}", note);
        assert_eq!(about("one"), about("one"));
        assert_ne!(about("one"), about("two"));
        assert_eq!(about("one").name.as_deref(), Some("ms"));
    }

    #[test]
    fn a_note_is_cut_by_bytes_between_characters() {
        assert_eq!(cut("ä".repeat(512)), "ä".repeat(512));
        let long = cut(format!("a{}", "ä".repeat(600)));
        assert!(long.len() == 1024 && long.ends_with("ä…"), "{} bytes", long.len());
        assert_eq!(cut("ä".repeat(600)).len(), 1023, "510 characters and the ellipsis");
    }
}
