//! Whether the stream holds what the cluster is: an independent look at both, type by type.
//!
//! Two digests are compared first; only where they differ, object by object. What differs because it is changing at this
//! moment is told apart by a second look.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use async_nats::jetstream::stream::Stream;
use kube::Client;
use serde::Serialize;

use crate::apiserver::RequestError;
use crate::encode::EventType;
use crate::object::{ObjectName, Uid};
use crate::plan::WatchSpec;
use crate::snapshot::Digest;
use crate::stream::{ReadError, Subjects, TypeKey, read_headers};
use crate::watch::Listing;

/// How an object differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// It exists and the stream does not have it.
    Missing,
    /// The stream has it and it does not exist, or its type is not watched.
    Extra,
    /// The stream has another state, or another incarnation, of it.
    Different,
}

/// An object that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// How.
    pub difference: Kind,
    /// Its type, such as `deployments.apps`.
    pub r#type: String,
    /// Namespace and name.
    pub name: String,
}

/// `missing    deployments.apps shop/web`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.difference {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Different => "different",
        };
        write!(f, "{word:<10} {} {}", self.r#type, self.name)
    }
}

/// Why a type cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The API server does not list it.
    #[error("the API server: {0}")]
    Cluster(#[from] RequestError),
    /// The broker does not give it.
    #[error(transparent)]
    Stream(#[from] ReadError),
}

/// Where the state is stored.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The stream.
    pub stream: &'a Stream,
    /// Its subjects.
    pub subjects: &'a Subjects,
}

/// One side of a comparison: uid and hash of each object.
type Side = HashMap<ObjectName, (Uid, u64)>;

/// What was found about one type.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Objects that exist.
    pub objects: usize,
    /// Those that differ.
    pub differences: BTreeSet<Difference>,
    /// The namespaces that were compared, where it is forbidden to list all.
    pub only: Option<Vec<String>>,
}

/// Compares one type.
///
/// # Errors
/// When one of the sides cannot be read.
pub async fn compare(client: &Client, spec: &WatchSpec, state: State<'_>) -> Result<Found, VerifyError> {
    let served = &spec.selected.served;
    let mut stored = stored(state, &TypeKey::from(served), Some(&served.api_version())).await?;
    let mut existing = Side::new();
    let mut listing = Listing::new(client, spec);
    while let Some(page) = listing.next_page().await? {
        existing.extend(page.into_iter().map(|object| (object.name, (object.uid, object.hash))));
    }
    let only = listing.only().map(<[String]>::to_vec);
    if let Some(only) = &only {
        keep_in(only, &mut stored);
    }
    let differences = if digest(&existing) == digest(&stored) {
        BTreeSet::new()
    } else {
        differences(&served.name(), &existing, &stored)
    };
    Ok(Found { objects: existing.len(), differences, only })
}

/// Objects in the stream whose types are none of `watched`.
///
/// # Errors
/// When the broker does not give them.
pub async fn strangers(state: State<'_>, watched: &[WatchSpec]) -> Result<BTreeSet<Difference>, VerifyError> {
    let known: BTreeSet<TypeKey> = watched.iter().map(|spec| TypeKey::from(&spec.selected.served)).collect();
    let mut extra = BTreeSet::new();
    read_headers(state.stream, state.subjects, state.subjects.all_objects(), |entry| {
        if entry.stamp.event != EventType::Deleted && !known.contains(&entry.key) {
            let (r#type, name) = (entry.key.to_string(), entry.name.to_string());
            extra.insert(Difference { difference: Kind::Extra, r#type, name });
        }
    })
    .await?;
    Ok(extra)
}

async fn stored(state: State<'_>, key: &TypeKey, api_version: Option<&str>) -> Result<Side, ReadError> {
    let mut side = Side::new();
    read_headers(state.stream, state.subjects, state.subjects.objects_of(key), |entry| {
        let stamp = entry.stamp;
        if stamp.event == EventType::Deleted {
            side.remove(&entry.name);
            return;
        }
        // Under another apiVersion it is another object to consumers.
        let hash =
            if api_version.is_some_and(|version| version != stamp.api_version) { !stamp.hash } else { stamp.hash };
        let uid = stamp.uid.unwrap_or_else(|| Uid::named(&entry.name));
        side.insert(entry.name, (uid, hash));
    })
    .await?;
    Ok(side)
}

/// Leaves out what is in other namespaces than `only`: nothing can be said of it.
fn keep_in(only: &[String], side: &mut Side) {
    side.retain(|name, _| name.namespace().is_some_and(|namespace| only.iter().any(|one| one == namespace)));
}

fn digest(side: &Side) -> Digest {
    side.iter().fold(Digest::default(), |digest, (name, (uid, hash))| digest.with(uid, name, *hash))
}

fn differences(r#type: &str, existing: &Side, stored: &Side) -> BTreeSet<Difference> {
    let difference =
        |difference, name: &ObjectName| Difference { difference, r#type: r#type.to_owned(), name: name.to_string() };
    let here = existing.iter().filter_map(|(name, state)| match stored.get(name) {
        None => Some(difference(Kind::Missing, name)),
        Some(other) if other != state => Some(difference(Kind::Different, name)),
        Some(_) => None,
    });
    let there = stored.keys().filter(|name| !existing.contains_key(*name)).map(|name| difference(Kind::Extra, name));
    here.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(objects: &[(&str, &str, u64)]) -> Side {
        objects.iter().map(|(name, uid, hash)| (ObjectName::new(Some("ns"), name), (Uid::new(uid), *hash))).collect()
    }

    #[test]
    fn of_other_namespaces_nothing_is_said() {
        let mut stored = side(&[("a", "u1", 1)]);
        stored.insert(ObjectName::new(Some("other"), "a"), (Uid::new("u2"), 2));
        stored.insert(ObjectName::new(None, "a"), (Uid::new("u3"), 3));
        keep_in(&["ns".to_owned(), "empty".to_owned()], &mut stored);
        assert_eq!(stored, side(&[("a", "u1", 1)]));
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let existing = side(&[("same", "u1", 1), ("changed", "u2", 2), ("again", "u3", 3), ("new", "u4", 4)]);
        let stored = side(&[("same", "u1", 1), ("changed", "u2", 9), ("again", "u0", 3), ("gone", "u5", 5)]);
        assert_ne!(digest(&existing), digest(&stored));
        let found: Vec<String> = differences("pods", &existing, &stored).iter().map(ToString::to_string).collect();
        let expected = [
            "missing    pods ns/new",
            "extra      pods ns/gone",
            "different  pods ns/again",
            "different  pods ns/changed",
        ];
        assert_eq!(found, expected);
        assert_eq!(digest(&existing), digest(&existing.clone()));
    }
}
