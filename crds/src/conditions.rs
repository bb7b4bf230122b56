//! Condition types and reasons of a MeshSync, and the one way to set a condition.
//!
//! Conventions: Kubernetes API conventions, "Typical status properties"; every condition is present from the first
//! reconciliation on, so that a missing one means "not yet looked at" only before that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// All of what was asked for is in force and the agent is live.
pub const READY: &str = "Ready";
/// `informer_config` could be resolved against live discovery.
pub const RESOLVED: &str = "Resolved";
/// The agent's rights are in place.
pub const AUTHORIZED: &str = "Authorized";
/// The broker can be reached.
pub const BROKER_AVAILABLE: &str = "BrokerAvailable";
/// The agent's Deployment is available and has acknowledged the current configuration.
pub const AGENT_AVAILABLE: &str = "AgentAvailable";
/// What the agent holds is with the broker.
pub const PUBLISHED: &str = "Published";

/// What a condition says, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Some(true)` = True, `Some(false)` = False, `None` = Unknown.
    pub status: Option<bool>,
    /// Static, PascalCase.
    pub reason: &'static str,
    /// For people; never holds a credential.
    pub message: String,
}

impl Verdict {
    /// The condition holds.
    #[must_use]
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(true), reason, message: message.into() }
    }

    /// The condition does not hold.
    #[must_use]
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason, message: message.into() }
    }

    /// It is not known yet.
    #[must_use]
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: None, reason, message: message.into() }
    }
}

/// Longest message that is stored: the API server refuses more than 32,768 characters.
const MAX_MESSAGE: usize = 4096;

/// Sets the condition `type_` in `conditions`; its transition time changes only with its status.
///
/// Returns whether anything but the time differs from before.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let status = match verdict.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let message: String = verdict.message.chars().take(MAX_MESSAGE).collect();
    let old = conditions.iter().position(|c| c.type_ == type_).map(|at| conditions.remove(at));
    let last_transition_time = match &old {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        _ => Time(now),
    };
    let new = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time,
    };
    let changed = old.as_ref() != Some(&new);
    conditions.push(new);
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, READY, &Verdict::no("Waiting", "one"), Some(1), at(10)));
        assert!(!set(&mut conditions, READY, &Verdict::no("Waiting", "one"), Some(1), at(20)));
        assert!(set(&mut conditions, READY, &Verdict::no("Waiting", "two"), Some(1), at(30)));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert!(set(&mut conditions, READY, &Verdict::yes("Live", "three"), Some(2), at(40)));
        assert_eq!(conditions[0].last_transition_time, Time(at(40)));
        assert_eq!((conditions.len(), conditions[0].observed_generation), (1, Some(2)));
    }
}
