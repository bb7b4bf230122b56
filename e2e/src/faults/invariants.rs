//! The checker of the invariants. It compares the writes to the API server with the messages of the stream. Pure, so
//! that tests can show that it finds violations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;

use crate::churn::Write;
use crate::stream::{Entry, Told};

/// The checker's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Violations: the invariant and the place.
    pub broken: Vec<String>,
    /// Messages that were compared with earlier ones about the same object.
    pub ordered: u64,
    /// Writes that were compared with a checkpoint after them.
    pub covered: u64,
    /// Writes for which the checker cannot know whether the stream had them at a checkpoint, because a message was
    /// replaced before the checker read it.
    pub unknown: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broken, ordered, covered, unknown } = self;
        writeln!(f, "{} broken; {ordered} in order, {covered} covered, {unknown} unknown", broken.len())?;
        broken.iter().take(20).try_for_each(|what| writeln!(f, "  {what}"))
    }
}

impl Verdict {
    /// Adds another result.
    pub fn extend(&mut self, other: Self) {
        let Self { broken, ordered, covered, unknown } = other;
        self.broken.extend(broken);
        self.ordered += ordered;
        self.covered += covered;
        self.unknown += unknown;
    }
}

/// The last message about one incarnation of an object.
#[derive(Clone, Copy, Debug)]
struct Heard {
    version: u64,
    deleted: bool,
    /// Place of the message.
    place: u64,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, deleted, place } = self;
        write!(f, "{} at {version} (#{place})", if *deleted { "deleted" } else { "told" })
    }
}

#[derive(Debug, Default)]
struct Order<K> {
    heard: HashMap<K, Heard>,
    verdict: Verdict,
}

impl<K: fmt::Debug + Eq + std::hash::Hash> Order<K> {
    /// I2: a resourceVersion never decreases. I3: a deleted object stays deleted.
    fn hear(&mut self, key: K, now: Heard) {
        if let Some(before) = self.heard.get(&key) {
            self.verdict.ordered += 1;
            if now.version < before.version {
                self.verdict.broken.push(format!("I2: {key:?} went back: {before}, then {now}"));
            }
            if before.deleted && !now.deleted {
                self.verdict.broken.push(format!("I3: {key:?} came back: {before}, then {now}"));
            }
        }
        self.heard.insert(key, now);
    }
}

/// I2 and I3 in the stream.
#[must_use]
pub fn order_stored(entries: &[Entry]) -> Verdict {
    let mut order = Order::default();
    for Entry { epoch, subject, told, sequence } in entries {
        if let Told::State { uid, version, deleted } = told {
            let now = Heard { version: *version, deleted: *deleted, place: *sequence };
            order.hear((*epoch, subject.as_str(), uid.as_str()), now);
        }
    }
    order.verdict
}

/// I2 and I3 on the core subject, by the payloads of its messages.
#[must_use]
pub fn order_published(payloads: &[Bytes]) -> Verdict {
    let mut order = Order::default();
    for (place, payload) in (0..).zip(payloads) {
        let Ok(Published { event_type, object }) = serde_json::from_slice(payload) else {
            order.verdict.broken.push(format!("not a message: {}", String::from_utf8_lossy(payload)));
            continue;
        };
        let VersionMetadata { uid, resource_version } = object.metadata;
        let key = (object.api_version, object.kind, uid);
        let version = resource_version.parse().unwrap_or_default();
        order.hear(key, Heard { version, deleted: event_type == "DELETED", place });
    }
    order.verdict
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    event_type: String,
    object: ObjectVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectVersion {
    api_version: String,
    kind: String,
    metadata: VersionMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionMetadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
}

/// I4: when a checkpoint was stored, so was every write up to it, or a later state of the same object.
///
/// `writes` are all of one type and one namespace in their order; `prefix` is what the subjects of that type in that
/// namespace begin with, the dot at the end included; `checkpoint` is the subject of its checkpoints.
#[must_use]
pub fn checkpoints(writes: &[Write], entries: &[Entry], prefix: &str, checkpoint: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let bounds = bounds(writes);
    let told: HashSet<&str> = entries.iter().filter_map(|entry| state(entry).map(|(uid, ..)| uid)).collect();
    let epochs: BTreeSet<u64> = entries.iter().map(|entry| entry.epoch).collect();
    for epoch in epochs {
        let entries: Vec<&Entry> = entries.iter().filter(|entry| entry.epoch == epoch).collect();
        let mut now: BTreeMap<&str, &Entry> = BTreeMap::new();
        let mut gap = 0;
        let mut last = 0;
        for (place, entry) in entries.iter().enumerate() {
            if entry.sequence > last + 1 {
                gap = entry.sequence - 1;
            }
            last = entry.sequence;
            if let Some(name) = entry.subject.strip_prefix(prefix) {
                now.insert(name, entry);
            }
            let Told::Checkpoint(position) = entry.told else { continue };
            if entry.subject != checkpoint {
                continue;
            }
            for (write, bound) in writes.iter().zip(&bounds).filter(|(_, bound)| bound.is_some_and(|b| b <= position)) {
                let found = now.get(write.name.as_str()).copied();
                // Created and deleted before the agent could publish it.
                if !told.contains(write.uid.as_str()) {
                    continue;
                }
                if found.is_some_and(|entry| covers(entry, write)) {
                    verdict.covered += 1;
                } else if gap > 0 && is_replaced_later(&entries, place, &write.name, prefix) {
                    verdict.unknown += 1;
                } else {
                    let (uid, found) = (&write.uid, found.map(|entry| &entry.told));
                    let what = format!("{} {uid} at {bound:?}, in the stream: {found:?}", write.name);
                    verdict
                        .broken
                        .push(format!("I4: the checkpoint {position} (#{}) is ahead of {what}", entry.sequence));
                }
            }
        }
    }
    verdict
}

/// The version of each write. A delete has the version of the next other write, which is the first that is known to be
/// later.
fn bounds(writes: &[Write]) -> Vec<Option<u64>> {
    let mut later = None;
    let mut bounds: Vec<Option<u64>> = writes
        .iter()
        .rev()
        .map(|write| {
            later = write.version.or(later);
            later
        })
        .collect();
    bounds.reverse();
    bounds
}

fn state(entry: &Entry) -> Option<(&str, u64, bool)> {
    match &entry.told {
        Told::State { uid, version, deleted } => Some((uid, *version, *deleted)),
        Told::Checkpoint(_) => None,
    }
}

/// Whether a message on the object's subject has the state after `write`, or a later state.
fn covers(entry: &Entry, write: &Write) -> bool {
    let Some((uid, version, deleted)) = state(entry) else { return false };
    // A deleted uid does not return. The version of an unobserved delete is unknown, so its message has the version of
    // the last stored state.
    let is_gone = deleted && uid == write.uid;
    match write.version {
        Some(written) => version >= written || is_gone,
        // Another incarnation can have the name only after this incarnation was deleted.
        None => is_gone || uid != write.uid,
    }
}

fn is_replaced_later(entries: &[&Entry], place: usize, name: &str, prefix: &str) -> bool {
    entries.iter().skip(place).any(|entry| entry.subject.strip_prefix(prefix) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "s.configmaps.shop.";
    const CHECKPOINT: &str = "c.configmaps";

    fn write(name: &str, uid: &str, version: impl Into<Option<u64>>) -> Write {
        Write { uid: uid.into(), name: name.into(), version: version.into() }
    }

    fn stored(sequence: u64, name: &str, uid: &str, version: u64) -> Entry {
        let told = Told::State { uid: uid.into(), version, deleted: false };
        Entry { epoch: 1, sequence, subject: format!("{PREFIX}{name}"), told }
    }

    fn deleted(sequence: u64, name: &str, uid: &str, version: u64) -> Entry {
        let told = Told::State { uid: uid.into(), version, deleted: true };
        Entry { told, ..stored(sequence, name, uid, version) }
    }

    fn position(sequence: u64, version: u64) -> Entry {
        Entry { epoch: 1, sequence, subject: CHECKPOINT.into(), told: Told::Checkpoint(version) }
    }

    fn check(writes: &[Write], entries: &[Entry]) -> Verdict {
        checkpoints(writes, entries, PREFIX, CHECKPOINT)
    }

    #[test]
    fn checker_finds_old_versions_and_returning_objects() {
        let good = [stored(1, "a", "u", 5), stored(2, "a", "u", 6), deleted(3, "a", "u", 7), stored(4, "a", "v", 8)];
        assert_eq!(order_stored(&good), Verdict { ordered: 2, ..Verdict::default() });
        assert_eq!(order_stored(&[stored(1, "a", "u", 6), stored(2, "a", "u", 5)]).broken.len(), 1);
        assert_eq!(order_stored(&[deleted(1, "a", "u", 6), stored(2, "a", "u", 6)]).broken.len(), 1);
        let anew = Entry { epoch: 2, ..stored(1, "a", "u", 5) };
        assert!(order_stored(&[stored(1, "a", "u", 6), anew]).broken.is_empty(), "a new stream is a new history");
    }

    #[test]
    fn checker_reads_core_messages_from_their_payloads() {
        let message = |event: &str, version: u64| {
            let metadata = serde_json::json!({"uid": "u", "resourceVersion": version.to_string()});
            let object = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
            Bytes::from(serde_json::json!({"EventType": event, "Object": object}).to_string())
        };
        let good = [message("ADDED", 5), message("MODIFIED", 6), message("MODIFIED", 6), message("DELETED", 7)];
        assert_eq!(order_published(&good), Verdict { ordered: 3, ..Verdict::default() });
        assert_eq!(order_published(&[message("ADDED", 6), message("MODIFIED", 5)]).broken.len(), 1);
        assert_eq!(order_published(&[Bytes::from_static(b"{}")]).broken.len(), 1);
    }

    #[test]
    fn checker_finds_a_checkpoint_ahead_of_the_stream() {
        let writes = [write("a", "u", 5), write("b", "v", 6), write("a", "u", 7)];
        let good =
            [stored(1, "a", "u", 5), position(2, 5), stored(3, "b", "v", 6), stored(4, "a", "u", 7), position(5, 7)];
        assert_eq!(check(&writes, &good), Verdict { covered: 4, ..Verdict::default() });
        let ahead = [stored(1, "a", "u", 5), position(2, 6), stored(3, "b", "v", 6)];
        assert_eq!(check(&writes, &ahead).broken.len(), 1);
        let old = [stored(1, "a", "u", 5), stored(2, "b", "v", 6), position(3, 7)];
        assert_eq!(check(&writes, &old).broken.len(), 1, "an older state of the object is not enough");
    }

    #[test]
    fn checker_finds_an_unpublished_delete() {
        let writes = [write("a", "u", 5), write("a", "u", None), write("b", "v", 9)];
        let good = [stored(1, "a", "u", 5), deleted(2, "a", "u", 7), stored(3, "b", "v", 9), position(4, 9)];
        assert_eq!(check(&writes, &good), Verdict { covered: 3, ..Verdict::default() });
        let ghost = [stored(1, "a", "u", 5), stored(2, "b", "v", 9), position(3, 9)];
        assert_eq!(check(&writes, &ghost).broken.len(), 1);
        let again = [stored(1, "a", "u", 5), stored(2, "a", "w", 8), stored(3, "b", "v", 9), position(4, 9)];
        assert!(check(&writes, &again).broken.is_empty(), "the next incarnation says so, too");
        let late = [stored(1, "a", "u", 4), deleted(2, "a", "u", 4), stored(3, "b", "v", 9), position(4, 9)];
        assert!(check(&writes, &late).broken.is_empty(), "found by its absence");
        let unseen = [stored(1, "b", "v", 9), position(2, 9)];
        assert!(check(&writes, &unseen).broken.is_empty(), "no message reported it");
    }

    #[test]
    fn checker_accepts_messages_replaced_before_it_read_them() {
        let writes = [write("a", "u", 5)];
        let unread = [position(2, 5), stored(3, "a", "u", 6)];
        assert_eq!(check(&writes, &unread), Verdict { unknown: 1, ..Verdict::default() });
        let complete = [position(1, 5), stored(2, "a", "u", 6)];
        assert_eq!(check(&writes, &complete).broken.len(), 1);
    }
}
