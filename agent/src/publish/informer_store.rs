//! Sends everything that is held to one who asked.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use meshsync_crds::agent_config::PublishFormat;
use meshsync_crds::discovery::ServedType;

use super::error::SessionError;
use super::message::Encoding;
use super::wait::echo;
use crate::encode::envelope::object_of;
use crate::encode::meshery::{Pushed, StoreReply};
use crate::encode::{Deleted, EventType};
use crate::object::ObjectName;
use crate::snapshot::{Store, Table};
use crate::stream::{Bodies, Entry, Stamp, Subjects, TypeKey};

/// How long the broker may take to handle an answer.
const ECHO_WITHIN: Duration = Duration::from_secs(30);
/// Bytes that are given to the client library before it has to have written them: it would take in a thousand messages.
const MOST_UNWRITTEN: usize = 4 * 1024 * 1024;

/// An answer under way.
struct Answer<'a> {
    client: &'a Client,
    reply: &'a str,
    messages: StoreReply,
    objects: u64,
    /// Bytes that may wait in the client library.
    unwritten: usize,
}

/// Sends the whole of `store` to `reply`, objects of one type after the other; gives their number. Bodies that are not
/// held are read from the stream; without one, a list brings them, and they follow as events. The end is not sent if the
/// connection is not `unbroken` by then: what was on the way may be lost, and whoever asked must not take the rest for all.
pub(super) async fn send(
    client: &Client,
    store: &Store,
    encoding: &Encoding,
    stream: Option<(&Stream, &Subjects)>,
    reply: &str,
    unbroken: impl Fn() -> bool,
) -> Result<u64, SessionError> {
    let messages = StoreReply::new(&encoding.cluster_id, client.max_payload());
    let mut answer = Answer { client, reply, messages, objects: 0, unwritten: 0 };
    for (_, served, table) in store.tables() {
        let stream = stream.filter(|_| table.lacks_bodies());
        match stream {
            None => answer.add_table(&served, &table).await?,
            Some((stream, subjects)) => answer.add_stored(&served, encoding, stream, subjects).await?,
        }
    }
    arrived(client).await?;
    if !unbroken() {
        return Err(SessionError("the connection to the broker broke meanwhile".to_owned()));
    }
    for last in answer.messages.finish() {
        publish(client, reply, last).await?;
    }
    Ok(answer.objects)
}

/// Waits until the broker has handled the answer so far.
async fn arrived(client: &Client) -> Result<(), SessionError> {
    let failed = |error: String| SessionError(format!("cannot tell whether the broker got the answer: {error}"));
    let inbox = client.new_inbox();
    let mut echoes = client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
    let came_back = tokio::time::timeout(ECHO_WITHIN, echo(client, &inbox, &mut echoes)).await;
    came_back.ok().flatten().ok_or_else(|| failed("it does not echo".to_owned()))
}

impl Answer<'_> {
    async fn add_table(&mut self, served: &ServedType, table: &Arc<Table>) -> Result<(), SessionError> {
        for object in table.scan() {
            match object.body {
                Some(body) => {
                    let pushed = self.messages.push(&body).map_err(|error| error.to_string());
                    self.pushed(served, &object.name, pushed).await?;
                }
                None => table.want_body(&object.name, &object.uid),
            }
        }
        Ok(())
    }

    async fn add_stored(
        &mut self,
        served: &ServedType,
        encoding: &Encoding,
        stream: &Stream,
        subjects: &Subjects,
    ) -> Result<(), SessionError> {
        let filter = subjects.objects_of(&TypeKey::from(served));
        let mut bodies = Bodies::begin(stream, subjects, filter).await?;
        while let Some(Entry { name, stamp, payload, .. }) = bodies.next().await? {
            if stamp.event == EventType::Deleted {
                continue;
            }
            let Some(object) = object_of(&payload) else { continue };
            let pushed = match encoding.format {
                PublishFormat::Meshery => match self.messages.push_encoded(object) {
                    // Stored when the broker took larger messages.
                    (Pushed::TooLarge, _) => Ok(self.push_identity(&name, &stamp)),
                    pushed => Ok(pushed),
                },
                PublishFormat::Kubernetes => self.messages.push(object).map_err(|error| error.to_string()),
            };
            self.pushed(served, &name, pushed).await?;
        }
        Ok(())
    }

    fn push_identity(&mut self, name: &ObjectName, stamp: &Stamp) -> (Pushed, Option<Vec<u8>>) {
        self.messages.push_identity(&Deleted {
            api_version: &stamp.api_version,
            kind: &stamp.kind,
            namespace: name.namespace(),
            name: name.name(),
            uid: &stamp.uid.as_ref().map(ToString::to_string).unwrap_or_default(),
            resource_version: &stamp.resource_version.to_string(),
        })
    }

    async fn pushed(
        &mut self,
        served: &ServedType,
        name: &ObjectName,
        pushed: Result<(Pushed, Option<Vec<u8>>), String>,
    ) -> Result<(), SessionError> {
        match pushed {
            Ok((Pushed::TooLarge, _)) => {
                tracing::warn!(r#type = %served, object = %name, "too large for the broker: left out");
            }
            Ok((_, full)) => {
                self.objects += 1;
                if let Some(full) = full {
                    self.unwritten += full.len();
                    publish(self.client, self.reply, full).await?;
                }
                if self.unwritten > MOST_UNWRITTEN {
                    self.client.flush().await.map_err(|error| SessionError(error.to_string()))?;
                    self.unwritten = 0;
                }
            }
            Err(error) => tracing::error!(r#type = %served, object = %name, error, "left out"),
        }
        Ok(())
    }
}

async fn publish(client: &Client, subject: &str, message: Vec<u8>) -> Result<(), SessionError> {
    client.publish(subject.to_owned(), message.into()).await.map_err(|error| SessionError(error.to_string()))
}
