//! When a type that discovery does not name any more is believed gone. Pure: time and answers come from outside.
//!
//! An answer that lacks a type proves little: after a `kill -9` of an API server its first answer named 21 of 223 groups
//! and no custom resource, none of them stale; one of several servers may not have heard of a new type yet; a new version
//! that comes to be preferred may go again. So leaving is a state: a type, or the version of it that was preferred, stays
//! as it was until every answer of a server that is ready has lacked it for [`LEAVES_AFTER`].

use std::collections::BTreeMap;
use std::time::Duration;

use meshsync_crds::discovery::ServedType;
use tokio::time::Instant;

use super::Discovered;

/// How long a type is missed before it is gone.
pub const LEAVES_AFTER: Duration = Duration::from_secs(30);
/// The same where nobody says whether the server is ready.
pub const LEAVES_AFTER_IN_DOUBT: Duration = Duration::from_secs(90);

/// What the API server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// It is ready, so what it says is complete.
    Ready,
    /// It starts or stops: what it does not name may be there all the same.
    NotReady,
    /// It may not be asked.
    Unknown,
}

type Key = (String, String, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Leaving {
    /// What the server said last.
    found: Discovered,
    /// What is taken to be served.
    current: Option<Discovered>,
    /// Since when types, or their being preferred, are missed; none where the next answer begins.
    since: BTreeMap<Key, Option<Instant>>,
    /// Since when the server answers; none until it did, or while it is not ready.
    answers_since: Option<Instant>,
    /// Whether it has answered for long enough for what it never named to be no more.
    is_settled: bool,
}

impl Leaving {
    /// What is taken to be served; none before the first answer.
    #[must_use]
    pub fn current(&self) -> Option<&Discovered> {
        self.current.as_ref()
    }

    /// Whether a type that is not in [`Leaving::current`] may be taken for gone, although it was never seen by this
    /// process.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether the server has to be asked if it is ready.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.is_settled || !self.since.is_empty()
    }

    /// Takes in an answer, or that it is the last one still; gives whether anything is different from before.
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

    /// The server did not answer, or is not ready: what it lacks afterwards is missed from then on.
    pub fn broke_off(&mut self) {
        self.answers_since = None;
        self.since.values_mut().for_each(|since| *since = None);
    }
}

/// Adds to `now` what is missed but not gone, and leaves preferred what is; gives their keys.
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
        ServedType {
            group: "a.io".into(),
            version: version.into(),
            preferred,
            kind: "K".into(),
            plural: plural.into(),
            singular: String::new(),
            short_names: vec![],
            categories: vec![],
            namespaced: true,
            verbs: vec![],
        }
    }

    fn found(types: &[ServedType]) -> Option<Discovered> {
        Some(Discovered { types: types.to_vec(), ..Discovered::default() })
    }

    /// What is taken to be served, the preferred ones with a star.
    fn served(leaving: &Leaving) -> Vec<String> {
        let name = |t: &ServedType| format!("{}/{}{}", t.plural, t.version, if t.preferred { "*" } else { "" });
        leaving.current().unwrap().types.iter().map(name).collect()
    }

    /// A script of seconds, answers and what the server says of itself, with what is served after each.
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
    fn a_type_that_is_missing_for_half_a_minute_is_gone() {
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
    fn the_first_answer_of_a_server_that_starts_deletes_nothing() {
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
    fn an_outage_between_two_answers_does_not_count_as_missing() {
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
    fn another_version_is_preferred_once_it_has_been_for_half_a_minute() {
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
    fn what_was_never_named_is_gone_once_a_ready_server_has_answered_for_half_a_minute() {
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
