//! Publishing with JetStream: each state is stored under its object's subject, and sent to core subscribers once it is.
//!
//! The stream is the truth that consumers and the next agent begin from, so what is in it is known at all times: it is read
//! back at each connection, every message names the one that it replaces, and nothing counts as told before it is stored.

mod answer;
mod checkpoints;
mod conflict;
mod core_copy;
mod fetch;
mod flight;
mod leave;
mod reconcile;
mod restore;
mod send;
mod session;
mod told;

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::Message;
use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt};

use self::checkpoints::Checkpoints;
use self::core_copy::CoreCopy;
use self::fetch::{Fetched, Fetches};
use self::flight::{Flight, Sent};
use self::leave::{Marked, read_told};
use self::reconcile::{Look, Reconciler};
use self::restore::{Report, Wanted, restore};
use self::send::Manner;
use self::session::*;
pub(super) use self::session::{End, Session};
use self::told::ToldUpTo;
use super::context::PublishContext;
use super::error::SessionError;
use super::latecomers::Note;
use super::message::Encoding;
use super::wait::{until, wait};
use crate::outbox::{Item, Next};
use crate::snapshot::Digest;
use crate::stream::{Checkpoint, StreamSettings, Subjects, read_checkpoints};

impl<'p> Session<'p> {
    /// Begins on a stream that [`crate::stream::ensure`] made ready.
    ///
    /// # Errors
    /// When the stream cannot be read, or the connection does not take a subscription.
    pub(super) async fn begin(
        parts: &'p mut PublishContext,
        encoding: Encoding,
        generation: u64,
        mut stream: Stream,
        settings: StreamSettings,
    ) -> Result<Self, SessionError> {
        let client = parts.broker.client.clone();
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|error| SessionError(error.to_string()))?;
        let subjects = Subjects::new(&encoding.cluster_id);
        let (reconciler, told) = begin_at_the_end(parts, &encoding, generation, &mut stream, &subjects).await?;
        let core = CoreCopy::new(client, parts.new_connection(generation), told);
        let most_bytes = parts.most_bytes(&stream);
        Ok(Self {
            parts,
            encoding,
            generation,
            stream,
            subjects,
            settings,
            flight: Flight::new(inbox),
            answers,
            core,
            fetches: Fetches::default(),
            checkpoints: Checkpoints::default(),
            reconciler,
            gave_way: Vec::new(),
            withdrawn: Vec::new(),
            met_rival: None,
            paused_until: None,
            pause: PAUSES.0,
            heard: false,
            most_bytes,
        })
    }

    /// Works until the session cannot go on; nothing that is not confirmed is lost.
    pub(super) async fn run(mut self) -> End {
        let end = self.work().await;
        let Self { parts, flight, core, fetches, gave_way, withdrawn, .. } = self;
        let gave_way = gave_way.into_iter().map(|(_, object)| object.item);
        let withdrawn = withdrawn.into_iter().map(|(object, _)| object.item);
        let unanswered = flight.into_unanswered().filter_map(|sent| match sent {
            Sent::Object(object) => Some(object.item),
            Sent::Checkpoint(_) | Sent::Marker => None,
        });
        let items: Vec<Item> = gave_way.chain(withdrawn).chain(unanswered).chain(fetches.into_items()).collect();
        parts.stats.resent.fetch_add(items.len() as u64, Ordering::Relaxed);
        parts.carried.unproven = core.into_unproven();
        // What was stored although nobody said so is found stored: core subscribers have yet to hear of it.
        parts.carried.unproven.extend(items.iter().map(Note::of));
        // In reverse, so that nothing that was sent later gets in front.
        items.into_iter().rev().for_each(|item| parts.queue.return_unconfirmed(item));
        end
    }

    async fn work(&mut self) -> End {
        let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = self.parts.broker.connection.clone();
        let mut lost = pin!(self.parts.lost_turn());
        loop {
            self.settle_withdrawn().await;
            let next = self.send_what_may_go().await;
            self.core.repeat_if_due(&self.parts.queue);
            if self.flight.is_empty() {
                if !self.core.has_room() {
                    self.send_marker().await;
                } else if self.reconciler.is_due(Instant::now()) {
                    if let Some(end) = self.look().await {
                        return end;
                    }
                    continue;
                }
            }
            if self.parts.shutdown.has_begun() && self.parts.queue.is_empty() {
                return self.finish().await;
            }
            let generation = self.generation;
            let has_room = self.may_send();
            let woken = tokio::select! {
                answer = self.answers.next() => Woken::Answer(answer),
                (item, fetched) = self.fetches.next() => Woken::Fetched(item, fetched),
                () = wait(&self.parts.queue, &next), if has_room => Woken::Work,
                () = self.core.due() => Woken::Work,
                () = until(self.paused_until) => Woken::Resume,
                () = tokio::time::sleep(GIVE_WAY_FOR), if !self.gave_way.is_empty() => Woken::Work,
                _ = tick.tick() => Woken::Tick,
                _ = self.parts.encoding.changed() => Woken::OtherEncoding,
                Some(reply) = self.parts.answers.recv() => Woken::Asked(reply),
                () = self.parts.shutdown.requested(), if !self.parts.shutdown.has_begun() => Woken::Work,
                _ = connection.wait_for(|now| !now.is(generation)) => return End::Broken,
                () = &mut lost => return End::Yielded,
            };
            if let Some(end) = self.wake(woken).await {
                return end;
            }
            self.retry_those_who_gave_way().await;
        }
    }

    /// Does what a wait ended for; tells why the session is over, if it is.
    async fn wake(&mut self, woken: Woken) -> Option<End> {
        match woken {
            Woken::Answer(Some(answer)) => self.take_answers(answer).await,
            Woken::Answer(None) => Some(End::Broken),
            Woken::Fetched(item, fetched) => {
                self.fetched(item, fetched).await;
                None
            }
            Woken::Work => None,
            Woken::Resume => {
                self.paused_until = None;
                None
            }
            Woken::Tick => self.tick().await,
            Woken::OtherEncoding => {
                (self.parts.current_encoding().as_ref() != Some(&self.encoding)).then_some(End::OtherEncoding)
            }
            Woken::Asked(reply) => {
                self.parts.answer(&self.encoding, Some((&self.stream, &self.subjects)), &reply).await;
                None
            }
        }
    }

    fn may_send(&self) -> bool {
        let has_room = self.flight.has_room() && self.fetches.has_room() && self.core.has_room();
        has_room && self.paused_until.is_none() && !self.reconciler.is_overdue(Instant::now())
    }

    /// Sends nothing for so long.
    fn rest_for(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Fills the window; tells why it stopped.
    async fn send_what_may_go(&mut self) -> Next {
        while self.may_send() {
            match self.parts.queue.next() {
                Next::Item(item) => {
                    self.send(item, Manner::FIRST).await;
                    self.settle_withdrawn().await;
                }
                next => return next,
            }
        }
        Next::Empty
    }

    /// Stores the checkpoints that are due; looks whether the broker still answers.
    async fn tick(&mut self) -> Option<End> {
        // While somebody was answered, say, acknowledgements may have come that were not looked at yet.
        if let Some(Some(answer)) = self.answers.next().now_or_never()
            && let Some(end) = self.take_answers(answer).await
        {
            return Some(end);
        }
        // A slow one may need longer for all that is in flight.
        if self.flight.silent_since().is_some_and(|since| since.elapsed() > ACKNOWLEDGED_WITHIN) {
            tracing::warn!("the broker does not answer; beginning anew");
            return Some(if self.heard { End::Silent } else { End::Unheard });
        }
        if self.parts.most_bytes(&self.stream) > self.most_bytes {
            tracing::info!("the broker takes larger messages: what was shortened is looked for");
            return Some(End::Stale);
        }
        self.core.forget_old(Instant::now());
        self.leave_marks().await;
        None
    }

    /// Looks whether the stream still is as it ought to be. To be called while nothing is in flight.
    async fn look(&mut self) -> Option<End> {
        let reason = self.reason_to_read_back(Instant::now()).await?;
        tracing::info!(reason, "the stream is read back");
        Some(End::Stale)
    }

    async fn reason_to_read_back(&mut self, now: Instant) -> Option<&'static str> {
        // A broker that does not answer is noticed elsewhere.
        let info = tokio::time::timeout(LOOK_WITHIN, self.stream.info()).await.ok()?.ok()?;
        let (newest, messages) = (info.state.last_sequence, info.state.messages);
        let objects = self.parts.store.tables().iter().map(|(.., table)| table.stored_digest().objects).sum();
        self.reconciler.judge(now, Look { newest, messages, objects })
    }
}

/// Reads the stream back until nothing is behind what was read: what a predecessor had on its way is stored after its
/// connection is gone, at the latest.
async fn begin_at_the_end(
    parts: &mut PublishContext,
    encoding: &Encoding,
    generation: u64,
    stream: &mut Stream,
    subjects: &Subjects,
) -> Result<(Reconciler, ToldUpTo), SessionError> {
    let mut reading = 1;
    loop {
        let ReadBack { mut reconciler, newest, told, marked } = read_back(parts, encoding, stream, subjects).await?;
        // After the first reading, so that watches do not wait for it.
        parts.take_turn(generation, subjects).await?;
        match parts.mark_if_last(generation, subjects, marked, newest).await? {
            Marked::At(sequence) => reconciler.stored(sequence),
            Marked::NotLast if reading < READINGS => {
                tracing::info!("an earlier connection has stored something meanwhile: reading the stream again");
                reading += 1;
                continue;
            }
            // Another agent that runs by mistake is dealt with message by message; so is a stream that is full.
            Marked::NotLast | Marked::Refused => {}
        }
        return Ok((reconciler, told));
    }
}

/// What is known after the stream was read.
struct ReadBack {
    reconciler: Reconciler,
    /// Sequence of its newest message before that.
    newest: u64,
    /// How far core subscribers are.
    told: ToldUpTo,
    /// What the mark is to say about that.
    marked: u64,
}

/// Brings snapshot and stream together, and lets the watches begin from where the stream ends.
async fn read_back(
    parts: &mut PublishContext,
    encoding: &Encoding,
    stream: &mut Stream,
    subjects: &Subjects,
) -> Result<ReadBack, SessionError> {
    let began = Instant::now();
    // Before it is read: what somebody else writes meanwhile is found the next time.
    let newest = stream.info().await.map_err(|error| SessionError(error.to_string()))?.state.last_sequence;
    // One that is ahead of the stream is not of this stream, and no reason to leave anything out.
    let marked = read_told(stream, subjects).await?.map(|marked| if marked > newest { 0 } else { marked });
    // What an earlier session of this agent stored is carried over from it.
    let told = marked.filter(|_| parts.carried.is_empty_handed()).unwrap_or(u64::MAX);
    let reading = parts.progress.reading();
    let active_plan = parts.active_plan.borrow().clone();
    let wanted = Wanted { encoding: encoding.name(), most_bytes: parts.most_bytes(stream) };
    let report = restore(stream, subjects, wanted, &parts.store, &parts.queue, &active_plan, told).await?;
    let mut checkpoints = read_checkpoints(stream, subjects).await?;
    checkpoints.retain(|key, checkpoint| !report.to_list.contains(key) && is_of(checkpoint, report.digests.get(key)));
    let Report { stored, taken, resent, ghosts, untold, newest: newest_object, to_list: _, digests: _ } = report;
    let (untold_count, checkpoints_read) = (untold.len(), checkpoints.len());
    tracing::info!(
        stored, taken, resent, ghosts, untold = untold_count, checkpoints = checkpoints_read, took = ?began.elapsed(),
        "stream read"
    );
    parts.carried.unproven.extend(untold);
    parts.progress.done(checkpoints);
    drop(reading);
    // Where an agent stored that knew no mark, everything was told.
    let marked = marked.unwrap_or(newest);
    let told = ToldUpTo::new(marked, newest_object);
    Ok(ReadBack { reconciler: Reconciler::new(Instant::now(), began.elapsed(), newest), newest, told, marked })
}

/// Whether a checkpoint is about just the objects that were read back. If it is not, something was stored after it, or is
/// gone from the stream: a watch from there would never tell of what is missing, a list does.
fn is_of(checkpoint: &Checkpoint, read_back: Option<&Digest>) -> bool {
    read_back.is_some_and(|found| checkpoint.objects == found.objects && checkpoint.digest == found.to_string())
}

/// What ended a wait.
enum Woken {
    Answer(Option<Message>),
    Fetched(Item, Fetched),
    Work,
    Resume,
    Tick,
    OtherEncoding,
    Asked(String),
}
