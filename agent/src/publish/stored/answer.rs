//! What the broker's answers mean for the objects that were sent.

use std::time::Instant;

use async_nats::Message;
use futures::{FutureExt, StreamExt};

use super::conflict::{Mine, Verdict, judge};
use super::flight::{Answer, Sent, SentObject, read_answer};
use super::send::Manner;
use super::session::{End, GIVE_WAY_FOR, PAUSES, RIVAL_FOR, Session};
use crate::encode::{Detail, EventType};
use crate::outbox::Action;
use crate::snapshot::Confirmation;

impl Session<'_> {
    /// Takes in an answer and whatever others have come meanwhile.
    pub(super) async fn take_answers(&mut self, first: Message) -> Option<End> {
        let mut message = first;
        loop {
            if let Some((number, sent)) = self.flight.take(&message.subject) {
                let answer = read_answer(&message);
                if let Answer::Stored { sequence, .. } = &answer {
                    self.reconciler.stored(*sequence);
                }
                // Whatever was sent before it over this connection has been handled, too.
                if answer != Answer::NoStream {
                    self.core.proven_up_to(number);
                }
                if let Some(end) = self.take_answer(sent, answer).await {
                    return Some(end);
                }
            }
            match self.answers.next().now_or_never() {
                Some(Some(next)) => message = next,
                _ => return None,
            }
        }
    }

    async fn take_answer(&mut self, sent: Sent, answer: Answer) -> Option<End> {
        self.heard |= matches!(sent, Sent::Object(_));
        match (sent, answer) {
            (Sent::Marker, _) => {}
            (sent, Answer::NoStream) => {
                // Back into the flight: it is not confirmed.
                self.flight.add(sent);
                return Some(End::NoStream);
            }
            (Sent::Checkpoint(_), Answer::Stored { .. }) => {}
            (Sent::Checkpoint(type_id), answer) => {
                tracing::debug!(?answer, "a checkpoint was not stored");
                self.checkpoints.failed(type_id);
            }
            (Sent::Object(object), Answer::Stored { sequence, duplicate: false }) => {
                // Another agent that runs by mistake may have told of what we have yet to store.
                if !(self.has_rival() && self.parts.queue.hand_over(&object.item)) {
                    self.core.send(&object.item, object.payload.clone(), self.flight.next_number()).await;
                }
                self.core.told(sequence);
                self.confirm(*object, sequence);
            }
            (Sent::Object(object), Answer::Stored { sequence, duplicate: true }) => {
                return self.resolve(object, Some(sequence)).await;
            }
            (Sent::Object(object), Answer::Conflict) => return self.resolve(object, None).await,
            (Sent::Object(object), Answer::Refused(reason)) => self.refused(*object, reason),
            (Sent::Object(object), Answer::Impossible(why)) => self.make_another(*object, why).await,
            (Sent::Object(object), Answer::Echo) => self.parts.queue.return_unconfirmed(object.item),
        }
        None
    }

    fn confirm(&mut self, object: SentObject, sequence: u64) {
        self.pause = PAUSES.0;
        self.parts.delivery.set_refusal(None);
        let SentObject { item, event, stamp, payload, .. } = object;
        if let Action::Upsert { uid, .. } = &item.action
            && let Some(table) = self.parts.store.table(item.type_id)
        {
            table.confirm(&item.name, uid, Confirmation { hash: stamp.hash, sequence });
        }
        self.parts.delivery.published(item.type_id, &item.name);
        self.parts.stats.published(event, payload.len());
        self.parts.queue.confirm(item);
    }

    fn refused(&mut self, object: SentObject, reason: String) {
        // All that was in flight is refused at once: one pause for it.
        if self.paused_until.is_none() {
            tracing::warn!(reason, retry_in = ?self.pause, "the stream refuses messages; everything waits");
            self.paused_until = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        self.parts.delivery.set_refusal(Some(reason));
        self.parts.queue.return_unconfirmed(object.item);
    }

    /// The stream holds something else than was to be replaced, or says that it took the message before, as `duplicate`: looks
    /// at it and decides.
    async fn resolve(&mut self, mut object: Box<SentObject>, duplicate: Option<u64>) -> Option<End> {
        let found = match self.parts.look_up(&self.stream, &object.subject).await {
            Ok(found) => found,
            Err(problem) => {
                tracing::warn!(%problem, "cannot look at what the stream holds");
                self.flight.add(Sent::Object(object));
                return Some(End::Silent);
            }
        };
        self.met_rival = Some(Instant::now());
        // Answers come in the order of the stream: what is newer than the newest of ours is somebody else's, who lives. Over a
        // later connection it can be ours, too: what the one before had swallowed may come out late.
        if self.generation <= 1 && found.as_ref().is_some_and(|found| self.reconciler.is_foreign(found.sequence)) {
            self.core.leave_to_rival();
        }
        let mine = Mine { stamp: &object.stamp, insists: object.insists };
        let verdict = judge(mine, found.as_ref());
        let theirs = found.and_then(|found| found.stamp);
        match verdict {
            // Whoever stored it has told core subscribers, or will: another agent that runs by mistake, which may know of a
            // later state by now, or an earlier session of ours, from which that is carried over. A delete that is carried
            // over comes this way once more, though: it is told if it is just the one that is stored.
            Verdict::Stored(sequence) => {
                let is_same = theirs.is_some_and(|theirs| theirs.resource_version == object.stamp.resource_version);
                if object.event == EventType::Deleted && is_same {
                    self.core.send(&object.item, object.payload.clone(), self.flight.next_number()).await;
                }
                self.confirm(*object, sequence);
            }
            Verdict::Replace(sequence) => self.store(object, sequence, duplicate).await,
            Verdict::GiveWay => {
                tracing::debug!(object = %object.item.name, "the stream knows more; waiting for the watch to tell");
                object.insists = true;
                self.gave_way.push((Instant::now() + GIVE_WAY_FOR, object));
            }
            Verdict::Superseded => {
                let SentObject { item, payload, stamp, .. } = *object;
                // Another version of the type has the place: whoever knew the old one is told.
                if theirs.is_some_and(|theirs| theirs.api_version != stamp.api_version) {
                    self.core.send(&item, payload, self.flight.next_number()).await;
                }
                self.parts.queue.confirm(item);
            }
        }
        None
    }

    fn has_rival(&self) -> bool {
        self.met_rival.is_some_and(|at| at.elapsed() < RIVAL_FOR)
    }

    pub(super) async fn retry_those_who_gave_way(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.gave_way.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, object) in due {
            let SentObject { item, insists, .. } = *object;
            self.send(item, Manner { insists, at_most: Detail::Full }).await;
        }
    }
}
