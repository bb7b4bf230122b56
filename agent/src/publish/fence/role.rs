//! Whether this agent is the one that publishes its cluster, and what to tell people while it is not. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::instance::Instance;

/// How long nobody must have been heard before an agent takes the place of another one of its own cluster.
const SUCCEED_AFTER: Duration = Duration::from_secs(10);
/// And before it takes that of somebody else, whose objects it deletes from the stream: longer than an agent that crashes again
/// and again, or waits for a node, is away.
const REPLACE_AFTER: Duration = Duration::from_secs(600);

/// What another agent that publishes is to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// One of the same cluster, for the same MeshSync or for none: either may take the place of the other.
    Same,
    /// One for another MeshSync.
    OtherMeshSync,
    /// One of another cluster with the same id.
    OtherCluster,
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// What this agent does for its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It publishes, or is about to.
    Active,
    /// Another agent does.
    Standby(Standby),
}

/// Another agent publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standby {
    /// What it is to this one.
    pub(crate) relation: Relation,
    /// Who it is.
    pub(crate) other: Instance,
    /// Since when this one stands by.
    pub(crate) since: Timestamp,
    /// When the other one was heard last.
    heard: Instant,
}

impl Role {
    pub(crate) const fn standby(&self) -> Option<&Standby> {
        match self {
            Self::Active => None,
            Self::Standby(standby) => Some(standby),
        }
    }

    /// Whether it publishes.
    pub(crate) const fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }

    /// The role after another agent was heard to publish.
    pub(in crate::publish) fn after_hearing(&self, relation: Relation, other: Instance, now: Instant) -> Self {
        let since = self.standby().map_or_else(Timestamp::now, |standby| standby.since);
        Self::Standby(Standby { relation, other, since, heard: now })
    }

    /// Whether nobody has been heard for so long that this agent may publish.
    pub(in crate::publish) fn may_begin(&self, now: Instant) -> bool {
        let Self::Standby(Standby { relation, heard, .. }) = self else { return true };
        let patience = if *relation == Relation::Same { SUCCEED_AFTER } else { REPLACE_AFTER };
        now.duration_since(*heard) >= patience
    }

    /// Nobody could be asked: the one that publishes cannot reach the broker either.
    pub(in crate::publish) fn unreachable(&mut self, now: Instant) {
        if let Self::Standby(standby) = self {
            standby.heard = now;
        }
    }
}

impl Standby {
    /// What this other agent is, if that is known for good.
    pub(in crate::publish) fn settled(&self, other: &Instance) -> Option<Relation> {
        let is_settled = self.other.id == other.id && !matches!(self.relation, Relation::Unknown(_));
        is_settled.then(|| self.relation.clone())
    }

    /// Whether people are to be told: the one that publishes reports for both where it is of the same MeshSync.
    pub(crate) fn is_trouble(&self) -> bool {
        self.relation != Relation::Same
    }

    /// In a word.
    pub(crate) const fn reason(&self) -> &'static str {
        match self.relation {
            Relation::Same => "Superseded",
            Relation::OtherMeshSync => "BrokerShared",
            Relation::OtherCluster => "ClusterIdShared",
            Relation::Unknown(_) => "AnotherPublishes",
        }
    }

    /// What is wrong, and what to do.
    pub(crate) fn message(&self) -> String {
        let other = &self.other;
        let id = "`spec.publish.clusterId` of a MeshSync, `--cluster-id` of an agent without one";
        match &self.relation {
            Relation::Same => {
                format!("another agent of this cluster publishes: {other}; this one takes over when that ends")
            }
            Relation::OtherMeshSync => format!(
                "another MeshSync of this cluster publishes into the same stream: its agent is {other}. Nothing is published or \
                 deleted; give one of the two a broker of its own (`spec.broker`), or an id of its own (`spec.publish.clusterId`)"
            ),
            Relation::OtherCluster => format!(
                "another cluster with this cluster's id, as a clone has it, publishes into the same stream: its agent is {other}. \
                 Nothing is published or deleted; give one of the clusters an id of its own ({id}), or a broker of its own"
            ),
            Relation::Unknown(problem) => format!(
                "another agent publishes this cluster's stream: {other}. Whether it is of this cluster cannot be told ({problem}). \
                 Nothing is published or deleted; end one of the agents, or give it an id of its own ({id}) or a broker of its own"
            ),
        }
    }
}

/// Whether this agent ends, of two that find each other publishing: as two that begin at the same moment do.
pub(in crate::publish) fn ends(mine: &Instance, other: &Instance, relation: &Relation) -> bool {
    let is_later = (mine.since, &mine.id) > (other.since, &other.id);
    // A successor in the same cluster was not answered by one that is back. Anybody else keeps what he has.
    if *relation == Relation::Same { !is_later } else { is_later }
}

/// Judges by versions of lists, in the order in which they were made: here, there, and here again. Those of one storage never
/// go back, so what comes from between them is between them. That of another cluster is anywhere.
pub(in crate::publish) fn is_same_storage(before: u64, theirs: u64, after: u64) -> bool {
    (before..=after).contains(&theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, second: i64) -> Instance {
        Instance {
            id: id.into(),
            name: format!("pod-{id}"),
            since: Timestamp::from_second(second).unwrap(),
            meshsync: None,
        }
    }

    #[test]
    fn of_two_that_find_each_other_just_one_ends() {
        let (first, second, third) = (instance("b", 7), instance("a", 9), instance("c", 9));
        for relation in [Relation::Same, Relation::OtherMeshSync, Relation::OtherCluster, Relation::Unknown("x".into())]
        {
            for (one, other) in [(&first, &second), (&second, &third), (&first, &third)] {
                assert_ne!(ends(one, other, &relation), ends(other, one, &relation));
            }
            assert_eq!(ends(&first, &second, &relation), relation == Relation::Same);
        }
    }

    #[test]
    fn who_stands_by_waits_longer_for_a_stranger_than_for_its_own() {
        let (now, second) = (Instant::now(), Duration::from_secs);
        assert!(Role::Active.may_begin(now));
        let own = Role::Active.after_hearing(Relation::Same, instance("a", 7), now);
        assert!(!own.may_begin(now + second(9)) && own.may_begin(now + second(10)));
        for relation in [Relation::OtherCluster, Relation::OtherMeshSync, Relation::Unknown(String::new())] {
            let mut role = Role::Active.after_hearing(relation, instance("a", 7), now);
            assert!(!role.may_begin(now + second(599)) && role.may_begin(now + second(600)));
            role.unreachable(now + second(599));
            assert!(!role.may_begin(now + second(1_198)), "whoever publishes had no broker either");
        }
    }

    #[test]
    fn a_person_reads_who_it_is_and_what_to_set() {
        let message = |relation| {
            let role = Role::Active.after_hearing(relation, instance("a", 7), Instant::now());
            let standby = role.standby().unwrap();
            format!("{}: {}", standby.reason(), standby.message())
        };
        for (relation, words) in [
            (Relation::Same, vec!["Superseded"]),
            (Relation::OtherMeshSync, vec!["BrokerShared", "spec.broker"]),
            (Relation::OtherCluster, vec!["ClusterIdShared", "spec.publish.clusterId", "--cluster-id"]),
            (Relation::Unknown("403".into()), vec!["AnotherPublishes", "(403)", "--cluster-id"]),
        ] {
            let text = message(relation);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(text.contains("pod-a, which publishes since 1970-01-01T00:00:07Z") && text.len() < 900, "{text}");
        }
    }

    #[test]
    fn only_what_lies_between_is_of_the_same_storage() {
        for (before, theirs, after, is_same) in
            [(5, 5, 5, true), (5, 6, 7, true), (5, 7, 7, true), (5, 4, 7, false), (5, 8, 7, false), (5, 900, 5, false)]
        {
            assert_eq!(is_same_storage(before, theirs, after), is_same, "{before} {theirs} {after}");
        }
    }
}
