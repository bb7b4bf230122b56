//! What a session leaves in the stream for the one after it: how far the watches are, and how far core subscribers are.

use async_nats::header::NATS_EXPECTED_LAST_SEQUENCE;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use futures::StreamExt;

use super::flight::{Answer, Impossible, Sent, read_answer};
use super::send::LONGEST_SUBJECT;
use super::session::{ACKNOWLEDGED_WITHIN, End, Session};
use crate::publish::context::PublishContext;
use crate::publish::error::SessionError;
use crate::stream::{Checkpoint, Subjects, ToldMark};

impl Session<'_> {
    /// Stores what is due.
    pub(super) async fn leave_marks(&mut self) {
        self.store_checkpoints().await;
        if let Some(sequence) = self.core.due_mark(&self.parts.queue) {
            self.store_told(sequence).await;
        }
        if self.core.has_unproven() && self.flight.is_empty() {
            self.send_marker().await;
        }
    }

    async fn store_checkpoints(&mut self) {
        let PublishContext { store, progress, queue, .. } = &*self.parts;
        // What is not in the stream is known only after a list.
        let awaits_list = |type_id| {
            self.parts.delivery.lacks_objects(type_id) || store.table(type_id).is_none_or(|table| table.awaits_list())
        };
        for (type_id, position) in self.checkpoints.due(progress, queue, awaits_list) {
            let Some(table) = self.parts.store.table(type_id) else { continue };
            let digest = table.stored_digest();
            let checkpoint = Checkpoint {
                resource_version: position.version.to_string(),
                fingerprint: format!("{:016x}", position.fingerprint),
                objects: digest.objects,
                digest: digest.to_string(),
            };
            let Ok(payload) = serde_json::to_vec(&checkpoint) else { continue };
            let subject = self.subjects.checkpoint(&position.key);
            if subject.len() > LONGEST_SUBJECT {
                // The type is listed when an agent begins.
                continue;
            }
            self.send_mark(Sent::Checkpoint(type_id), subject, payload.into()).await;
        }
    }

    /// Notes that core subscribers were sent everything up to this sequence.
    pub(super) async fn store_told(&mut self, sequence: u64) {
        let Ok(payload) = serde_json::to_vec(&ToldMark { sequence }) else { return };
        self.send_mark(Sent::Marker, self.subjects.told_mark(), payload.into()).await;
    }

    /// Sends what is about no object. If the client library does not take it, nothing waits for its answer.
    async fn send_mark(&mut self, sent: Sent, subject: String, payload: Bytes) {
        let answer_to = self.flight.add(sent);
        let client = &self.parts.broker.client;
        if let Err(error) = client.publish_with_reply(subject, answer_to.clone(), payload).await {
            tracing::warn!(%error, "the broker client refuses a mark");
            self.flight.withdraw(&answer_to);
        }
    }

    /// Sends something of which only the answer matters.
    pub(super) async fn send_marker(&mut self) {
        let answer_to = self.flight.add(Sent::Marker);
        if let Err(error) = self.parts.broker.client.publish(answer_to.clone(), Bytes::new()).await {
            tracing::warn!(%error, "the broker client refuses a marker");
            self.flight.withdraw(&answer_to);
        }
    }

    /// Everything is published: leaves the last marks, so that the next agent begins where this one ends.
    pub(super) async fn finish(&mut self) -> End {
        let deadline = tokio::time::Instant::now() + ACKNOWLEDGED_WITHIN;
        self.store_checkpoints().await;
        if self.core.has_unproven() {
            self.send_marker().await;
        }
        if self.answered(deadline).await {
            // The one that is under way, and the one after it.
            while let Some(sequence) = self.core.due_mark(&self.parts.queue) {
                self.store_told(sequence).await;
            }
            self.answered(deadline).await;
        }
        End::Drained
    }

    /// Waits for all answers; whether they came.
    async fn answered(&mut self, deadline: tokio::time::Instant) -> bool {
        while !self.flight.is_empty() {
            let Ok(Some(answer)) = tokio::time::timeout_at(deadline, self.answers.next()).await else { return false };
            if self.take_answers(answer).await.is_some() {
                return false;
            }
        }
        true
    }
}

/// What became of a mark that was to be the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// It is, at this sequence.
    At(u64),
    /// Something else was stored before.
    NotLast,
    /// The stream takes nothing now.
    Refused,
}

impl PublishContext {
    /// Notes how far core subscribers are, if the message with sequence `newest` is still the last one. As the server stores
    /// in the order in which messages come, nothing of an earlier connection that is gone comes after it.
    pub(super) async fn mark_if_last(
        &self,
        generation: u64,
        subjects: &Subjects,
        told: u64,
        newest: u64,
    ) -> Result<Marked, SessionError> {
        let payload =
            serde_json::to_vec(&ToldMark { sequence: told }).map_err(|error| SessionError(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, newest.to_string());
        let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(ACKNOWLEDGED_WITHIN));
        let mut connection = self.broker.connection.clone();
        let answer = tokio::select! {
            answer = self.broker.client.send_request(subjects.told_mark(), request) => answer,
            _ = connection.wait_for(|now| !now.is(generation)) => return Err(SessionError("the connection broke".to_owned())),
        };
        let captured = subjects.captured().join(" and ");
        let answer =
            answer.map_err(|error| SessionError(format!("{error}; may the broker's user publish to {captured}?")))?;
        match read_answer(&answer) {
            Answer::Stored { sequence, .. } => Ok(Marked::At(sequence)),
            Answer::Conflict => Ok(Marked::NotLast),
            Answer::Refused(reason) | Answer::Impossible(Impossible { reason, .. }) => {
                tracing::warn!(reason, "the stream refuses a mark");
                Ok(Marked::Refused)
            }
            Answer::NoStream | Answer::Echo => Err(SessionError("the stream is gone".to_owned())),
        }
    }
}

/// What the mark says up to which core subscribers were told; `None` where an agent stored that knew no mark.
pub(super) async fn read_told(stream: &Stream, subjects: &Subjects) -> Result<Option<u64>, SessionError> {
    match stream.direct_get_last_for_subject(subjects.told_mark()).await {
        // One that cannot be read is no reason to leave anything out.
        Ok(mark) => Ok(Some(serde_json::from_slice(&mark.payload).map_or(0, |ToldMark { sequence }| sequence))),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(SessionError(error.to_string())),
    }
}
