//! Up to which message core subscribers were sent what is stored. It is noted in the stream now and then, and at the end: an
//! agent that begins tells them the rest, if the one before it was killed.

/// See the module. Numbers are those of [`super::flight`], sequences those of the stream.
#[derive(Debug)]
pub(super) struct ToldUpTo {
    /// What the mark in the stream says.
    marked: u64,
    /// Sequence of the newest message that was sent on.
    newest: u64,
    /// What the next mark will say, and the number that has to be proven first.
    candidate: Option<(u64, u64)>,
    /// The place in the outbox that everything that is being told again is before.
    again: Option<u64>,
}

impl ToldUpTo {
    /// Begins with what the mark says and the newest message about an object.
    pub(super) const fn new(marked: u64, newest: u64) -> Self {
        Self { marked, newest, candidate: None, again: None }
    }

    /// The message with this sequence was sent on.
    pub(super) fn sent(&mut self, sequence: u64) {
        self.newest = self.newest.max(sequence);
    }

    /// What had not arrived was put into the outbox once more, all of it before this place.
    pub(super) fn again_before(&mut self, order: u64) {
        self.again = Some(order);
    }

    /// What the mark is to say from now on, if that is more than it says. `unproven` are the oldest and the newest number that
    /// are not proven, `oldest_order` is the oldest place in the outbox of what waits or is in flight: that is looked for only
    /// where it matters.
    pub(super) fn due(
        &mut self,
        unproven: Option<(u64, u64)>,
        oldest_order: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        if self.again.is_some_and(|before| oldest_order().is_some_and(|oldest| oldest < before)) {
            return None;
        }
        self.again = None;
        let newest_number = unproven.map_or(0, |(_, newest)| newest);
        let (sequence, number) = *self.candidate.get_or_insert((self.newest, newest_number));
        if unproven.is_some_and(|(oldest, _)| oldest <= number) {
            return None;
        }
        self.candidate = None;
        (sequence > self.marked).then(|| {
            self.marked = sequence;
            sequence
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(told: &mut ToldUpTo, unproven: Option<(u64, u64)>) -> Option<u64> {
        told.due(unproven, || None)
    }

    #[test]
    fn what_is_marked_was_proven() {
        let mut told = ToldUpTo::new(3, 3);
        assert_eq!(due(&mut told, None), None, "it says so already");
        told.sent(5);
        assert_eq!(due(&mut told, Some((8, 8))), None);
        told.sent(6);
        assert_eq!(due(&mut told, Some((8, 9))), None);
        assert_eq!(due(&mut told, Some((9, 9))), Some(5), "what came later does not hold it up");
        assert_eq!(due(&mut told, Some((9, 9))), None);
        assert_eq!(due(&mut told, None), Some(6));
        assert_eq!(due(&mut told, None), None, "once is enough");
    }

    #[test]
    fn nothing_is_marked_before_what_is_told_again_has_left() {
        let mut told = ToldUpTo::new(0, 7);
        told.again_before(20);
        assert_eq!(told.due(None, || Some(19)), None);
        assert_eq!(told.due(None, || Some(20)), Some(7));
    }
}
