//! The one that publishes: it answers others, ends when a successor asks, and looks now and then whether somebody else publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::instance::{Instance, Question, Revised, read, written};
use super::peers::Peers;
use super::role::{Relation, Role, ends};
use crate::publish::error::SessionError;

/// How often to look for others.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Lists that are made at the same time because others ask.
const MOST_LISTS: usize = 2;

/// Answers until it is dropped or [`Answering::end`].
#[derive(Debug)]
pub(in crate::publish) struct Answering {
    stop: DropGuard,
    listens: tokio::task::JoinHandle<Subscriber>,
    lost: watch::Receiver<Role>,
}

impl Answering {
    /// Answers as `me` to what `listens` hears.
    pub(in crate::publish) fn begin(peers: Peers, listens: Subscriber, me: Instance) -> Self {
        let (stop, (told, lost)) = (CancellationToken::new(), watch::channel(Role::Active));
        let told = Arc::new(told);
        tokio::spawn(look(peers.clone(), me.clone(), told.clone(), stop.clone()));
        let listens = tokio::spawn(answer_all(peers, listens, me, told, stop.clone()));
        Self { stop: stop.drop_guard(), listens, lost }
    }

    /// Whether another agent took the place of this one, as it changes.
    pub(in crate::publish) fn lost(&self) -> watch::Receiver<Role> {
        self.lost.clone()
    }

    /// Ends the subscription.
    pub(in crate::publish) async fn end(self) -> Result<(), SessionError> {
        drop(self.stop);
        let mut listens = self.listens.await.map_err(|error| SessionError(error.to_string()))?;
        listens.unsubscribe().await.map_err(|error| SessionError(error.to_string()))
    }
}

async fn answer_all(
    peers: Peers,
    mut listens: Subscriber,
    me: Instance,
    lost: Arc<watch::Sender<Role>>,
    stop: CancellationToken,
) -> Subscriber {
    let answer = written(&me);
    let lists = Arc::new(Semaphore::new(MOST_LISTS));
    loop {
        let message = tokio::select! {
            message = listens.next() => message,
            () = stop.cancelled() => return listens,
        };
        let Some(Message { payload, reply, .. }) = message else { return listens };
        match (read(&payload), reply) {
            (Some(Question::Who), Some(reply)) => send(&peers.client, reply, answer.clone()).await,
            (Some(Question::Revision { of, type_ }), Some(reply)) if of == me.id => {
                let Ok(place) = lists.clone().try_acquire_owned() else { continue };
                let Peers { client, witness, .. } = peers.clone();
                // Others are answered meanwhile.
                tokio::spawn(async move {
                    let revised = witness.revision(&type_).await.map_or_else(Revised::Unknown, Revised::At);
                    send(&client, reply, written(&revised)).await;
                    drop(place);
                });
            }
            (Some(Question::Yield { of, to }), _) if of == me.id && to.id != me.id => {
                tell(&lost, Relation::Same, to);
            }
            _ => {}
        }
    }
}

/// Others that begin at the same moment, or that this one took for gone.
async fn look(peers: Peers, me: Instance, lost: Arc<watch::Sender<Role>>, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(other) = peers.beside().await else { continue };
            let relation = peers.relation(me.meshsync.as_ref(), &other).await;
            if ends(&me, &other, &relation) {
                tell(&lost, relation, other);
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

fn tell(lost: &watch::Sender<Role>, relation: Relation, other: Instance) {
    lost.send_modify(|role| *role = role.after_hearing(relation, other, Instant::now()));
}

async fn send(client: &Client, subject: async_nats::Subject, message: Bytes) {
    // A client that is closed has nobody to answer.
    if let Err(error) = client.publish(subject, message).await {
        tracing::debug!(%error, "another agent is not answered");
    }
}
