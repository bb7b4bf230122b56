//! What every type's loop is doing, for people, probes, metrics and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::scope::Scope;

/// How long a type may fail before it is told: a connection that is made again is no news.
const FAILING_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// How long a watch must have been open to have worked.
const HEALTHY_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Where the loop of one type stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Its first list is not complete.
    #[default]
    Pending,
    /// Listed and watched.
    Live,
    /// It was live; the connection is being made again.
    Behind,
    /// The API server refuses it.
    Refused,
    /// The API server does not know it any more.
    Gone,
}

/// What is known about the loop of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeReport {
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Lists begun.
    pub lists: u64,
    /// Watches opened. Grows only for types whose watch really was opened again.
    pub watch_opens: u64,
    /// Events received.
    pub events: u64,
    /// Failures of any kind.
    pub failures: u64,
    /// Objects that could not be read and are not in the snapshot.
    pub unreadable: u64,
    /// Bytes received.
    pub bytes: u64,
    /// The last failure; empty while all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// What kind of failure that is, in PascalCase; empty while all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// Since when nothing works; none while something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// That of the failure before, which holds again if what worked since did not work for long.
    #[serde(skip)]
    pub failed_since: Option<Timestamp>,
    /// Where it is listed and watched because it may not be in all namespaces; none where it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<Narrowed>,
}

/// What is known about a type that is listed and watched in some namespaces, because it may not be in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Narrowed {
    /// Since when.
    pub since: Timestamp,
    /// What the server says of all namespaces.
    pub refusal: String,
    /// The namespaces in which that is tried.
    pub namespaces: BTreeMap<String, NamespaceReport>,
}

/// What is known about the part of a type that is in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceReport {
    /// Where it stands.
    pub phase: Phase,
    /// Whether its first list is complete.
    #[serde(skip)]
    pub is_listed: bool,
    /// The last failure; empty while all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

impl TypeReport {
    /// Whether the type has been failing for longer than connections take to be made again.
    #[must_use]
    pub fn is_failing(&self, now: Timestamp) -> bool {
        self.failing_since.is_some_and(|since| now.duration_since(since) >= FAILING_AFTER)
    }

    /// In how much of the cluster it is watched.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let readable = self.narrowed.as_ref().map(|narrowed| narrowed.names(false)).unwrap_or_default();
        if readable.is_empty() { Scope::Cluster } else { Scope::Namespaces(readable) }
    }

    /// The phase as far as it is worth telling: a watch that is just being opened again is live.
    #[must_use]
    pub fn settled_phase(&self, now: Timestamp) -> Phase {
        if self.phase == Phase::Behind && !self.is_failing(now) { Phase::Live } else { self.phase }
    }
}

impl Narrowed {
    /// The phase of the type: that of the worst namespace, apart from those that are refused while others are not.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phases = || self.namespaces.values().map(|part| part.phase);
        [Phase::Pending, Phase::Gone, Phase::Behind, Phase::Live]
            .into_iter()
            .find(|wanted| phases().any(|phase| phase == *wanted))
            .unwrap_or(Phase::Refused)
    }

    /// Names of the namespaces that are refused, or of the others.
    #[must_use]
    pub fn names(&self, are_refused: bool) -> Vec<String> {
        let parts = self.namespaces.iter().filter(|(_, part)| (part.phase == Phase::Refused) == are_refused);
        parts.map(|(name, _)| name.clone()).collect()
    }
}

/// All reports, by the type's name such as `deployments.apps`.
#[derive(Debug, Default)]
pub struct Board {
    reports: Mutex<BTreeMap<String, TypeReport>>,
}

impl Board {
    /// Changes the report of `name`, which is made if there is none.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut TypeReport)) {
        let mut reports = self.lock();
        match reports.get_mut(name) {
            Some(report) => change(report),
            None => change(reports.entry(name.to_owned()).or_default()),
        }
    }

    /// Moves `name` to `phase`.
    pub fn set_phase(&self, name: &str, phase: Phase) {
        self.update(name, |report| {
            if report.phase != phase || report.since.is_none() {
                report.phase = phase;
                report.since = Some(Timestamp::now());
            }
            if phase == Phase::Live {
                report.last_error.clear();
                report.reason = "";
                report.failed_since = report.failing_since.take().or(report.failed_since);
            }
        });
    }

    /// Notes a failure of `name` of what it tries `since` then; gives for how long nothing has worked.
    pub fn failed(&self, name: &str, since: Timestamp, reason: &'static str, error: &str) -> Duration {
        let now = Timestamp::now();
        let mut failing_for = Duration::ZERO;
        self.update(name, |report| {
            report.failures += 1;
            report.reason = reason;
            error.clone_into(&mut report.last_error);
            let worked = report.since.filter(|_| report.phase == Phase::Live);
            let shortly = worked.is_some_and(|live| now.duration_since(live) < HEALTHY_AFTER);
            // A watch that opens and dies at once works for moments, and fails all the same.
            let before = report.failed_since.filter(|_| shortly);
            let since = *report.failing_since.get_or_insert(before.unwrap_or(since));
            failing_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        });
        failing_for
    }

    /// Forgets a type that is no longer in the plan.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// A copy of the report of `name`.
    #[must_use]
    pub fn report(&self, name: &str) -> Option<TypeReport> {
        self.lock().get(name).cloned()
    }

    /// A copy of everything.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, TypeReport> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, TypeReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
