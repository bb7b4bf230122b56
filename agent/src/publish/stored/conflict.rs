//! What to do when the stream holds something else than what a message was to replace. Pure.
//!
//! Each message names the sequence that it replaces, so that of two agents that run by mistake, the slower one never
//! overwrites what the faster one knows, and a message whose acknowledgement was lost is not taken for somebody else's.

use crate::encode::EventType;
use crate::object::{ResourceVersion, Uid};
use crate::publish::context::Found;
use crate::stream::Stamp;

/// What a message was to store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mine<'a> {
    pub(super) stamp: &'a Stamp,
    /// Whether the stream's message was given way to before, and nothing came of it: then ours is the truth, as after a
    /// restore of etcd from a backup, when versions begin anew.
    pub(super) insists: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored already, at this sequence.
    Stored(u64),
    /// Store it in place of the message with this sequence; 0 when there is none.
    Replace(u64),
    /// Somebody knows more. Wait whether our own watch learns of it, too.
    GiveWay,
    /// The subject belongs to another incarnation by now: the delete of this one needs no place there.
    Superseded,
}

/// Judges by what the stream holds under the subject, if it holds anything.
pub(super) fn judge(mine: Mine<'_>, found: Option<&Found>) -> Verdict {
    let Some(Found { stamp, sequence }) = found else { return Verdict::Replace(0) };
    let sequence = *sequence;
    // What no agent stored has no business there.
    let Some(theirs) = stamp else { return Verdict::Replace(sequence) };
    let Mine { stamp, insists } = mine;
    let same_object = same(stamp.uid.as_ref(), theirs.uid.as_ref()) && stamp.api_version == theirs.api_version;
    let is_ahead = stamp.resource_version.is_older_than(&theirs.resource_version);
    match (stamp.event, theirs.event) {
        (EventType::Deleted, EventType::Deleted) => Verdict::Stored(sequence),
        (EventType::Deleted, _) if same_object => Verdict::Replace(sequence),
        (EventType::Deleted, _) => Verdict::Superseded,
        // Only a delete that is newer says that the object is gone: the objects of a type that was not to be watched for a
        // while, or that a list did not show, were deleted at the version at which they may come back. Whose delete it is
        // does not matter: a later incarnation of the name came after this one was gone.
        (_, EventType::Deleted) if is_ahead && comparable(stamp, theirs) && !insists => Verdict::GiveWay,
        (_, EventType::Deleted) => Verdict::Replace(sequence),
        _ if same_object && says_the_same(stamp, theirs) => Verdict::Stored(sequence),
        _ if is_ahead && comparable(stamp, theirs) && !insists => Verdict::GiveWay,
        _ => Verdict::Replace(sequence),
    }
}

/// One that was shortened is no match for one that was not.
fn says_the_same(mine: &Stamp, theirs: &Stamp) -> bool {
    let is_as_much = theirs.needs.is_none() || mine.needs.is_some();
    mine.hash == theirs.hash && mine.encoding == theirs.encoding && is_as_much
}

/// Versions of two groups, or of two storages, say nothing about each other.
fn comparable(mine: &Stamp, theirs: &Stamp) -> bool {
    mine.api_version == theirs.api_version && mine.resource_version != ResourceVersion::None
}

fn same(mine: Option<&Uid>, theirs: Option<&Uid>) -> bool {
    mine == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(event: EventType, uid: &str, version: &str, hash: u64) -> Stamp {
        Stamp {
            uid: (!uid.is_empty()).then(|| Uid::new(uid)),
            resource_version: ResourceVersion::new(version),
            hash,
            event,
            api_version: "v1".into(),
            kind: "Thing".into(),
            encoding: "e1".into(),
            needs: None,
        }
    }

    fn verdict(mine: &Stamp, theirs: &Stamp) -> Verdict {
        judged(Mine { stamp: mine, insists: false }, theirs)
    }

    fn judged(mine: Mine<'_>, theirs: &Stamp) -> Verdict {
        judge(mine, Some(&Found { stamp: Some(theirs.clone()), sequence: 9 }))
    }

    use EventType::{Added, Deleted, Modified};

    #[test]
    fn a_lost_acknowledgement_is_not_a_conflict() {
        assert_eq!(verdict(&stamp(Added, "u", "5", 1), &stamp(Added, "u", "5", 1)), Verdict::Stored(9));
        assert_eq!(verdict(&stamp(Deleted, "u", "5", 0), &stamp(Deleted, "u", "5", 0)), Verdict::Stored(9));
    }

    #[test]
    fn newer_replaces_older_and_never_the_other_way_round() {
        assert_eq!(verdict(&stamp(Modified, "u", "6", 2), &stamp(Added, "u", "5", 1)), Verdict::Replace(9));
        let (late, ahead) = (stamp(Modified, "u", "6", 2), stamp(Modified, "u", "7", 3));
        assert_eq!(verdict(&late, &ahead), Verdict::GiveWay);
        assert_eq!(judged(Mine { stamp: &late, insists: true }, &ahead), Verdict::Replace(9));
        assert_eq!(verdict(&stamp(Added, "v", "8", 1), &stamp(Added, "u", "5", 1)), Verdict::Replace(9));
    }

    #[test]
    fn a_type_that_is_watched_again_comes_back_at_once() {
        assert_eq!(verdict(&stamp(Added, "u", "6", 2), &stamp(Deleted, "u", "6", 0)), Verdict::Replace(9));
    }

    #[test]
    fn a_deleted_uid_does_not_come_back_but_a_name_does() {
        assert_eq!(verdict(&stamp(Modified, "u", "6", 2), &stamp(Deleted, "u", "7", 0)), Verdict::GiveWay);
        assert_eq!(verdict(&stamp(Added, "v", "8", 2), &stamp(Deleted, "u", "7", 0)), Verdict::Replace(9));
        assert_eq!(verdict(&stamp(Added, "", "6", 2), &stamp(Deleted, "", "5", 0)), Verdict::Replace(9));
        assert_eq!(verdict(&stamp(Added, "", "4", 2), &stamp(Deleted, "", "5", 0)), Verdict::GiveWay);
    }

    #[test]
    fn an_incarnation_does_not_come_back_after_the_delete_of_a_later_one() {
        // A watch that goes on from a checkpoint behind the stream tells of both once more.
        let (first, third) = (stamp(Added, "u1", "5", 1), stamp(Deleted, "u3", "9", 0));
        assert_eq!(verdict(&first, &third), Verdict::GiveWay);
        assert_eq!(judged(Mine { stamp: &first, insists: true }, &third), Verdict::Replace(9));
        let other_version = Stamp { api_version: "v2".into(), ..third };
        assert_eq!(verdict(&first, &other_version), Verdict::Replace(9));
    }

    #[test]
    fn a_delete_takes_out_only_its_own_incarnation() {
        assert_eq!(verdict(&stamp(Deleted, "u", "6", 0), &stamp(Modified, "u", "5", 1)), Verdict::Replace(9));
        assert_eq!(verdict(&stamp(Deleted, "u", "6", 0), &stamp(Added, "v", "8", 1)), Verdict::Superseded);
        let other_version = Stamp { api_version: "v2".into(), ..stamp(Added, "u", "5", 1) };
        assert_eq!(verdict(&stamp(Deleted, "u", "6", 0), &other_version), Verdict::Superseded);
    }

    #[test]
    fn what_no_agent_stored_is_replaced() {
        let found = Found { stamp: None, sequence: 9 };
        for event in [Added, Deleted] {
            let mine = stamp(event, "u", "5", 1);
            assert_eq!(judge(Mine { stamp: &mine, insists: false }, Some(&found)), Verdict::Replace(9));
        }
    }

    #[test]
    fn an_empty_place_is_taken_and_another_encoding_replaced() {
        let mine = stamp(Added, "u", "5", 1);
        assert_eq!(judge(Mine { stamp: &mine, insists: false }, None), Verdict::Replace(0));
        let other = Stamp { encoding: "e0".into(), ..mine.clone() };
        assert_eq!(verdict(&mine, &other), Verdict::Replace(9));
    }

    #[test]
    fn a_shortened_message_gives_way_to_the_whole() {
        let whole = stamp(Added, "u", "5", 1);
        let shortened = Stamp { needs: Some(7), ..whole.clone() };
        assert_eq!(verdict(&whole, &shortened), Verdict::Replace(9));
        assert_eq!(verdict(&shortened, &whole), Verdict::Stored(9));
        assert_eq!(verdict(&shortened, &shortened), Verdict::Stored(9));
    }
}
