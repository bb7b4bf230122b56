//! The operator's metrics.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::Error;

/// Upper bounds in seconds; a reconciliation without writes takes about ten milliseconds.
const BUCKETS: [f64; 8] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: &'static str,
}

/// The metrics; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    seconds: Histogram,
    failures: Family<Failure, Counter>,
    writes: Counter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics =
            Self { seconds: Histogram::new(BUCKETS), failures: Family::default(), writes: Counter::default() };
        registry.register(
            "meshsync_operator_reconcile_seconds",
            "Duration of reconciliations, including failed reconciliations",
            metrics.seconds.clone(),
        );
        registry.register(
            "meshsync_operator_reconcile_failures",
            "Failed reconciliations, by the reason that condition and event have, too",
            metrics.failures.clone(),
        );
        registry.register(
            "meshsync_operator_children_written",
            "Children that differed from their desired state and were written or deleted",
            metrics.writes.clone(),
        );
        metrics
    }

    /// Counts one reconciliation.
    pub fn reconciled<T>(&self, took: Duration, result: &Result<T, Error>) {
        self.seconds.observe(took.as_secs_f64());
        if let Err(error) = result {
            self.failures.get_or_create(&Failure { reason: error.reason() }).inc();
        }
    }

    /// Counts children that had to be written or removed.
    pub fn wrote(&self, children: usize) {
        self.writes.inc_by(children as u64);
    }
}
