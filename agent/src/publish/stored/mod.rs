//! Publishing with JetStream: each state is stored under its object's subject, and sent to core subscribers once it is.
//!
//! The stream is the truth that consumers and the next agent begin from, so what is in it is known at all times: it is read
//! back at each connection, every message names the one that it replaces, and nothing counts as told before it is stored.

mod checkpoints;
mod conflict;
mod core_copy;
mod flight;
mod restore;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use async_nats::{Message, Subscriber};
use futures::{FutureExt, StreamExt};
use meshsync_crds::discovery::ServedType;

use self::checkpoints::Checkpoints;
use self::conflict::{Mine, Verdict, judge};
use self::core_copy::CoreCopy;
use self::flight::{Answer, Flight, Sent, SentObject, read_answer};
use self::restore::{Report, restore};
use super::message::Encoding;
use super::outbox::{Action, Item, Next};
use super::parts::{Parts, Problem, until, wait};
use crate::encode::{Detail, EventType};
use crate::object::{ResourceVersion, Uid};
use crate::snapshot::{Confirmation, Object};
use crate::stream::{Checkpoint, Conditions, Stamp, StreamSettings, Subjects, TypeKey, read_checkpoints};

/// How long an acknowledgement may take. A broker that is slower is asked again over a new session.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);
/// How long to leave a message that knows more than we do alone.
const GIVE_WAY_FOR: Duration = Duration::from_secs(2);
/// How often checkpoints are looked at.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// First and longest pause after the stream refused a message.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Room for the headers in a message: names, a uid, numbers, and an apiVersion and kind of at most 253 bytes each.
const HEADER_ROOM: usize = 2 * 1024;

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection broke, or the broker fell silent.
    Broken,
    /// There is no stream any more.
    NoStream,
    /// Messages are to be made differently from now on.
    OtherEncoding,
    /// Everything is published, and that was asked for.
    Drained,
}

/// One connection's work on the stream.
pub(super) struct Session<'p> {
    parts: &'p mut Parts,
    encoding: Encoding,
    generation: u64,
    stream: Stream,
    subjects: Subjects,
    settings: StreamSettings,
    flight: Flight,
    answers: Subscriber,
    core: CoreCopy,
    checkpoints: Checkpoints,
    /// Messages that gave way to ones that know more.
    gave_way: Vec<(Instant, Box<SentObject>)>,
    /// Until when nothing is sent, because the stream refuses.
    paused_until: Option<Instant>,
    /// Length of the next pause.
    pause: Duration,
}

impl<'p> Session<'p> {
    /// Begins on a stream that [`crate::stream::ensure`] made ready.
    ///
    /// # Errors
    /// When the stream cannot be read, or the connection does not take a subscription.
    pub(super) async fn begin(
        parts: &'p mut Parts,
        encoding: Encoding,
        generation: u64,
        stream: Stream,
        settings: StreamSettings,
    ) -> Result<Self, Problem> {
        let client = parts.broker.client.clone();
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|error| Problem(error.to_string()))?;
        let subjects = Subjects::new(&encoding.cluster_id);
        read_back(parts, &encoding, &stream, &subjects).await?;
        let core = CoreCopy::new(client, parts.new_connection(generation));
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
            checkpoints: Checkpoints::default(),
            gave_way: Vec::new(),
            paused_until: None,
            pause: PAUSES.0,
        })
    }

    /// Works until the session cannot go on; nothing that is not confirmed is lost.
    pub(super) async fn run(mut self) -> End {
        let end = self.work().await;
        let Self { parts, flight, core, gave_way, .. } = self;
        let gave_way = gave_way.into_iter().map(|(_, object)| object.item);
        let unanswered = flight.into_unanswered().filter_map(|sent| match sent {
            Sent::Object(object) => Some(object.item),
            Sent::Checkpoint(_) | Sent::Marker => None,
        });
        let items: Vec<Item> = gave_way.chain(unanswered).collect();
        parts.stats.resent.fetch_add(items.len() as u64, Ordering::Relaxed);
        // In reverse, so that nothing that was sent later gets in front.
        items.into_iter().rev().for_each(|item| parts.queue.return_unconfirmed(item));
        parts.carried.unproven = core.into_unproven();
        end
    }

    async fn work(&mut self) -> End {
        let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = self.parts.broker.connection.clone();
        loop {
            let next = self.send_what_may_go().await;
            self.core.repeat_if_due(&self.parts.queue);
            if self.parts.shutdown.has_begun() && self.parts.queue.is_empty() {
                return self.finish().await;
            }
            let generation = self.generation;
            let has_room = self.may_send();
            let woken = tokio::select! {
                answer = self.answers.next() => Woken::Answer(answer),
                () = wait(&self.parts.queue, &next), if has_room => Woken::Work,
                () = self.core.due() => Woken::Work,
                () = until(self.paused_until) => Woken::Resume,
                () = tokio::time::sleep(GIVE_WAY_FOR), if !self.gave_way.is_empty() => Woken::Work,
                _ = tick.tick() => Woken::Tick,
                _ = self.parts.encoding.changed() => Woken::OtherEncoding,
                Some(reply) = self.parts.answers.recv() => Woken::Asked(reply),
                () = self.parts.shutdown.requested(), if !self.parts.shutdown.has_begun() => Woken::Work,
                _ = connection.wait_for(|now| !now.up || now.generation != generation) => return End::Broken,
            };
            let end = match woken {
                Woken::Answer(Some(answer)) => self.take_answers(answer).await,
                Woken::Answer(None) => Some(End::Broken),
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
            };
            if let Some(end) = end {
                return end;
            }
            self.retry_those_who_gave_way().await;
        }
    }

    fn may_send(&self) -> bool {
        self.paused_until.is_none() && self.flight.has_room()
    }

    /// Fills the window; tells why it stopped.
    async fn send_what_may_go(&mut self) -> Next {
        while self.may_send() {
            match self.parts.queue.next() {
                Next::Item(item) => self.send(item, false).await,
                next => return next,
            }
        }
        Next::Empty
    }

    async fn send(&mut self, item: Item, insists: bool) {
        match &item.action {
            Action::Upsert { uid, resync } => {
                let object = self.parts.store.table(item.type_id).and_then(|table| table.get_to_publish(uid));
                match object {
                    None => self.parts.queue.confirm(item),
                    Some(object) if object.confirmed && !*resync => self.parts.queue.confirm(item),
                    Some(object) if object.confirmed => self.send_core_only(item, object).await,
                    Some(object) => self.send_state(item, object, insists).await,
                }
            }
            Action::Delete(removed) => {
                let Some(served) = self.parts.store.served_type(item.type_id) else {
                    return self.parts.queue.confirm(item);
                };
                let payload = self.encoding.encode_deleted(&served, removed);
                let uid = Some(removed.uid.clone()).filter(|uid| !uid.is_named());
                let stamp = self.stamp(&served, uid, &removed.resource_version, 0, EventType::Deleted);
                let replaces = removed.sequence;
                let subject = self.subjects.object(&TypeKey::from(&*served), &item.name);
                let event = EventType::Deleted;
                let object = SentObject { item, event, subject, stamp, payload, insists };
                self.store(Box::new(object), replaces).await;
            }
        }
    }

    async fn send_state(&mut self, item: Item, object: Object, insists: bool) {
        let Some(served) = self.parts.store.served_type(item.type_id) else {
            return self.parts.queue.confirm(item);
        };
        let Object { uid, name, resource_version, hash, told, confirmed: _, sequence, body } = object;
        let Some(body) = body else {
            // Once a list has brought the body, the object is queued again.
            if let Some(table) = self.parts.store.table(item.type_id) {
                table.want_body(&uid);
            }
            return self.parts.queue.confirm(item);
        };
        let event = item.action.event_type(told);
        let limit = self.parts.broker.client.max_payload().saturating_sub(HEADER_ROOM);
        let encoded = match self.encoding.encode(event, &body, limit) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.parts.unencodable(&item, &error);
                return self.parts.queue.confirm(item);
            }
        };
        if encoded.detail == Detail::MetadataOnly {
            self.parts.too_large(&item);
        }
        let uid = Some(uid).filter(|uid| !uid.is_named());
        let stamp = self.stamp(&served, uid, &resource_version, hash, event);
        let subject = self.subjects.object(&TypeKey::from(&*served), &name);
        let object = SentObject { item, event, subject, stamp, payload: encoded.payload, insists };
        self.store(Box::new(object), sequence).await;
    }

    fn stamp(
        &self,
        served: &ServedType,
        uid: Option<Uid>,
        resource_version: &ResourceVersion,
        hash: u64,
        event: EventType,
    ) -> Stamp {
        Stamp {
            uid,
            resource_version: resource_version.clone(),
            hash,
            event,
            api_version: served.api_version(),
            kind: served.kind.clone(),
            encoding: self.encoding.name().to_owned(),
        }
    }

    /// Sends a message to be stored in place of the one with sequence `replaces`.
    async fn store(&mut self, object: Box<SentObject>, replaces: u64) {
        let SentObject { stamp, payload, subject, event, .. } = &*object;
        let uid = stamp.uid.as_ref().map(ToString::to_string).unwrap_or_default();
        let message_id = format!("{uid}@{}:{:016x}>{replaces}", stamp.resource_version, stamp.hash);
        let ttl = (*event == EventType::Deleted).then(|| self.settings.tombstone_ttl.as_secs().max(1));
        let headers = stamp.headers(&Conditions { replaces, message_id: &message_id, ttl_seconds: ttl });
        let (subject, payload) = (subject.clone(), payload.clone());
        let answer_to = self.flight.add(Sent::Object(object));
        let client = &self.parts.broker.client;
        if let Err(error) = client.publish_with_reply_and_headers(subject, answer_to, headers, payload).await {
            tracing::warn!(%error, "the broker client refuses a message");
        }
    }

    /// Takes in an answer and whatever others have come meanwhile.
    async fn take_answers(&mut self, first: Message) -> Option<End> {
        let mut message = first;
        loop {
            if let Some((number, sent)) = self.flight.take(&message.subject) {
                let answer = read_answer(&message);
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
                self.stored(*object, sequence).await
            }
            (Sent::Object(object), Answer::Stored { duplicate: true, .. } | Answer::Conflict) => {
                return self.resolve(object).await;
            }
            (Sent::Object(object), Answer::Refused(reason)) => self.refused(*object, reason),
            (Sent::Object(object), Answer::Echo) => self.parts.queue.return_unconfirmed(object.item),
        }
        None
    }

    async fn stored(&mut self, object: SentObject, sequence: u64) {
        self.pause = PAUSES.0;
        self.parts.delivery.set_refusal(None);
        let SentObject { item, event, stamp, payload, .. } = object;
        if let Action::Upsert { uid, .. } = &item.action
            && let Some(table) = self.parts.store.table(item.type_id)
        {
            table.confirm(uid, Confirmation { hash: stamp.hash, sequence });
        }
        self.parts.stats.published(event, payload.len());
        self.core.send(&item, payload, self.flight.next_number()).await;
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

    /// The stream holds something else than was to be replaced: looks at it and decides.
    async fn resolve(&mut self, mut object: Box<SentObject>) -> Option<End> {
        let theirs = match self.parts.look_up(&self.stream, &object.subject).await {
            Ok(theirs) => theirs,
            Err(problem) => {
                tracing::warn!(%problem, "cannot look at what the stream holds");
                self.flight.add(Sent::Object(object));
                return Some(End::Broken);
            }
        };
        let mine = Mine { stamp: &object.stamp, insists: object.insists };
        match judge(mine, theirs.as_ref().map(|(stamp, sequence)| (stamp, *sequence))) {
            Verdict::Stored(sequence) => self.stored(*object, sequence).await,
            Verdict::Replace(sequence) => self.store(object, sequence).await,
            Verdict::GiveWay => {
                tracing::debug!(object = %object.item.name, "the stream knows more; waiting for the watch to tell");
                object.insists = true;
                self.gave_way.push((Instant::now() + GIVE_WAY_FOR, object));
            }
            Verdict::Superseded => {
                let SentObject { item, payload, stamp, .. } = *object;
                // Another version of the type has the place: whoever knew the old one is told.
                if theirs.is_some_and(|(theirs, _)| theirs.api_version != stamp.api_version) {
                    self.core.send(&item, payload, self.flight.next_number()).await;
                }
                self.parts.queue.confirm(item);
            }
        }
        None
    }

    async fn retry_those_who_gave_way(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.gave_way.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, object) in due {
            let SentObject { item, insists, .. } = *object;
            self.send(item, insists).await;
        }
    }

    /// An object that is stored goes to core subscribers once more: somebody asked for everything, or came late.
    async fn send_core_only(&mut self, item: Item, object: Object) {
        let event = EventType::Added;
        let payload = match object.body {
            Some(body) => {
                let limit = self.parts.broker.client.max_payload();
                self.encoding.encode(event, &body, limit).map(|encoded| encoded.payload).ok()
            }
            None => self.parts.stored_message(&self.stream, object.sequence, event).await,
        };
        match payload {
            Some(payload) => self.core.send(&item, payload, self.flight.next_number()).await,
            None => tracing::warn!(object = %item.name, "cannot be sent again now"),
        }
        self.parts.queue.confirm(item);
    }

    /// Stores the checkpoints that are due; looks whether the broker still answers.
    async fn tick(&mut self) -> Option<End> {
        // While somebody was answered, say, acknowledgements may have come that were not looked at yet.
        if let Some(Some(answer)) = self.answers.next().now_or_never()
            && let Some(end) = self.take_answers(answer).await
        {
            return Some(end);
        }
        if self.flight.oldest_since().is_some_and(|since| since.elapsed() > ACKNOWLEDGED_WITHIN) {
            tracing::warn!("the broker does not acknowledge; beginning anew");
            return Some(End::Broken);
        }
        self.core.forget_old(Instant::now());
        self.store_checkpoints().await;
        if self.core.has_unproven() && self.flight.is_empty() {
            self.send_marker().await;
        }
        None
    }

    async fn store_checkpoints(&mut self) {
        for (type_id, position) in self.checkpoints.due(&self.parts.progress, &self.parts.queue) {
            let Some(table) = self.parts.store.table(type_id) else { continue };
            let digest = table.stored_digest();
            let checkpoint = Checkpoint {
                resource_version: position.version.to_string(),
                fingerprint: format!("{:016x}", position.fingerprint),
                objects: digest.objects,
                digest: digest.to_string(),
            };
            let Ok(payload) = serde_json::to_vec(&checkpoint) else { continue };
            let answer_to = self.flight.add(Sent::Checkpoint(type_id));
            let subject = self.subjects.checkpoint(&position.key);
            if let Err(error) = self.parts.broker.client.publish_with_reply(subject, answer_to, payload.into()).await {
                tracing::warn!(%error, "the broker client refuses a checkpoint");
            }
        }
    }

    async fn send_marker(&mut self) {
        let answer_to = self.flight.add(Sent::Marker);
        if let Err(error) = self.parts.broker.client.publish(answer_to, Default::default()).await {
            tracing::warn!(%error, "the broker client refuses a marker");
        }
    }

    /// Everything is published: leaves checkpoints, so that the next agent begins where this one ends.
    async fn finish(&mut self) -> End {
        self.store_checkpoints().await;
        if self.core.has_unproven() {
            self.send_marker().await;
        }
        let deadline = tokio::time::Instant::now() + ACKNOWLEDGED_WITHIN;
        while !self.flight.is_empty() {
            match tokio::time::timeout_at(deadline, self.answers.next()).await {
                Ok(Some(answer)) => {
                    if self.take_answers(answer).await.is_some() {
                        break;
                    }
                }
                _ => break,
            }
        }
        End::Drained
    }
}

/// Brings snapshot and stream together, and lets the watches begin from where the stream ends.
async fn read_back(parts: &Parts, encoding: &Encoding, stream: &Stream, subjects: &Subjects) -> Result<(), Problem> {
    let began = Instant::now();
    parts.progress.reading();
    let in_force = parts.in_force.borrow().clone();
    let report = restore(stream, subjects, encoding.name(), &parts.store, &parts.queue, &in_force).await?;
    let mut checkpoints = read_checkpoints(stream, subjects).await?;
    for key in &report.to_list {
        checkpoints.remove(key);
    }
    let Report { stored, taken, resent, ghosts, to_list: _ } = report;
    tracing::info!(stored, taken, resent, ghosts, checkpoints = checkpoints.len(), took = ?began.elapsed(), "stream read");
    parts.progress.done(checkpoints);
    Ok(())
}

/// What ended a wait.
enum Woken {
    Answer(Option<Message>),
    Work,
    Resume,
    Tick,
    OtherEncoding,
    Asked(String),
}
