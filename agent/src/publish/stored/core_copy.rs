//! The same messages once more for core NATS, which keeps nothing: what of it may not have arrived is known.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;

use super::told::ToldUpTo;
use crate::outbox::Item;
use crate::outbox::Outbox;
use crate::publish::context::DATA_SUBJECT;
use crate::publish::latecomers::{Latecomers, Note};
use crate::publish::wait::until;

/// A broker that dies takes with it what it had not written to its consumers yet.
const RECENT: Duration = Duration::from_secs(1);

/// Copies that may be on their way: what is in flight to be stored bounds them, unless they are all there is to send.
const MOST_UNPROVEN: usize = 2_048;

/// Notes for which there is room even when there are none.
const KEPT_CAPACITY: usize = 1_024;

/// See the module.
pub(super) struct CoreCopy {
    client: Client,
    latecomers: Option<Latecomers>,
    told: ToldUpTo,
    /// Sent, and nothing that was sent later has been answered yet: with the number of the first such message.
    unproven: VecDeque<(u64, Note)>,
    /// Handled by the broker a moment ago.
    recent: VecDeque<(Instant, Note)>,
}

impl CoreCopy {
    pub(super) fn new(client: Client, latecomers: Option<Latecomers>, told: ToldUpTo) -> Self {
        Self { client, latecomers, told, unproven: VecDeque::new(), recent: VecDeque::new() }
    }

    /// Sends a copy; `next_number` is that of the next message that will be answered.
    pub(super) async fn send(&mut self, item: &Item, payload: Bytes, next_number: u64) {
        if let Err(error) = self.client.publish(DATA_SUBJECT, payload).await {
            tracing::error!(object = %item.name, %error, "core subscribers cannot be told of an object");
        }
        if let Some(latecomers) = &mut self.latecomers {
            latecomers.note(item);
        }
        self.unproven.push_back((next_number, Note::of(item)));
    }

    /// The message with this sequence was sent on, or something newer about the same object is about to be.
    pub(super) fn told(&mut self, sequence: u64) {
        self.told.sent(sequence);
    }

    /// The message with this number was answered: the broker has handled what was sent before it.
    pub(super) fn proven_up_to(&mut self, number: u64) {
        let now = Instant::now();
        while self.unproven.front().is_some_and(|(before, _)| *before <= number) {
            self.recent.extend(self.unproven.pop_front().map(|(_, note)| (now, note)));
        }
        self.forget_old(now);
    }

    /// Lets go of what arrived long enough ago.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENT) {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent.shrink_to(KEPT_CAPACITY);
        }
        if self.unproven.is_empty() {
            self.unproven.shrink_to(KEPT_CAPACITY);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unproven.len() < MOST_UNPROVEN
    }

    pub(super) fn has_unproven(&self) -> bool {
        !self.unproven.is_empty()
    }

    /// Up to which sequence everything has arrived, when that is to be noted.
    pub(super) fn due_mark(&mut self, queue: &Outbox) -> Option<u64> {
        if self.latecomers.as_ref().is_some_and(|latecomers| !latecomers.is_empty()) {
            return None;
        }
        let number = |note: Option<&(u64, Note)>| note.map(|(number, _)| *number);
        let unproven = number(self.unproven.front()).zip(number(self.unproven.back()));
        self.told.due(unproven, || queue.oldest_orders().into_values().min())
    }

    /// Until [`CoreCopy::repeat_if_due`] has something to do.
    pub(super) async fn due(&self) {
        until(self.latecomers.as_ref().map(Latecomers::until)).await;
    }

    pub(super) fn repeat_if_due(&mut self, queue: &Outbox) {
        if let Some(due) = self.latecomers.take_if(|latecomers| latecomers.until() <= Instant::now()) {
            let repeated = due.repeat(queue);
            self.told.again_before(queue.next_order());
            tracing::debug!(repeated, "published again for consumers that reconnected later");
        }
    }

    /// Another agent writes into the stream, and tells core subscribers: what this one would repeat could be older than what
    /// that one has told since.
    pub(super) fn leave_to_rival(&mut self) {
        if self.latecomers.take().is_some_and(|latecomers| !latecomers.is_empty()) {
            tracing::info!("another agent writes into the stream: what may not have arrived is left to it");
        }
    }

    /// What consumers may not have got, to be sent again over the next connection.
    pub(super) fn into_unproven(self) -> Vec<Note> {
        let recent = self.recent.into_iter().filter(|(at, _)| at.elapsed() <= RECENT).map(|(_, note)| note);
        let waiting = self.latecomers.into_iter().flat_map(Latecomers::into_notes);
        waiting.chain(recent).chain(self.unproven.into_iter().map(|(_, note)| note)).collect()
    }
}
