//! Up to which message core subscribers were sent what is stored. It is noted in the stream now and then, and at the end: an
//! agent that begins tells them the rest, if the one before it was killed.

/// See the module. Numbers are those of [`super::flight`], sequences those of the stream.
#[derive(Debug)]
pub(super) struct Told {
    /// What the mark in the stream says.
    marked: u64,
    /// Sequence of the newest message that was sent on.
    newest: u64,
    /// What the next mark will say, and the number that has to be proven first.
    candidate: Option<(u64, u64)>,
    /// The place in the outbox that everything that is being told again is before.
    again: Option<u64>,
}

/// How far the copies are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copies {
    /// The oldest and the newest number that are not proven.
    pub(super) unproven: Option<(u64, u64)>,
    /// The oldest place in the outbox of what waits or is in flight.
    pub(super) oldest_order: Option<u64>,
}

impl Told {
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

    /// What the mark is to say from now on, if that is more than it says.
    pub(super) fn due(&mut self, copies: Copies) -> Option<u64> {
        if self.again.is_some_and(|before| copies.oldest_order.is_some_and(|oldest| oldest < before)) {
            return None;
        }
        self.again = None;
        let newest_number = copies.unproven.map_or(0, |(_, newest)| newest);
        let (sequence, number) = *self.candidate.get_or_insert((self.newest, newest_number));
        if copies.unproven.is_some_and(|(oldest, _)| oldest <= number) {
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

    const ALL_PROVEN: Copies = Copies { unproven: None, oldest_order: None };

    #[test]
    fn what_is_marked_was_proven() {
        let mut told = Told::new(3, 3);
        assert_eq!(told.due(ALL_PROVEN), None, "it says so already");
        told.sent(5);
        let unproven = |oldest, newest| Copies { unproven: Some((oldest, newest)), ..ALL_PROVEN };
        assert_eq!(told.due(unproven(8, 8)), None);
        told.sent(6);
        assert_eq!(told.due(unproven(8, 9)), None);
        assert_eq!(told.due(unproven(9, 9)), Some(5), "what came later does not hold it up");
        assert_eq!(told.due(unproven(9, 9)), None);
        assert_eq!(told.due(ALL_PROVEN), Some(6));
        assert_eq!(told.due(ALL_PROVEN), None, "once is enough");
    }

    #[test]
    fn nothing_is_marked_before_what_is_told_again_has_left() {
        let mut told = Told::new(0, 7);
        told.again_before(20);
        let waiting = |order| Copies { oldest_order: Some(order), ..ALL_PROVEN };
        assert_eq!(told.due(waiting(19)), None);
        assert_eq!(told.due(waiting(20)), Some(7));
    }
}
