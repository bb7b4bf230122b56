//! From where a watch may go on: one decision, which every way into a watch passes.

use crate::apiserver::request::Reason;
use crate::object::ResourceVersion;

/// What a version to watch from is the version of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// A complete list, in pages or by stream.
    List,
    /// A bookmark of a watch.
    Bookmark,
    /// An object that came with an event.
    Event,
    /// What an earlier process stored: nothing is known of what happened to the server since.
    Checkpoint,
}

/// A version to watch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Every change up to this version is in the snapshot.
    pub(super) version: ResourceVersion,
    /// Where it comes from.
    pub(super) provenance: Provenance,
    /// Whether the server may be another one than the one that gave it.
    pub(super) is_in_doubt: bool,
}

impl Start {
    pub(super) fn new(version: ResourceVersion, provenance: Provenance) -> Self {
        Self { version, provenance, is_in_doubt: provenance == Provenance::Checkpoint }
    }

    /// Whether there is a version at all: that of a list may be missing, or `0`, which means "any".
    pub(super) fn has_version(&self) -> bool {
        is_known(&self.version)
    }

    /// The watch came to `version`. Where its list had none, that of an object is none either: nothing says that whatever is
    /// older has been seen.
    pub(super) fn advance(&mut self, version: ResourceVersion, provenance: Provenance) {
        if provenance == Provenance::Bookmark || self.has_version() {
            *self = Self { version, provenance, is_in_doubt: self.is_in_doubt };
        }
    }
}

/// Whether a version says anything.
pub(super) fn is_known(version: &ResourceVersion) -> bool {
    !matches!(version, ResourceVersion::None | ResourceVersion::Number(0))
}

/// Whether a watch may go on from somewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Resume,
    /// That depends on the version that the server is at.
    AskServer,
    /// It would miss something.
    Relist(Reason),
}

/// Whether a watch may go on from `start` on a server that is at the version `server`, where that is known.
///
/// A watch from a version that the server has yet to reach, because its storage was restored from a backup, is silent until
/// then, and misses everything before.
pub(super) fn may_resume(start: &Start, server: Option<&ResourceVersion>) -> Verdict {
    if !start.has_version() {
        return Verdict::Relist(Reason::NoVersion);
    }
    match (server, start.provenance) {
        (None, Provenance::Checkpoint) => Verdict::AskServer,
        (None, _) if start.is_in_doubt => Verdict::AskServer,
        (None, Provenance::List | Provenance::Bookmark | Provenance::Event) => Verdict::Resume,
        (Some(server), _) if !is_known(server) => Verdict::Relist(Reason::NoVersion),
        (Some(server), _) if server.is_older_than(&start.version) => {
            let (server, seen) = (server.clone(), start.version.clone());
            Verdict::Relist(Reason::ServerIsOlder { server, seen })
        }
        (Some(_), _) => Verdict::Resume,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_resumes_only_where_it_misses_nothing() {
        use Provenance::{Bookmark, Checkpoint, Event, List};
        let decide = |version: &str, provenance, doubt, server: Option<&str>| {
            let start = Start { is_in_doubt: doubt, ..Start::new(ResourceVersion::new(version), provenance) };
            may_resume(&start, server.map(ResourceVersion::new).as_ref())
        };
        for provenance in [List, Bookmark, Event] {
            assert_eq!(decide("9", provenance, false, None), Verdict::Resume);
            assert_eq!(decide("9", provenance, true, None), Verdict::AskServer);
        }
        assert_eq!(decide("9", Checkpoint, false, None), Verdict::AskServer, "another process, maybe another server");
        let older = Reason::ServerIsOlder { server: ResourceVersion::new("8"), seen: ResourceVersion::new("9") };
        for provenance in [List, Bookmark, Event, Checkpoint] {
            assert_eq!(decide("9", provenance, true, Some("9")), Verdict::Resume);
            assert_eq!(decide("9", provenance, true, Some("8")), Verdict::Relist(older.clone()));
            assert_eq!(decide("9", provenance, true, Some("")), Verdict::Relist(Reason::NoVersion));
            for none in ["", "0"] {
                assert_eq!(decide(none, provenance, false, Some("9")), Verdict::Relist(Reason::NoVersion));
            }
        }
        assert_eq!(decide("text", Event, true, Some("other")), Verdict::Resume, "the server is the judge of those");
    }

    #[test]
    fn what_came_with_an_event_is_no_version_where_the_list_had_none() {
        let mut start = Start::new(ResourceVersion::None, Provenance::List);
        start.advance(ResourceVersion::new("7"), Provenance::Event);
        assert!(!start.has_version());
        start.advance(ResourceVersion::new("8"), Provenance::Bookmark);
        start.advance(ResourceVersion::new("9"), Provenance::Event);
        assert_eq!(start, Start::new(ResourceVersion::new("9"), Provenance::Event));
    }
}
