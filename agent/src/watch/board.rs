//! What every type's loop is doing, for people, probes, metrics and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

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
            }
        });
    }

    /// Notes a failure of `name`.
    pub fn failed(&self, name: &str, error: &str) {
        self.update(name, |report| {
            report.failures += 1;
            error.clone_into(&mut report.last_error);
        });
    }

    /// Forgets a type that is no longer in the plan.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
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
