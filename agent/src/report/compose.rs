//! Facts → `status.agent`. Pure.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::{
    AgentBrokerStatus, AgentDiscoveryStatus, AgentPhase, AgentStandby, AgentStatus, FailingType, NarrowedType,
    RefusedType, UnpublishedObject, UnusableDiscovery,
};

use crate::discover::HealthReport;
use crate::plan::ActivePlan;
use crate::publish::delivery::{DeliveryState, Unpublished};
use crate::watch::{Phase, TypeReport};

/// Refused types that are told one by one; the schema takes no more.
const MAX_REFUSED: usize = 512;
/// Types that are read in some namespaces only that are told one by one; the schema takes no more.
const MAX_NARROWED: usize = 512;
/// Failing types that are told one by one; the schema takes no more.
const MAX_FAILING: usize = 50;
/// Failing types that the message names.
const NAMED: usize = 5;
/// Unpublished objects that are told one by one; the schema takes no more.
const MAX_UNPUBLISHED: usize = 32;
/// Longest text of a message in the schema.
const MAX_MESSAGE: usize = 1024;
/// Unusable parts of discovery that are told; the schema takes no more.
const MAX_UNUSABLE: usize = 64;
/// Longest name of one.
const MAX_NAME: usize = 512;
/// Longest URL in the schema.
const MAX_URL: usize = 2048;
/// A type that discovery names and the server does not know for longer than this is no type that is being removed.
const GONE_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);
/// A change that waits for longer than this means "behind". Shorter waits are how batches work.
const BEHIND_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// Everything that a report is made of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What is in force.
    pub active_plan: ActivePlan,
    /// What the loops do, by type.
    pub types: BTreeMap<String, TypeReport>,
    /// Objects held.
    pub objects: usize,
    /// Changes that wait.
    pub outbox: usize,
    /// Since when the oldest waits.
    pub behind_since: Option<Timestamp>,
    /// The connection to the broker.
    pub broker: AgentBrokerStatus,
    /// How messages are delivered.
    pub delivery: DeliveryState,
    /// Objects that went out as metadata only, or less.
    pub too_large: u64,
    /// How discovery fares.
    pub discovery: HealthReport,
    /// Why it publishes nothing, while another agent does.
    pub standby: Option<AgentStandby>,
    /// Objects that cannot be published, the oldest first.
    pub unpublished: Vec<Unpublished>,
    /// Name of the pod.
    pub pod: String,
}

/// What to report.
#[must_use]
pub fn compose(facts: Facts) -> AgentStatus {
    let now = Timestamp::now();
    let failing = Failing::of(&facts.types, now);
    let count = |wanted: Phase| {
        facts.types.values().filter(|report| report.settled_phase(now) == wanted && !is_failing(report, now)).count()
    };
    let pending = count(Phase::Pending);
    let refused = refused(&facts.types);
    let narrowed = narrowed(&facts.types);
    let behind_since = facts.behind_since.filter(|since| now.duration_since(*since) > BEHIND_AFTER);
    let config = facts.active_plan.config.as_ref();
    let mut reasons = reasons(&facts, behind_since.is_some());
    reasons.extend(failing.summary());
    if !refused.is_empty() {
        reasons.push(format!("{} types are refused", refused.len()));
    }
    reasons.extend(not_everywhere(&narrowed, facts.active_plan.config.as_deref()));
    let phase = match () {
        () if config.is_none() => AgentPhase::Discovering,
        () if pending > 0 => AgentPhase::Synchronizing,
        () if !reasons.is_empty() => AgentPhase::Degraded,
        () => AgentPhase::Live,
    };
    AgentStatus {
        applied_revision: config.map(|config| config.revision.clone()).unwrap_or_default(),
        rejected_revision: facts.active_plan.rejected.as_ref().map(|(revision, _)| revision.clone()),
        phase,
        message: cut(&reasons.join("; ")),
        types: to_i32(count(Phase::Live) + pending),
        pending_types: to_i32(pending),
        objects: to_i64(facts.objects),
        broker: Some(broker(facts.broker)),
        outbox: to_i64(facts.outbox),
        behind_since: behind_since.map(Time),
        delivery: facts.delivery.mode,
        delivery_reason: Some(cut(&facts.delivery.reason)).filter(|reason| !reason.is_empty()),
        too_large: i64::try_from(facts.too_large).unwrap_or(i64::MAX),
        standby: facts.standby,
        unpublished: facts.unpublished.into_iter().take(MAX_UNPUBLISHED).map(unpublished).collect(),
        refused,
        narrowed,
        failing_types: to_i32(failing.count),
        failing: failing.types,
        discovery: discovery(facts.discovery),
        pod: facts.pod,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reported_at: None,
    }
}

/// What is wrong, apart from single types.
fn reasons(facts: &Facts, is_behind: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some((_, message)) = &facts.active_plan.rejected {
        reasons.push(format!("a configuration was refused: {message}"));
    }
    reasons.extend(facts.standby.as_ref().map(|standby| standby.message.clone()));
    if !facts.broker.connected {
        reasons.push("no connection to the broker".to_owned());
    } else if is_behind {
        reasons.push("the broker takes changes more slowly than they come".to_owned());
    }
    if let Some(refusal) = &facts.delivery.refusal {
        reasons.push(format!("the stream refuses messages: {refusal}"));
    }
    if let Some((since, reason)) = &facts.discovery.failing {
        reasons.push(format!("discovery fails since {since:.0}: {reason}"));
    }
    if let Some(first) = facts.unpublished.first() {
        let (more, Unpublished { object, reason, .. }) = (facts.unpublished.len() - 1, first);
        let others = if more > 0 { format!(" and {more} more") } else { String::new() };
        reasons.push(format!("not published: {object} ({reason}){others}"));
    }
    reasons
}

fn refused(types: &BTreeMap<String, TypeReport>) -> Vec<RefusedType> {
    let refused = types.iter().filter(|(_, report)| report.phase == Phase::Refused);
    let refused = refused.map(|(name, report)| RefusedType {
        type_: name.clone(),
        reason: "Forbidden".to_owned(),
        message: cut(&report.last_error),
    });
    refused.take(MAX_REFUSED).collect()
}

/// What may be read nowhere is refused instead.
fn narrowed(types: &BTreeMap<String, TypeReport>) -> Vec<NarrowedType> {
    let readable = types.iter().filter(|(_, report)| report.phase != Phase::Refused);
    let narrowed = readable.filter_map(|(name, report)| {
        let narrowed = report.narrowed.as_ref()?;
        Some(NarrowedType {
            type_: name.clone(),
            namespaces: narrowed.names(false),
            refused: narrowed.names(true),
            message: cut(&narrowed.refusal),
            since: Some(Time(narrowed.since)),
        })
    });
    narrowed.take(MAX_NARROWED).collect()
}

/// What is missing of types that are read in some namespaces: nothing, if these are all that are wanted.
fn not_everywhere(narrowed: &[NarrowedType], config: Option<&AgentConfig>) -> Option<String> {
    let names_some = config.is_some_and(|config| !config.informer_config.namespaces.include.is_empty());
    let partly: Vec<_> = narrowed.iter().filter(|narrowed| !names_some || !narrowed.refused.is_empty()).collect();
    let first = partly.first()?;
    let named = first.namespaces.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let count = partly.len();
    Some(format!(
        "for lack of rights {count} types are read in some namespaces only, such as {} in {named}; see status.agent.narrowed",
        first.type_
    ))
}

/// Whether a type fails, or is not served any more, for longer than is no news. What is refused is told apart; what was
/// removed a moment ago is on its way out.
fn is_failing(report: &TypeReport, now: Timestamp) -> bool {
    let is_leaving = report.failing_since.is_some_and(|since| now.duration_since(since) <= GONE_AFTER);
    match report.phase {
        Phase::Refused => false,
        Phase::Gone => report.is_failing(now) && !is_leaving,
        _ => report.is_failing(now),
    }
}

/// The types that fail.
struct Failing {
    types: Vec<FailingType>,
    count: usize,
}

impl Failing {
    fn of(reports: &BTreeMap<String, TypeReport>, now: Timestamp) -> Self {
        let failing = || reports.iter().filter(|(_, report)| is_failing(report, now));
        let types = failing().take(MAX_FAILING).map(|(name, report)| FailingType {
            type_: name.clone(),
            reason: report.reason.to_owned(),
            message: cut(&report.last_error),
            since: report.failing_since.map(Time),
        });
        Self { types: types.collect(), count: failing().count() }
    }

    /// `2 types fail: widgets.example.com (ServerError), …`.
    fn summary(&self) -> Option<String> {
        let named: Vec<String> =
            self.types.iter().take(NAMED).map(|failing| format!("{} ({})", failing.type_, failing.reason)).collect();
        let rest = if self.count > NAMED { format!(" and {} more", self.count - NAMED) } else { String::new() };
        let verb = if self.count == 1 { "type fails" } else { "types fail" };
        (self.count > 0).then(|| format!("{} {verb}: {}{rest}; see status.agent.failing", self.count, named.join(", ")))
    }
}

/// What fails of discovery; none while nothing does, so that an idle agent has nothing to write.
fn discovery(report: HealthReport) -> Option<AgentDiscoveryStatus> {
    let HealthReport { last_success, failing, failures: _, parts } = report;
    let answered = last_success.filter(|_| failing.is_some());
    let part = |(name, (reason, since)): (String, (String, Timestamp))| UnusableDiscovery {
        name: name.chars().take(MAX_NAME).collect(),
        reason: cut(&reason),
        since: Time(since),
    };
    let unusable: Vec<UnusableDiscovery> = parts.into_iter().map(part).take(MAX_UNUSABLE).collect();
    let (failing_since, reason) =
        failing.map_or((None, None), |(since, reason)| (Some(Time(since)), Some(cut(&reason))));
    let status = AgentDiscoveryStatus { failing_since, reason, last_succeeded: answered.map(Time), unusable };
    Some(status).filter(|status| *status != AgentDiscoveryStatus::default())
}

fn unpublished(object: Unpublished) -> UnpublishedObject {
    let Unpublished { object, reason, since } = object;
    UnpublishedObject { object: cut(&object), reason: cut(&reason), since: Some(Time(since)) }
}

/// An old error must not stand beside a connection.
fn broker(broker: AgentBrokerStatus) -> AgentBrokerStatus {
    let error = broker.error.filter(|_| !broker.connected).map(|error| cut(&error));
    AgentBrokerStatus { url: broker.url.chars().take(MAX_URL).collect(), error, ..broker }
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).collect()
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
