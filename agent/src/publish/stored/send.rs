//! From what waits to messages on their way.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use meshsync_crds::discovery::ServedType;

use super::fetch::Fetched;
use super::flight::{Sent, SentObject};
use super::{FETCH_AGAIN, HEADER_ROOM, Session};
use crate::encode::{Detail, EventType};
use crate::object::{ResourceVersion, Uid};
use crate::publish::outbox::{Action, Item};
use crate::snapshot::Object;
use crate::stream::{Conditions, Stamp, TypeKey};

/// A server takes protocol lines of 4,096 bytes (`max_control_line`), unless it is told otherwise: this leaves room for the
/// subject of the answer. Names of most types have at most 253 bytes; those of RBAC have no limit.
const LONGEST_SUBJECT: usize = 3_072;

impl Session<'_> {
    pub(super) async fn send(&mut self, item: Item, insists: bool) {
        match &item.action {
            Action::Upsert { uid, resync } => {
                let object =
                    self.parts.store.table(item.type_id).and_then(|table| table.get_to_publish(&item.name, uid));
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
                if subject.len() > LONGEST_SUBJECT {
                    return self.send_unstored(item, payload).await;
                }
                let object = SentObject { item, event, subject, stamp, payload, insists };
                self.store(Box::new(object), replaces, None).await;
            }
        }
    }

    async fn send_state(&mut self, item: Item, object: Object, insists: bool) {
        let Some(served) = self.parts.store.served_type(item.type_id) else {
            return self.parts.queue.confirm(item);
        };
        let Object { uid, name, resource_version, hash, told, confirmed: _, sequence, body } = object;
        let Some(body) = body else { return self.await_list(item, &uid) };
        let event = item.action.event_type(told);
        let limit = self.most_bytes().saturating_sub(HEADER_ROOM);
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
        if subject.len() > LONGEST_SUBJECT {
            return self.send_unstored(item, encoded.payload).await;
        }
        let object = SentObject { item, event, subject, stamp, payload: encoded.payload, insists };
        self.store(Box::new(object), sequence, None).await;
    }

    /// What a message may have, headers included.
    fn most_bytes(&self) -> usize {
        let of_server = self.parts.broker.client.max_payload();
        // -1 and 0: no limit of its own.
        let of_stream = usize::try_from(self.stream.cached_info().config.max_message_size).unwrap_or_default();
        if of_stream == 0 { of_server } else { of_server.min(of_stream) }
    }

    /// Tells core subscribers of an object that the stream has no place for. A server ends the connection of a client whose
    /// protocol lines are longer than it allows: nothing else would ever be stored.
    async fn send_unstored(&mut self, item: Item, payload: Bytes) {
        tracing::error!(object = %item.name, "its name is too long for the stream: only core subscribers are told of it");
        self.parts.stats.unencodable.fetch_add(1, Ordering::Relaxed);
        self.core.send(&item, payload, self.flight.next_number()).await;
        self.parts.queue.confirm(item);
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
        if let Err(error) = client.publish_with_reply_and_headers(subject, answer_to, headers, payload).await {
            tracing::warn!(%error, "the broker client refuses a message");
        }
    }

    /// An object that is stored goes to core subscribers once more: somebody asked for everything, or came late.
    async fn send_core_only(&mut self, item: Item, object: Object) {
        match object.body {
            Some(body) => {
                let limit = self.parts.broker.client.max_payload();
                match self.encoding.encode(EventType::Added, &body, limit) {
                    Ok(encoded) => self.core.send(&item, encoded.payload, self.flight.next_number()).await,
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
