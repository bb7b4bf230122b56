use std::sync::Arc;

use super::*;
use crate::watch::{NamespaceReport, Narrowed};

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
        active_plan: ActivePlan { config: Some(Arc::new(config)), ..ActivePlan::default() },
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
fn a_type_that_is_read_in_some_namespaces_is_named_with_them() {
    let since = Timestamp::UNIX_EPOCH;
    let part = |phase| NamespaceReport { phase, ..NamespaceReport::default() };
    let told = |refused, include: &[&str]| {
        let mut facts = facts(&[Phase::Live, Phase::Live]);
        let mut config = AgentConfig::built_in();
        config.informer_config.namespaces.include = include.iter().map(|name| (*name).to_owned()).collect();
        facts.active_plan.config = Some(Arc::new(config));
        let namespaces = [("a".to_owned(), part(Phase::Live)), ("b".to_owned(), part(refused))].into();
        facts.types.get_mut("type1").unwrap().narrowed = Some(Narrowed { since, refusal: "no".into(), namespaces });
        compose(facts)
    };
    let status = told(Phase::Refused, &["a", "b"]);
    let [narrowed] = &status.narrowed[..] else { panic!("{status:?}") };
    let (namespaces, refused) = (narrowed.namespaces.join(","), narrowed.refused.join(","));
    let named = [narrowed.type_.as_str(), &namespaces, &refused, &narrowed.message];
    assert_eq!((named, &narrowed.since, status.types), (["type1", "a", "b", "no"], &Some(Time(since)), 2));
    assert_eq!(status.phase, AgentPhase::Degraded);
    assert!(status.message.contains("type1 in a"), "{}", status.message);
    let all = told(Phase::Live, &["a", "b"]);
    assert_eq!((all.phase, all.narrowed.len()), (AgentPhase::Live, 1), "all that is wanted is read");
    assert_eq!(told(Phase::Live, &[]).phase, AgentPhase::Degraded, "all namespaces are wanted");
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

    let failing = told(HealthReport { failing: Some((one, "no answer".into())), last_success: Some(noon), ..answered });
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
    facts.active_plan.rejected = Some(("r8".into(), "bad".into()));
    let status = compose(facts);
    assert_eq!((status.applied_revision.as_str(), status.rejected_revision.as_deref()), ("r7", Some("r8")));
    assert!(status.message.contains("bad"), "{}", status.message);
}
