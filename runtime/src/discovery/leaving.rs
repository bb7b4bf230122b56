//! Decides when a type that discovery no longer lists counts as removed. Pure: time and answers are arguments.
//!
//! An answer without a type proves little. After a `kill -9` of an API server, its first answer listed 21 of 223 groups
//! and no custom resource, and marked none as stale. One of several servers may not know a new type yet. A newly
//! preferred version may disappear again. So leaving is a state: a type, or its preferred version, stays until every
//! answer of a ready server has lacked it for [`LEAVES_AFTER`].

use std::collections::BTreeMap;
use std::time::Duration;

use meshsync_crds::discovery::ServedType;
use tokio::time::Instant;

use super::Discovered;

/// How long a type must be missing before it counts as removed.
pub const LEAVES_AFTER: Duration = Duration::from_secs(30);
/// The same if the server's readiness is unknown.
pub const LEAVES_AFTER_IN_DOUBT: Duration = Duration::from_secs(90);

/// Readiness of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Ready, so that its discovery is complete.
    Ready,
    /// Starting or stopping: types that it does not list may exist.
    NotReady,
    /// Unknown: the account may not ask, or the server has no `/readyz`.
    Unknown,
}

type Key = (String, String, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Leaving {
    /// The server's last answer.
    found: Discovered,
    /// The types that count as served.
    current: Option<Discovered>,
    /// Since when types or preferred versions are missing; `None` until the next answer.
    since: BTreeMap<Key, Option<Instant>>,
    /// Since when the server has answered; `None` before its first answer and while it is not ready.
    answers_since: Option<Instant>,
    /// Whether it has answered for long enough to conclude that a type that it never listed does not exist.
    is_settled: bool,
}

impl Leaving {
    /// The types that count as served; `None` before the first answer.
    #[must_use]
    pub fn current(&self) -> Option<&Discovered> {
        self.current.as_ref()
    }

    /// Whether a type that is not in [`Leaving::current`] counts as removed even if this process has never seen it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether the next step depends on the server's readiness.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.is_settled || !self.since.is_empty()
    }

    /// Processes an answer, or the fact that the last answer still holds. Returns whether [`Leaving::current`] changed.
    pub fn answered(&mut self, now: Instant, found: Option<Discovered>, server: Server) -> bool {
        if let Some(found) = found {
            self.found = found;
        }
        let wait = match server {
            Server::Ready => LEAVES_AFTER,
            Server::Unknown => LEAVES_AFTER_IN_DOUBT,
            Server::NotReady => Duration::MAX,
        };
        let is_over = |since: Instant| now.duration_since(since) >= wait;
        let answers_since = *self.answers_since.get_or_insert(now);
        let is_settled = self.is_settled || is_over(answers_since);
        let next = match &self.current {
            None => self.found.clone(),
            Some(before) => {
                let kept = self.found.clone().keeping(before);
                let (kept, missed) = miss(kept, before, &self.since, is_over);
                let begun = |key: Key| {
                    let since = self.since.get(&key).copied().flatten();
                    (key, Some(since.unwrap_or(now)))
                };
                self.since = missed.into_iter().map(begun).collect();
                kept
            }
        };
        let differs = self.current.as_ref() != Some(&next) || self.is_settled != is_settled;
        (self.current, self.is_settled) = (Some(next), is_settled);
        if server == Server::NotReady {
            self.broke_off();
        }
        differs
    }

    /// Notes that the server did not answer or is not ready. What the next answer lacks counts as missing only from
    /// then on.
    pub fn broke_off(&mut self) {
        self.answers_since = None;
        self.since.values_mut().for_each(|since| *since = None);
    }
}

/// Adds to `now` the types that are missing but not removed, keeps their versions preferred, and returns their keys.
fn miss(
    mut now: Discovered,
    before: &Discovered,
    since: &BTreeMap<Key, Option<Instant>>,
    is_over: impl Fn(Instant) -> bool,
) -> (Discovered, Vec<Key>) {
    let mut missed = Vec::new();
    for known in &before.types {
        let at = now.types.iter().position(|t| key(t) == key(known));
        let is_as_before = at.and_then(|at| now.types.get(at)).is_some_and(|t| t.preferred || !known.preferred);
        if is_as_before || since.get(&key(known)).copied().flatten().is_some_and(&is_over) {
            continue;
        }
        missed.push(key(known));
        if known.preferred {
            let of_it = |t: &&mut ServedType| (&t.group, &t.plural) == (&known.group, &known.plural);
            now.types.iter_mut().filter(of_it).for_each(|t| t.preferred = key(t) == key(known));
        }
        if at.is_none() {
            now.types.push(known.clone());
        }
    }
    (now, missed)
}

fn key(t: &ServedType) -> Key {
    (t.group.clone(), t.version.clone(), t.plural.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(version: &str, plural: &str, preferred: bool) -> ServedType {
        ServedType { preferred, ..ServedType::named("a.io", version, "K", plural) }
    }

    fn found(types: &[ServedType]) -> Option<Discovered> {
        Some(Discovered { types: types.to_vec(), ..Discovered::default() })
    }

    /// The types that count as served, with a star for preferred versions.
    fn served(leaving: &Leaving) -> Vec<String> {
        let name = |t: &ServedType| format!("{}/{}{}", t.plural, t.version, if t.preferred { "*" } else { "" });
        leaving.current().unwrap().types.iter().map(name).collect()
    }

    /// Runs a script of seconds, answers and readiness, with the types that count as served after each step.
    fn play(script: &[(u64, Option<Discovered>, Server, &[&str])]) -> Leaving {
        let (mut leaving, began) = (Leaving::default(), Instant::now());
        for (at, answer, server, expected) in script {
            let (before, settled) = (leaving.current().cloned(), leaving.is_settled());
            let differs = leaving.answered(began + Duration::from_secs(*at), answer.clone(), *server);
            assert_eq!(served(&leaving), *expected, "after {at} s");
            assert_eq!(differs, before.as_ref() != leaving.current() || settled != leaving.is_settled(), "at {at} s");
        }
        leaving
    }

    #[test]
    fn type_missing_for_half_a_minute_is_removed() {
        let (both, one) = (found(&[t("v1", "as", true), t("v1", "bs", true)]), found(&[t("v1", "as", true)]));
        let leaving = play(&[
            (0, both.clone(), Server::Ready, &["as/v1*", "bs/v1*"]),
            (100, one, Server::Ready, &["as/v1*", "bs/v1*"]),
            (129, None, Server::Ready, &["as/v1*", "bs/v1*"]),
            (130, None, Server::Ready, &["as/v1*"]),
            (132, both, Server::Ready, &["as/v1*", "bs/v1*"]),
        ]);
        assert!(!leaving.is_in_doubt());
    }

    #[test]
    fn first_answer_of_a_starting_server_removes_nothing() {
        let (all, few) = (found(&[t("v1", "as", true), t("v1", "bs", true)]), found(&[t("v1", "as", true)]));
        let all_of_them: &[&str] = &["as/v1*", "bs/v1*"];
        play(&[
            (0, all.clone(), Server::Ready, all_of_them),
            (100, few.clone(), Server::NotReady, all_of_them),
            (200, None, Server::NotReady, all_of_them),
            (202, None, Server::Ready, all_of_them),
            (231, None, Server::Ready, all_of_them),
            (231, all, Server::Ready, all_of_them),
            (300, few, Server::Unknown, all_of_them),
            (389, None, Server::Unknown, all_of_them),
            (390, None, Server::Unknown, &["as/v1*"]),
        ]);
    }

    #[test]
    fn outage_between_two_answers_does_not_count_as_missing() {
        let (both, one) = (found(&[t("v1", "as", true), t("v1", "bs", true)]), found(&[t("v1", "as", true)]));
        let mut leaving =
            play(&[(0, both, Server::Ready, &["as/v1*", "bs/v1*"]), (10, one, Server::Ready, &["as/v1*", "bs/v1*"])]);
        let later = Instant::now() + Duration::from_secs(600);
        leaving.broke_off();
        leaving.answered(later, None, Server::Ready);
        assert_eq!(served(&leaving).len(), 2);
        leaving.answered(later + LEAVES_AFTER, None, Server::Ready);
        assert_eq!(served(&leaving).len(), 1);
    }

    #[test]
    fn version_becomes_preferred_after_half_a_minute() {
        let before = found(&[t("v1", "as", true)]);
        let flip = found(&[t("v2", "as", true), t("v1", "as", false)]);
        let replaced = found(&[t("v2", "as", true)]);
        play(&[
            (0, before.clone(), Server::Ready, &["as/v1*"]),
            (100, flip.clone(), Server::Ready, &["as/v2", "as/v1*"]),
            (110, before, Server::Ready, &["as/v1*", "as/v2"]),
            (140, flip, Server::Ready, &["as/v2", "as/v1*"]),
            (170, None, Server::Ready, &["as/v2*", "as/v1"]),
            (180, replaced, Server::Ready, &["as/v2*", "as/v1"]),
            (210, None, Server::Ready, &["as/v2*"]),
        ]);
    }

    #[test]
    fn unlisted_type_is_removed_after_half_a_minute_of_answers_of_a_ready_server() {
        let one = found(&[t("v1", "as", true)]);
        let settled = |server, at: u64| {
            let (mut leaving, began) = (Leaving::default(), Instant::now());
            leaving.answered(began, one.clone(), server);
            leaving.answered(began + Duration::from_secs(at), None, server);
            leaving.is_settled()
        };
        assert!(!settled(Server::Ready, 29) && settled(Server::Ready, 30));
        assert!(!settled(Server::Unknown, 89) && settled(Server::Unknown, 90));
        assert!(!settled(Server::NotReady, 3_600));
    }
}
