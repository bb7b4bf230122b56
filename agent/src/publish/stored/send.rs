//! From what waits to messages on their way.

use async_nats::client::PublishErrorKind;
use bytes::Bytes;
use meshsync_crds::discovery::ServedType;

use super::fetch::Fetched;
use super::flight::{Impossible, Sent, SentObject};
use super::session::{FETCH_AGAIN, Session};
use crate::encode::{Detail, EventType};
use crate::object::{Body, ResourceVersion, Uid};
use crate::outbox::{Action, Item};
use crate::publish::context::TOO_LARGE;
use crate::publish::message::Encoded;
use crate::snapshot::{Object, Removed};
use crate::stream::{Conditions, Stamp, TypeKey};

/// A server takes protocol lines of 4,096 bytes (`max_control_line`), unless it is told otherwise: this leaves room for the
/// subject of the answer. Names of most types have at most 253 bytes; those of RBAC have no limit.
pub(super) const LONGEST_SUBJECT: usize = 3_072;

/// JetStream counts the bytes of a message's headers in 16 bits.
const MOST_HEADER_BYTES: usize = 60 * 1024;

/// How to send an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether the stream's message was given way to before.
    pub(super) insists: bool,
    /// Most of the object that may be in the message: one with more was refused.
    pub(super) at_most: Detail,
}

impl Manner {
    /// How an item goes out the first time.
    pub(super) const FIRST: Self = Self { insists: false, at_most: Detail::Full };
}

impl Session<'_> {
    pub(super) async fn send(&mut self, item: Item, manner: Manner) {
        match &item.action {
            Action::Upsert { uid, resync } => {
                let object =
                    self.parts.store.table(item.type_id).and_then(|table| table.get_to_publish(&item.name, uid));
                match object {
                    None => self.parts.queue.confirm(item),
                    Some(object) if object.confirmed && !*resync => self.parts.queue.confirm(item),
                    Some(object) if object.confirmed => self.send_core_only(item, object).await,
                    Some(object) => self.send_state(item, object, manner).await,
                }
            }
            Action::Delete(removed) => {
                let removed = removed.clone();
                self.send_delete(item, &removed, manner).await;
            }
        }
    }

    async fn send_delete(&mut self, item: Item, removed: &Removed, Manner { insists, .. }: Manner) {
        let Some(served) = self.parts.store.served_type(item.type_id) else {
            return self.parts.queue.confirm(item);
        };
        let payload = self.encoding.encode_deleted(&served, removed);
        let uid = Some(removed.uid.clone()).filter(|uid| !uid.is_named());
        let (event, detail) = (EventType::Deleted, Detail::Skeleton);
        let stamp = self.stamp(&served, uid, &removed.resource_version, 0, event);
        let replaces = removed.sequence;
        let subject = self.subjects.object(&TypeKey::from(&*served), &item.name);
        if let Some(reason) = no_place(&subject, &stamp) {
            return self.send_unstored(item, payload, reason).await;
        }
        if payload.len() + stamp.header_room() > self.parts.most_bytes(&self.stream) {
            return self.send_unstored(item, payload, TOO_LARGE).await;
        }
        let object = SentObject { item, event, subject, stamp, payload, detail, insists };
        self.store(Box::new(object), replaces, None).await;
    }

    async fn send_state(&mut self, item: Item, object: Object, Manner { insists, at_most }: Manner) {
        let Some(served) = self.parts.store.served_type(item.type_id) else {
            return self.parts.queue.confirm(item);
        };
        let Object { uid, name, resource_version, hash, told, confirmed: _, sequence, body } = object;
        let Some(body) = body else { return self.await_list(item, &uid) };
        let event = item.action.event_type(told);
        let uid = Some(uid).filter(|uid| !uid.is_named());
        let stamp = self.stamp(&served, uid, &resource_version, hash, event);
        let subject = self.subjects.object(&TypeKey::from(&*served), &name);
        if let Some(reason) = no_place(&subject, &stamp) {
            return self.send_unstored_state(item, event, &body, reason).await;
        }
        let limit = self.parts.most_bytes(&self.stream).saturating_sub(stamp.header_room());
        let (payload, detail, needs) = match self.encoding.encode(event, &body, at_most, limit) {
            Ok(Some(Encoded { payload, detail, needs })) => (payload, detail, needs),
            Ok(None) => return self.send_unstored_state(item, event, &body, TOO_LARGE).await,
            Err(error) => {
                self.parts.unencodable(&item, &error);
                return self.parts.queue.confirm(item);
            }
        };
        self.parts.shortened(&item, detail);
        let needs = needs.map(|bytes| bytes.saturating_add(stamp.header_room()));
        let stamp = Stamp { needs, ..stamp };
        let object = SentObject { item, event, subject, stamp, payload, detail, insists };
        self.store(Box::new(object), sequence, None).await;
    }

    /// Tells core subscribers of an object that the stream has no place for.
    async fn send_unstored_state(&mut self, item: Item, event: EventType, body: &Body, reason: &str) {
        let limit = self.parts.broker.client.max_payload();
        match self.encoding.encode(event, body, Detail::Full, limit) {
            Ok(Some(encoded)) => self.send_unstored(item, encoded.payload, reason).await,
            Ok(None) => self.give_up(item, TOO_LARGE),
            Err(error) => self.give_up(item, &error.to_string()),
        }
    }

    /// Tells core subscribers what the stream has no place for.
    async fn send_unstored(&mut self, item: Item, payload: Bytes, reason: &str) {
        if payload.len() > self.parts.broker.client.max_payload() {
            return self.give_up(item, reason);
        }
        self.core.send(&item, payload, self.flight.next_number()).await;
        self.give_up(item, &format!("{reason}: only core subscribers are told of it"));
    }

    /// Reports what can neither be stored nor told in full. Nothing waits for it, and it is tried again when it changes.
    fn give_up(&self, item: Item, reason: &str) {
        self.parts.cannot_publish(&item, reason);
        if let Action::Delete(_) = &item.action {
            // It is gone: there is nothing left to report.
            self.parts.delivery.published(item.type_id, &item.name);
        }
        self.parts.queue.confirm(item);
    }

    /// The broker, or the client library, does not take this message: another one is made of its object, until there is none.
    pub(super) async fn make_another(&mut self, object: SentObject, why: Impossible) {
        let SentObject { item, event, payload, detail, insists, .. } = object;
        let Impossible { reason, too_large } = why;
        tracing::warn!(object = %item.name, reason, ?detail, "a message is refused; everything else goes on");
        match detail.lower().filter(|_| too_large && event != EventType::Deleted) {
            Some(at_most) => self.send(item, Manner { insists, at_most }).await,
            None => self.send_unstored(item, payload, &reason).await,
        }
    }

    /// Deals with what the client library did not take.
    pub(super) async fn settle_withdrawn(&mut self) {
        while let Some((object, why)) = self.withdrawn.pop() {
            self.make_another(*object, why).await;
        }
    }

    /// Leaves an object whose body is not held to a list: once that has brought it, it is queued again.
    fn await_list(&self, item: Item, uid: &Uid) {
        if let Some(table) = self.parts.store.table(item.type_id) {
            table.want_body(&item.name, uid);
        }
        self.parts.queue.confirm(item);
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
            needs: None,
        }
    }

    /// Sends a message to be stored in place of the one with sequence `replaces`. The broker knows the id of one like it that it
    /// stored as `lost`, if that is given, and does not have any more: this one needs another.
    pub(super) async fn store(&mut self, object: Box<SentObject>, replaces: u64, lost: Option<u64>) {
        let SentObject { stamp, payload, subject, event, .. } = &*object;
        let mut message_id = stamp.message_id(subject, replaces);
        if let Some(lost) = lost {
            message_id.push_str(&format!("~{lost}"));
        }
        let ttl = (*event == EventType::Deleted).then(|| self.settings.tombstone_ttl.as_secs().max(1));
        let headers = stamp.headers(&Conditions { replaces, message_id: &message_id, ttl_seconds: ttl });
        let (subject, payload) = (subject.clone(), payload.clone());
        let answer_to = self.flight.add(Sent::Object(object));
        let client = &self.parts.broker.client;
        let sent = client.publish_with_reply_and_headers(subject, answer_to.clone(), headers, payload).await;
        let Err(error) = sent else { return };
        let too_large = match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => true,
            PublishErrorKind::InvalidSubject => false,
            // The client is closed: nothing is answered any more, which ends the session.
            PublishErrorKind::Send => return,
        };
        if let Some(Sent::Object(object)) = self.flight.withdraw(&answer_to) {
            self.withdrawn.push((object, Impossible { reason: error.to_string(), too_large }));
        }
    }

    /// An object that is stored goes to core subscribers once more: somebody asked for everything, or came late.
    async fn send_core_only(&mut self, item: Item, object: Object) {
        match object.body {
            Some(body) => {
                let limit = self.parts.broker.client.max_payload();
                match self.encoding.encode(EventType::Added, &body, Detail::Full, limit) {
                    Ok(Some(encoded)) => self.core.send(&item, encoded.payload, self.flight.next_number()).await,
                    Ok(None) => self.parts.cannot_publish(&item, TOO_LARGE),
                    Err(error) => self.parts.unencodable(&item, &error),
                }
                self.parts.queue.confirm(item);
            }
            None if object.sequence == 0 => self.await_list(item, &object.uid),
            None => self.fetches.ask(&self.stream, object.sequence, item),
        }
    }

    /// Takes in a message that was asked back from the stream.
    pub(super) async fn fetched(&mut self, item: Item, fetched: Fetched) {
        match fetched {
            Fetched::Message(payload) => {
                self.core.send(&item, payload, self.flight.next_number()).await;
                self.parts.queue.confirm(item);
            }
            Fetched::Replaced => self.parts.queue.confirm(item),
            Fetched::Unusable => match &item.action {
                Action::Upsert { uid, .. } => {
                    tracing::warn!(object = %item.name, "the stream's message holds no object; listing to store it again");
                    let uid = uid.clone();
                    self.await_list(item, &uid);
                }
                Action::Delete(_) => self.parts.queue.confirm(item),
            },
            Fetched::Failed(error) => {
                tracing::warn!(object = %item.name, error, "cannot be asked back from the stream now; asking again");
                self.parts.queue.return_unconfirmed(item);
                self.rest_for(FETCH_AGAIN);
            }
        }
    }
}

/// Why the stream can have no message like this, however little of an object is in it. A server ends the connection of a
/// client whose protocol lines are longer than it allows: nothing else would ever be stored.
fn no_place(subject: &str, stamp: &Stamp) -> Option<&'static str> {
    if subject.len() > LONGEST_SUBJECT {
        Some("its name is too long for the stream")
    } else if stamp.header_room() > MOST_HEADER_BYTES {
        Some("its uid, version or kind is too long for the stream")
    } else {
        None
    }
}
