//! The agent's metrics, read from where the facts are at the moment they are asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use crate::discover::Health;
use crate::outbox::Outbox;
use crate::publish::broker::Connection;
use crate::publish::stats::PublishStats;
use crate::snapshot::Store;
use crate::watch::{Board, Phase, TypeReport};

/// Reads the agent's state when `/metrics` is asked.
pub struct AgentCollector {
    /// What the loops do.
    pub board: Arc<Board>,
    /// What is held.
    pub store: Arc<Store>,
    /// What waits.
    pub queue: Arc<Outbox>,
    /// What was published.
    pub stats: Arc<PublishStats>,
    /// How discovery fares.
    pub discovery: Arc<Health>,
    /// Whether there is a broker.
    pub connection: Option<watch::Receiver<Connection>>,
}

impl fmt::Debug for AgentCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentCollector")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailingLabel {
    r#type: String,
    reason: &'static str,
}

type Reading = fn(&TypeReport) -> u64;

/// Counters that every type's loop keeps: name, help, value.
const PER_TYPE: [(&str, &str, Reading); 6] = [
    ("meshsync_lists", "Lists begun", |report| report.lists),
    ("meshsync_watch_opens", "Watches opened", |report| report.watch_opens),
    ("meshsync_received_events", "Objects received by list or watch", |report| report.events),
    ("meshsync_received_bytes", "Bytes received from the API server", |report| report.bytes),
    ("meshsync_watch_failures", "Lists and watches that failed", |report| report.failures),
    ("meshsync_unreadable", "Objects and events that could not be read", |report| report.unreadable),
];

const PHASES: [(Phase, &str); 5] = [
    (Phase::Pending, "pending"),
    (Phase::Live, "live"),
    (Phase::Behind, "behind"),
    (Phase::Refused, "refused"),
    (Phase::Gone, "gone"),
];

impl Collector for AgentCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.types(&mut encoder)?;
        self.snapshot(&mut encoder)?;
        self.discovery(&mut encoder)?;
        self.publishing(&mut encoder)
    }
}

impl AgentCollector {
    fn types(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (types, now) = (self.board.snapshot(), Timestamp::now());
        for (name, help, reading) in PER_TYPE {
            let metric_type = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for (name, report) in &types {
                let label = TypeLabel { r#type: name.clone() };
                ConstCounter::new(reading(report)).encode(family.encode_family(&label)?)?;
            }
        }
        let metric_type = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("meshsync_types", "Types by phase", None, metric_type)?;
        for (phase, name) in PHASES {
            let count = types.values().filter(|report| report.settled_phase(now) == phase).count();
            ConstGauge::new(count as i64).encode(family.encode_family(&PhaseLabel { phase: name })?)?;
        }
        let help = "For how long a type has not been listed or watched; absent while it is";
        let mut family = encoder.encode_descriptor("meshsync_type_failing_seconds", help, None, metric_type)?;
        for (name, report) in types.iter().filter(|(_, report)| report.is_failing(now)) {
            let label = FailingLabel { r#type: name.clone(), reason: report.reason };
            let age = report.failing_since.map(|since| now.duration_since(since).as_secs()).unwrap_or_default();
            ConstGauge::new(age).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }

    fn snapshot(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric_type = ConstGauge::new(0_i64).metric_type();
        let help = "Objects in the snapshot";
        let mut family = encoder.encode_descriptor("meshsync_objects", help, None, metric_type)?;
        for (_, served, table) in self.store.tables() {
            let label = TypeLabel { r#type: served.name() };
            ConstGauge::new(table.len() as i64).encode(family.encode_family(&label)?)?;
        }
        let stats = self.store.stats();
        gauge(encoder, "meshsync_body_bytes", "Bytes of all objects, stripped", stats.body_bytes as i64)?;
        gauge(encoder, "meshsync_packed_bytes", "Bytes of all objects as kept", stats.packed_bytes as i64)
    }

    fn discovery(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let report = self.discovery.report();
        let at = report.last_success.map_or(0, jiff::Timestamp::as_second);
        let help = "When discovery was answered last, in seconds since 1970; 0 before";
        gauge(encoder, "meshsync_discovery_last_success_timestamp_seconds", help, at)?;
        counter(encoder, "meshsync_discovery_failures", "Discoveries that failed", report.failures)?;
        let help = "PublishContext of discovery that cannot be used: groups that cannot be asked, and entries";
        gauge(encoder, "meshsync_discovery_unusable_parts", help, report.parts.len() as i64)
    }

    fn publishing(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let metric_type = ConstCounter::new(0_u64).metric_type();
        let help = "Messages that the broker has taken";
        let mut family = encoder.encode_descriptor("meshsync_published", help, None, metric_type)?;
        for (event, counter) in
            [("added", &self.stats.added), ("modified", &self.stats.modified), ("deleted", &self.stats.deleted)]
        {
            ConstCounter::new(read(counter)).encode(family.encode_family(&EventLabel { event })?)?;
        }
        counter(encoder, "meshsync_published_bytes", "Bytes that the broker has taken", read(&self.stats.bytes))?;
        counter(encoder, "meshsync_resent", "Messages sent again", read(&self.stats.resent))?;
        counter(
            encoder,
            "meshsync_too_large",
            "Objects too large for the broker, sent as metadata only or less",
            read(&self.stats.too_large),
        )?;
        let help = "Objects of which no message could be made, or none that the broker takes";
        counter(encoder, "meshsync_unencodable", help, read(&self.stats.unencodable))?;
        let age = self.queue.oldest_since().map(|since| since.elapsed().as_secs_f64()).unwrap_or_default();
        gauge(encoder, "meshsync_outbox", "Objects about which consumers are to be told", self.queue.len() as i64)?;
        let metric = ConstGauge::new(age);
        let help = "Age of the oldest change that waits for the broker";
        let descriptor = encoder.encode_descriptor("meshsync_outbox_age_seconds", help, None, metric.metric_type())?;
        metric.encode(descriptor)?;
        if let Some(connection) = &self.connection {
            let now = *connection.borrow();
            gauge(encoder, "meshsync_broker_up", "Whether there is a connection to the broker", i64::from(now.up))?;
            counter(encoder, "meshsync_broker_connects", "Connections made to the broker", now.generation)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
