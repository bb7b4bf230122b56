//! Step five: computes the status from what was applied. Pure.

use k8s_openapi::jiff::Timestamp;
use meshsync_crds::conditions::{
    AGENT_AVAILABLE, AUTHORIZED, BROKER_AVAILABLE, PUBLISHED, READY, RESOLVED, Verdict, set,
};
use meshsync_crds::{
    AgentPhase, AgentStatus, BrokerStatus, ConfigurationStatus, InspectionTier, MeshSyncStatus, PresenceTier,
    TiersStatus,
};

use super::apply::Applied;
use super::build;
use super::dereference::Dereferenced;
use super::validate::{Broker, Findings};
use crate::error::Error;

/// Most items that the schema allows in `tiers.presence.failedGroups`.
const MAX_FAILED_GROUPS: usize = 256;
/// Most items that the schema allows in `tiers.inspection.refused`; the condition reports the full number.
const MAX_REFUSED: usize = 512;
/// Longest URL in the schema.
const MAX_URL: usize = 2048;

/// Result of a reconciliation.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// All children are applied.
    Applied(&'a Applied),
    /// The children could not be built.
    Nothing,
    /// The children could not be applied.
    Failed(&'a Error),
}

/// The status without `agent`, which the agent itself writes.
#[must_use]
pub fn status(input: &Dereferenced, findings: &Findings, outcome: &Outcome<'_>, now: Timestamp) -> MeshSyncStatus {
    let before = input.meshsync.status.clone().unwrap_or_default();
    let agent = before.agent.clone();
    let generation = input.meshsync.metadata.generation;
    let mut conditions = before.conditions.clone();
    let verdicts = [
        (RESOLVED, resolved(findings)),
        (AUTHORIZED, authorized(findings, outcome)),
        (BROKER_AVAILABLE, broker_available(input, outcome)),
        (AGENT_AVAILABLE, agent_available(input, outcome, agent.as_ref())),
        (PUBLISHED, published(input, agent.as_ref())),
    ];
    for (condition, verdict) in &verdicts {
        set(&mut conditions, condition, verdict, generation, now);
    }
    set(&mut conditions, READY, &ready(&verdicts, outcome), generation, now);
    let applied = match outcome {
        Outcome::Applied(applied) => Some(*applied),
        Outcome::Nothing | Outcome::Failed(_) => None,
    };
    MeshSyncStatus {
        conditions,
        observed_generation: generation,
        configuration: applied
            .map(|applied| ConfigurationStatus {
                revision: applied.input.config.revision.clone(),
                source: findings.source,
                informer_config: findings.informer_config.clone(),
            })
            .or(before.configuration),
        tiers: Some(tiers(input, findings)),
        broker: applied.map(broker_status).or(before.broker),
        agent: None,
    }
}

fn tiers(input: &Dereferenced, findings: &Findings) -> TiersStatus {
    let discovered = &input.cluster_info.discovered;
    let failed = discovered.failed.iter().map(|failed| format!("{}/{}", failed.group, failed.version));
    TiersStatus {
        presence: PresenceTier {
            types: count(discovered.types.iter().filter(|served| served.preferred).count()),
            failed_groups: failed.take(MAX_FAILED_GROUPS).collect(),
        },
        inspection: InspectionTier {
            types: count(findings.selected),
            refused: findings.refused.iter().take(MAX_REFUSED).cloned().collect(),
        },
    }
}

fn broker_status(applied: &Applied) -> BrokerStatus {
    let managed = matches!(applied.input.broker, Broker::Managed(_));
    BrokerStatus {
        managed,
        url: shown(&build::url(&applied.input)),
        secret_name: managed.then(|| applied.input.identity.broker()),
    }
}

fn resolved(findings: &Findings) -> Verdict {
    match (&findings.rejected, &findings.notes) {
        (Some((reason, message)), _) => Verdict::no(reason, format!("{message} ({})", findings.meanwhile())),
        (None, Some((reason, message))) => Verdict::yes(reason, message.clone()),
        (None, None) => Verdict::yes("Resolved", format!("{} types are selected", findings.selected)),
    }
}

fn authorized(findings: &Findings, outcome: &Outcome<'_>) -> Verdict {
    match outcome {
        Outcome::Failed(error) => Verdict::no(error.reason(), error.to_string()),
        Outcome::Nothing if findings.agent_exists => {
            Verdict::unknown("NothingSelected", "the agent keeps the rights that it has")
        }
        Outcome::Nothing => Verdict::unknown("NothingSelected", "no rights are granted"),
        Outcome::Applied(_) if findings.refused.is_empty() => {
            Verdict::yes("Granted", "the agent may read every selected type")
        }
        Outcome::Applied(_) => {
            let names: Vec<&str> = findings.refused.iter().map(|refused| refused.type_.as_str()).collect();
            let why = findings.refused.first().map(|refused| refused.message.as_str()).unwrap_or_default();
            Verdict::no("NotGrantable", format!("{} types are not watched; {why}; {}", names.len(), names.join(", ")))
        }
    }
}

fn broker_available(input: &Dereferenced, outcome: &Outcome<'_>) -> Verdict {
    if !input.missing_secrets.is_empty() {
        let missing = input.missing_secrets.join(", ");
        let message = format!(
            "spec.broker.external refers to something that does not exist: {missing}; the agent starts once you create it"
        );
        return Verdict::no("SecretNotFound", message);
    }
    match outcome {
        Outcome::Applied(applied) => match &applied.input.broker {
            Broker::Managed(_) if input.broker_ready => Verdict::yes("Ready", "the managed broker is ready"),
            Broker::Managed(_) => Verdict::no("Starting", "the managed broker's pod is not ready yet"),
            Broker::External(external) => external_available(input, &shown(&build::urls(external))),
        },
        Outcome::Nothing | Outcome::Failed(_) => Verdict::unknown("NotApplied", "see the condition Ready"),
    }
}

/// Cuts the URLs to the length that the schema allows, as the agent does.
fn shown(urls: &str) -> String {
    urls.chars().take(MAX_URL).collect()
}

/// Only the agent connects to an external broker, so its report decides.
fn external_available(input: &Dereferenced, url: &str) -> Verdict {
    let Some(agent) = input.meshsync.status.as_ref().and_then(|status| status.agent.as_ref()) else {
        return Verdict::unknown("NotReported", "the agent has not reported yet");
    };
    match &agent.broker {
        // After a change of the URL, the report is that of an agent that still has the old URL.
        Some(broker) if broker.url != url => {
            Verdict::unknown("NotReported", format!("the agent has not reported on {url} yet"))
        }
        Some(broker) if broker.connected && !input.agent_available => standby(agent).unwrap_or_else(|| silent(agent)),
        Some(broker) if broker.connected => Verdict::yes("Connected", format!("the agent is connected to {url}")),
        Some(broker) => {
            let why = broker.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let message = format!("the agent cannot connect to {url}{why}; check spec.broker.external");
            Verdict::no("Unreachable", message)
        }
        None => Verdict::unknown(
            "NotReported",
            "the agent's report does not contain its broker: the agent or the CustomResourceDefinition is of an older release",
        ),
    }
}

fn agent_available(input: &Dereferenced, outcome: &Outcome<'_>, agent: Option<&AgentStatus>) -> Verdict {
    let Outcome::Applied(applied) = outcome else {
        return Verdict::unknown("NotApplied", "see the condition Ready");
    };
    let wanted = &applied.input.config.revision;
    match agent {
        _ if !input.agent_available => {
            // Then it is not for want of starting that its pod is not ready.
            if let Some(standby) = agent.and_then(standby) {
                return standby;
            }
            let pod = format!("kubectl get pods -n {} -l {}", applied.input.identity.namespace, pod_selector(applied));
            let why =
                agent.and_then(failing).map(|failing| format!("; it last reported: {failing}")).unwrap_or_default();
            Verdict::no("Starting", format!("the agent's pod is not available yet{why}; see {pod}"))
        }
        Some(agent) if agent.applied_revision == *wanted => {
            let but = failing(agent).map(|failing| format!("; {failing}")).unwrap_or_default();
            Verdict::yes("Acknowledged", format!("the agent has applied configuration {wanted}{but}"))
        }
        Some(AgentStatus { rejected_revision: Some(rejected), message, .. }) if rejected == wanted => {
            Verdict::no("Rejected", message.clone())
        }
        _ => Verdict::no("Acknowledging", format!("the agent has not applied configuration {wanted} yet")),
    }
}

/// The agent stands by because another agent publishes.
fn standby(agent: &AgentStatus) -> Option<Verdict> {
    let standby = agent.standby.as_ref()?;
    let reason = match standby.reason.as_str() {
        "BrokerShared" => "BrokerShared",
        "ClusterIdShared" => "ClusterIdShared",
        _ => "AnotherPublishes",
    };
    Some(Verdict::no(reason, standby.message.clone()))
}

/// Describes types that fail while everything else works.
fn failing(agent: &AgentStatus) -> Option<String> {
    let first = agent.failing.first()?;
    let rest = match agent.failing_types {
        ..=1 => String::new(),
        count => format!(", one of {count} types that fail"),
    };
    Some(format!("{} cannot be read{rest} ({}): {}", first.type_, first.reason, first.message))
}

/// Whether the agent publishes every type that it can watch, although some types fail.
fn is_published_but_for_some(agent: &AgentStatus) -> bool {
    let is_connected = agent.broker.as_ref().is_some_and(|broker| broker.connected);
    let some_fail = agent.failing_types > 0 && agent.types > 0;
    let lacks_rights = !agent.refused.is_empty() || !agent.narrowed.is_empty();
    is_connected && agent.behind_since.is_none() && (some_fail || lacks_rights)
}

fn pod_selector(applied: &Applied) -> String {
    format!("{}={}", meshsync_crds::names::LABEL_MESHSYNC_NAME, applied.input.identity.name)
}

/// Turns a good report into an unknown state once the agent's pod is gone.
fn silent(agent: &AgentStatus) -> Verdict {
    let when = agent.reported_at.as_ref().map(|at| format!(" at {}", at.0)).unwrap_or_default();
    Verdict::unknown("AgentUnavailable", format!("the agent last reported this{when}; its pod is not available now"))
}

fn published(input: &Dereferenced, agent: Option<&AgentStatus>) -> Verdict {
    let Some(agent) = agent else { return Verdict::unknown("NotReported", "the agent has not reported yet") };
    if let Some(standby) = standby(agent) {
        return standby;
    }
    match agent.phase {
        AgentPhase::Live if !input.agent_available => silent(agent),
        AgentPhase::Live => Verdict::yes("Live", "the broker has every watched object"),
        // Other conditions report what is refused or rejected; the agent publishes every type that it can watch.
        AgentPhase::Degraded
            if agent.outbox == 0 && agent.behind_since.is_none() && agent.rejected_revision.is_some() =>
        {
            Verdict::yes("Live", agent.message.clone())
        }
        AgentPhase::Degraded if is_published_but_for_some(agent) && !input.agent_available => silent(agent),
        AgentPhase::Degraded if is_published_but_for_some(agent) => Verdict::yes("Live", agent.message.clone()),
        AgentPhase::Degraded => Verdict::no("Degraded", agent.message.clone()),
        AgentPhase::Discovering => Verdict::no("Discovering", "the agent is reading which types the cluster has"),
        AgentPhase::Synchronizing => {
            Verdict::no("Synchronizing", format!("{} types are not listed completely yet", agent.pending_types))
        }
        AgentPhase::Stopping => Verdict::no("Stopping", "the agent is stopping"),
    }
}

fn ready(verdicts: &[(&'static str, Verdict)], outcome: &Outcome<'_>) -> Verdict {
    if let Outcome::Failed(error) = outcome {
        return Verdict::no(error.reason(), error.to_string());
    }
    match verdicts.iter().find(|(_, verdict)| verdict.status != Some(true)) {
        None => Verdict::yes("Live", "the snapshot is live and published"),
        Some((condition, verdict)) => Verdict::no(verdict.reason, format!("{condition}: {}", verdict.message)),
    }
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use meshsync_crds::{AgentBrokerStatus, AgentStandby, FailingType, NarrowedType};
    use serde_json::json;

    use super::super::fixtures::dereferenced;
    use super::*;

    fn external(broker: Option<AgentBrokerStatus>) -> Verdict {
        let mut input = dereferenced(json!({"broker": {"external": {"url": "nats://new:4222"}}}), &[]);
        input.agent_available = true;
        // The message for people must not matter.
        let agent = AgentStatus { broker, message: "no connection to the broker".into(), ..AgentStatus::default() };
        input.meshsync.status = Some(MeshSyncStatus { agent: Some(agent), ..MeshSyncStatus::default() });
        external_available(&input, "nats://new:4222")
    }

    fn connection(url: &str, error: Option<&str>) -> Option<AgentBrokerStatus> {
        Some(AgentBrokerStatus { url: url.into(), connected: error.is_none(), error: error.map(str::to_owned) })
    }

    #[test]
    fn condition_of_an_external_broker_follows_the_agents_report() {
        let connected = external(connection("nats://new:4222", None));
        assert_eq!(connected, Verdict::yes("Connected", "the agent is connected to nats://new:4222"));
        let said = "the agent cannot connect to nats://new:4222: DNS error; check spec.broker.external";
        assert_eq!(external(connection("nats://new:4222", Some("DNS error"))), Verdict::no("Unreachable", said));
        assert_eq!(external(None).status, None, "an agent of an older release");
    }

    #[test]
    fn good_report_of_a_dead_agent_becomes_unknown() {
        let mut input = dereferenced(json!({"broker": {"external": {"url": "nats://new:4222"}}}), &[]);
        let agent = |phase| AgentStatus {
            broker: connection("nats://new:4222", None),
            phase,
            message: "behind".into(),
            reported_at: Some(Time("2026-11-25T08:00:00Z".parse().unwrap())),
            ..AgentStatus::default()
        };
        let live = agent(AgentPhase::Live);
        input.meshsync.status = Some(MeshSyncStatus { agent: Some(live.clone()), ..MeshSyncStatus::default() });
        input.agent_available = true;
        assert_eq!(published(&input, Some(&live)).status, Some(true));
        input.agent_available = false;
        let said = "the agent last reported this at 2026-11-25T08:00:00Z; its pod is not available now";
        assert_eq!(published(&input, Some(&live)), Verdict::unknown("AgentUnavailable", said));
        assert_eq!(external_available(&input, "nats://new:4222"), Verdict::unknown("AgentUnavailable", said));
        // A bad report stays: an agent without a broker is not ready, but it runs.
        assert_eq!(published(&input, Some(&agent(AgentPhase::Degraded))), Verdict::no("Degraded", "behind"));
    }

    #[test]
    fn failing_type_is_named_and_does_not_make_the_meshsync_unready() {
        let mut input = dereferenced(json!({}), &[]);
        input.agent_available = true;
        let failing = FailingType {
            type_: "widgets.example.com".into(),
            reason: "ServerError".into(),
            message: "no webhook".into(),
            since: None,
        };
        let agent = AgentStatus {
            broker: connection("nats://b:4222", None),
            phase: AgentPhase::Degraded,
            message: "1 type fails: widgets.example.com (ServerError)".into(),
            types: 7,
            failing_types: 1,
            failing: vec![failing],
            ..AgentStatus::default()
        };
        let said = "widgets.example.com cannot be read (ServerError): no webhook";
        assert_eq!(super::failing(&agent).as_deref(), Some(said));
        assert_eq!(published(&input, Some(&agent)), Verdict::yes("Live", agent.message.clone()));
        let narrowed = vec![NarrowedType { type_: "pods".into(), ..NarrowedType::default() }];
        let partly = AgentStatus { narrowed, failing_types: 0, failing: vec![], ..agent.clone() };
        assert_eq!(published(&input, Some(&partly)).status, Some(true));
        // Other problems still count.
        let behind = AgentStatus { behind_since: Some(Time(Timestamp::UNIX_EPOCH)), ..agent.clone() };
        assert_eq!(published(&input, Some(&behind)).status, Some(false));
        let lost = AgentStatus { broker: connection("nats://b:4222", Some("DNS error")), ..agent.clone() };
        assert_eq!(published(&input, Some(&lost)).status, Some(false));
        let nothing = AgentStatus { types: 0, ..agent.clone() };
        assert_eq!(published(&input, Some(&nothing)).status, Some(false), "everything fails");
        input.agent_available = false;
        assert_eq!(published(&input, Some(&agent)).status, None);
    }

    #[test]
    fn standby_of_the_agent_is_the_reason_of_every_condition() {
        let mut input = dereferenced(json!({"broker": {"external": {"url": "nats://new:4222"}}}), &[]);
        let standby = AgentStandby { reason: "ClusterIdShared".into(), message: "a clone".into(), since: None };
        let agent = AgentStatus {
            broker: connection("nats://new:4222", None),
            phase: AgentPhase::Degraded,
            refused: vec![meshsync_crds::RefusedType::default()],
            standby: Some(standby.clone()),
            ..AgentStatus::default()
        };
        input.meshsync.status = Some(MeshSyncStatus { agent: Some(agent.clone()), ..MeshSyncStatus::default() });
        assert_eq!(external_available(&input, "nats://new:4222"), Verdict::no("ClusterIdShared", "a clone"));
        assert_eq!(published(&input, Some(&agent)), Verdict::no("ClusterIdShared", "a clone"));
        let later = AgentStandby { reason: "OfALaterRelease".into(), ..standby };
        let agent = AgentStatus { standby: Some(later), ..agent };
        assert_eq!(published(&input, Some(&agent)), Verdict::no("AnotherPublishes", "a clone"));
    }

    #[test]
    fn report_about_the_previous_broker_does_not_apply_to_the_new_broker() {
        let verdict = external(connection("nats://old:4222", None));
        let said = "the agent has not reported on nats://new:4222 yet";
        assert_eq!(verdict, Verdict::unknown("NotReported", said));
        assert_eq!(external(connection("nats://old:4222", Some("DNS error"))), verdict);
    }
}
