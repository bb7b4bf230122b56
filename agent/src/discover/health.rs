//! How discovery fares, for probes, metrics and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use meshsync_runtime::discovery::Discovered;

/// See the module; to be shared.
#[derive(Debug, Default)]
pub struct Health {
    report: Mutex<HealthReport>,
}

/// How discovery fares at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// When it was answered last.
    pub last_success: Option<Timestamp>,
    /// Since when it fails, and why; none while it is answered.
    pub failing: Option<(Timestamp, String)>,
    /// Failures so far.
    pub failures: u64,
    /// What of the last answer could not be used, such as `metrics.k8s.io/v1beta1`: why, and since when.
    pub parts: BTreeMap<String, (String, Timestamp)>,
}

impl Health {
    /// How it fares now.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        self.lock().clone()
    }

    /// It was answered, with `found` if that differs from the last answer.
    pub(super) fn succeeded(&self, found: Option<&Discovered>) {
        let now = Timestamp::now();
        let mut report = self.lock();
        report.last_success = Some(now);
        report.failing = None;
        let Some(found) = found else { return };
        let failed = found.failed.iter().map(|f| (format!("{}/{}", f.group, f.version), f.reason.clone()));
        let left_out = found.left_out.iter().map(|l| (l.name(), l.reason.clone()));
        let before = std::mem::take(&mut report.parts);
        for (name, reason) in failed.chain(left_out) {
            let since = before.get(&name).map_or(now, |(_, since)| *since);
            if !before.contains_key(&name) {
                tracing::warn!(name, reason, "a part of discovery cannot be used; all else holds");
            }
            report.parts.insert(name, (reason, since));
        }
    }

    /// It was not; gives what there is to say.
    pub(super) fn failed(&self, reason: String) -> String {
        let mut report = self.lock();
        report.failures += 1;
        let since = report.failing.as_ref().map_or_else(Timestamp::now, |(since, _)| *since);
        let answered = match report.last_success {
            Some(at) => format!("answered last at {at:.0}"),
            None => "never answered yet".to_owned(),
        };
        let told = format!("failing since {since:.0}, {answered}: {reason}");
        report.failing = Some((since, reason));
        told
    }

    fn lock(&self) -> MutexGuard<'_, HealthReport> {
        // Nothing under the lock can leave the report half changed.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
