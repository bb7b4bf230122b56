//! Facts → `status.agent`. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meshsync_crds::{
    AgentBrokerStatus, AgentDiscoveryStatus, AgentPhase, AgentStandby, AgentStatus, FailingType, RefusedType,
    UnpublishedObject, UnusableDiscovery,
};

use crate::discover::{HealthReport, InForce};
use crate::publish::delivery::{DeliveryState, Unpublished};
use crate::watch::{Phase, TypeReport};

/// Refused types that are told one by one; the schema takes no more.
const MAX_REFUSED: usize = 512;
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
    pub in_force: InForce,
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
    let refused: Vec<RefusedType> = facts
        .types
        .iter()
        .filter(|(_, report)| report.phase == Phase::Refused)
        .map(|(name, report)| RefusedType {
            type_: name.clone(),
            reason: "Forbidden".to_owned(),
            message: cut(&report.last_error),
        })
        .take(MAX_REFUSED)
        .collect();
    let behind_since = facts.behind_since.filter(|since| now.duration_since(*since) > BEHIND_AFTER);
    let config = facts.in_force.config.as_ref();
    let mut reasons = Vec::new();
    if let Some((_, message)) = &facts.in_force.rejected {
        reasons.push(format!("a configuration was refused: {message}"));
    }
    reasons.extend(facts.standby.as_ref().map(|standby| standby.message.clone()));
    if !facts.broker.connected {
        reasons.push("no connection to the broker".to_owned());
    } else if behind_since.is_some() {
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
    reasons.extend(failing.summary());
    if !refused.is_empty() {
        reasons.push(format!("{} types are refused", refused.len()));
    }
    let phase = match () {
        () if config.is_none() => AgentPhase::Discovering,
        () if pending > 0 => AgentPhase::Synchronizing,
        () if !reasons.is_empty() => AgentPhase::Degraded,
        () => AgentPhase::Live,
    };
    AgentStatus {
        applied_revision: config.map(|config| config.revision.clone()).unwrap_or_default(),
        rejected_revision: facts.in_force.rejected.as_ref().map(|(revision, _)| revision.clone()),
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
        failing_types: to_i32(failing.count),
        failing: failing.types,
        discovery: discovery(facts.discovery),
        pod: facts.pod,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reported_at: None,
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meshsync_crds::agent_config::AgentConfig;

    use super::*;

    fn connection(connected: bool) -> AgentBrokerStatus {
        AgentBrokerStatus { url: "nats://h:4222".into(), connected, error: Some("DNS error".into()) }
    }

    fn facts(phases: &[Phase]) -> Facts {
        let config = AgentConfig { revision: "r7".into(), ..AgentConfig::built_in() };
        let types = phases.iter().enumerate().map(|(at, phase)| {
            let report = TypeReport { phase: *phase, last_error: format!("no {at}"), ..TypeReport::default() };
            (format!("type{at}"), report)
        });
        Facts {
            in_force: InForce { config: Some(Arc::new(config)), ..InForce::default() },
            types: types.collect(),
            objects: 5,
            broker: connection(true),
            ..Facts::default()
        }
    }

    #[test]
    fn the_phase_tells_the_worst_that_holds() {
        let phase = |facts| compose(facts).phase;
        assert_eq!(phase(Facts::default()), AgentPhase::Discovering);
        assert_eq!(phase(facts(&[Phase::Live, Phase::Pending])), AgentPhase::Synchronizing);
        assert_eq!(phase(facts(&[Phase::Live, Phase::Live])), AgentPhase::Live);
        assert_eq!(phase(facts(&[Phase::Live, Phase::Refused])), AgentPhase::Degraded);
        assert_eq!(phase(Facts { broker: connection(false), ..facts(&[Phase::Live]) }), AgentPhase::Degraded);
    }

    #[test]
    fn a_refused_type_is_named_with_the_servers_words_and_not_counted_as_watched() {
        let status = compose(facts(&[Phase::Live, Phase::Refused, Phase::Gone]));
        assert_eq!((status.types, status.refused.len()), (1, 1));
        assert_eq!((status.refused[0].type_.as_str(), status.refused[0].message.as_str()), ("type1", "no 1"));
        assert_eq!(status.applied_revision, "r7");
    }

    #[test]
    fn a_type_that_fails_is_named_counted_and_holds_up_nothing() {
        let since = Timestamp::now() - GONE_AFTER - jiff::SignedDuration::from_secs(1);
        let mut facts = facts(&[Phase::Live, Phase::Pending, Phase::Behind, Phase::Gone]);
        assert_eq!(compose(facts.clone()).phase, AgentPhase::Synchronizing);
        for report in facts.types.values_mut().filter(|report| report.phase != Phase::Live) {
            (report.reason, report.failing_since) = ("ServerError", Some(since));
        }
        let status = compose(facts.clone());
        assert_eq!((status.phase, status.types, status.pending_types), (AgentPhase::Degraded, 1, 0));
        let named: Vec<_> = status.failing.iter().map(|failing| failing.type_.as_str()).collect();
        assert_eq!((named, status.failing_types), (vec!["type1", "type2", "type3"], 3));
        let first = &status.failing[0];
        let told = (first.reason.as_str(), first.message.as_str(), first.since.clone());
        assert_eq!(told, ("ServerError", "no 1", Some(Time(since))));
        assert!(status.message.starts_with("3 types fail: type1 (ServerError), "), "{}", status.message);
    }

    #[test]
    fn a_watch_that_is_opened_again_is_no_news() {
        let mut facts = facts(&[Phase::Live, Phase::Behind]);
        facts.types.get_mut("type1").unwrap().failing_since = Some(Timestamp::now());
        let status = compose(facts);
        assert_eq!((status.phase, status.types, status.failing.len()), (AgentPhase::Live, 2, 0));
    }

    #[test]
    fn a_cluster_full_of_failing_types_is_told_within_bounds() {
        let mut facts = facts(&[Phase::Pending; 600]);
        for report in facts.types.values_mut() {
            report.failing_since = Some(Timestamp::UNIX_EPOCH);
            report.last_error = "x".repeat(100_000);
        }
        let status = compose(facts);
        assert_eq!((status.failing.len(), status.failing_types), (50, 600));
        assert!(status.failing.iter().all(|failing| failing.message.len() <= 1024));
        assert!(status.message.contains("and 595 more"), "{}", status.message);
    }

    #[test]
    fn the_error_of_the_broker_is_told_while_there_is_no_connection() {
        let told = |connected| compose(Facts { broker: connection(connected), ..facts(&[Phase::Live]) }).broker;
        assert_eq!(told(false), Some(connection(false)));
        assert_eq!(told(true), Some(AgentBrokerStatus { error: None, ..connection(true) }));
    }

    #[test]
    fn what_fails_of_discovery_is_told_by_name_and_nothing_while_nothing_does() {
        let (noon, one): (Timestamp, Timestamp) =
            ("2026-11-28T12:00:00Z".parse().unwrap(), "2026-11-28T13:00:00Z".parse().unwrap());
        let answered = HealthReport { last_success: Some(one), failures: 3, ..HealthReport::default() };
        let told = |discovery: HealthReport| compose(Facts { discovery, ..facts(&[Phase::Live]) });
        assert_eq!((told(answered.clone()).discovery, told(answered.clone()).phase), (None, AgentPhase::Live));

        let parts = [("things.a.io/v1".to_owned(), ("its verbs are null".to_owned(), noon))].into();
        let partly = told(HealthReport { parts, ..answered.clone() });
        let unusable = &partly.discovery.as_ref().unwrap().unusable;
        assert_eq!((unusable[0].name.as_str(), unusable[0].since.0), ("things.a.io/v1", noon));
        assert_eq!(partly.phase, AgentPhase::Live, "all else holds");

        let failing =
            told(HealthReport { failing: Some((one, "no answer".into())), last_success: Some(noon), ..answered });
        let discovery = failing.discovery.unwrap();
        assert_eq!((discovery.failing_since.unwrap().0, discovery.last_succeeded.unwrap().0), (one, noon));
        assert_eq!((failing.phase, discovery.reason.as_deref()), (AgentPhase::Degraded, Some("no answer")));
        assert!(failing.message.contains("2026-11-28T13:00:00Z"), "{}", failing.message);
    }

    #[test]
    fn a_type_that_the_server_does_not_know_any_more_is_seen_unless_it_was_just_removed() {
        let told = |since| {
            let mut facts = facts(&[Phase::Live, Phase::Gone]);
            facts.types.get_mut("type1").unwrap().failing_since = Some(Timestamp::now() - since);
            compose(facts)
        };
        assert_eq!(told(jiff::SignedDuration::from_secs(60)).phase, AgentPhase::Live);
        let stuck = told(GONE_AFTER + jiff::SignedDuration::from_secs(1));
        assert_eq!((stuck.phase, stuck.failing_types), (AgentPhase::Degraded, 1));
    }

    #[test]
    fn objects_that_are_not_published_are_named_with_their_reasons() {
        let unpublished = |at| Unpublished {
            object: format!("things o{at}"),
            reason: format!("reason {at} {}", "x".repeat(MAX_MESSAGE)),
            since: Timestamp::UNIX_EPOCH,
        };
        let status = compose(Facts { unpublished: (0..40).map(unpublished).collect(), ..facts(&[Phase::Live]) });
        assert_eq!(status.phase, AgentPhase::Degraded);
        assert!(status.message.starts_with("not published: things o0 (reason 0 "), "{}", status.message);
        assert_eq!((status.unpublished.len(), status.unpublished[31].object.as_str()), (32, "things o31"));
        assert_eq!(status.unpublished[31].reason.len(), MAX_MESSAGE);
    }

    #[test]
    fn a_rejected_configuration_is_reported_beside_the_one_in_force() {
        let mut facts = facts(&[Phase::Live]);
        facts.in_force.rejected = Some(("r8".into(), "bad".into()));
        let status = compose(facts);
        assert_eq!((status.applied_revision.as_str(), status.rejected_revision.as_deref()), ("r7", Some("r8")));
        assert!(status.message.contains("bad"), "{}", status.message);
    }
}
