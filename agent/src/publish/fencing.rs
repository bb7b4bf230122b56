//! Lets one agent at a time publish a cluster: see [`super::fence`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meshsync_crds::agent_config::ReportTarget;

use super::context::PublishContext;
use super::error::SessionError;
use super::fence::{Answering, Heard, Instance, Me, Owner, Peers, Questions, Relation, Role, Standby, Turn};
use crate::stream::Subjects;

/// How long to wait for a predecessor's end at most. A server holds a connection whose other end went away without a word for
/// minutes, and nothing more comes over that.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// How often one that stands by asks.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl PublishContext {
    /// Whether this agent may publish. If another one does that is not to be replaced, [`PublishContext::role`] tells of it. To be asked
    /// before the stream is read: it may be that of another cluster.
    ///
    /// # Errors
    /// When the connection breaks, or does not take a subscription.
    pub(super) async fn may_publish(&mut self, connection: u64, subjects: &Subjects) -> Result<bool, SessionError> {
        let subject = subjects.publisher();
        if self.carried.turn.as_ref().is_some_and(|turn| turn.is(connection, &subject)) {
            return Ok(true);
        }
        // The client has subscribed again over a new connection: that is not the predecessor.
        self.give_up_turn().await?;
        let peers = self.peers(subject);
        let asked_at = Instant::now();
        let mut connections = self.broker.connection.clone();
        let heard = tokio::select! {
            heard = peers.who() => heard?,
            _ = connections.wait_for(|now| !now.is(connection)) => {
                return Err(SessionError("the connection broke".to_owned()));
            }
        };
        self.carried.silent_since = matches!(heard, Heard::Silence).then_some(asked_at);
        match heard {
            Heard::Agent(other) => self.heard_of(other, &peers).await,
            Heard::Nobody | Heard::Silence if self.role.borrow().may_begin(Instant::now()) => {
                self.begin_turn();
                Ok(true)
            }
            Heard::Nobody | Heard::Silence => Ok(false),
        }
    }

    /// Another agent publishes: takes its place, or stands by.
    async fn heard_of(&mut self, other: Instance, peers: &Peers) -> Result<bool, SessionError> {
        let me = self.instance();
        let known = self.role.borrow().standby().and_then(|standby| standby.settled(&other));
        let relation = match known {
            Some(relation) => relation,
            None => peers.relation(me.meshsync.as_ref(), &other).await,
        };
        // One that had its turn does not take it back: two would go on asking each other.
        if relation == Relation::Same && !self.carried.had_turn {
            tracing::info!(%other, "taking the place of another agent of this cluster");
            peers.succeed(&other, me).await?;
            self.begin_turn();
            return Ok(true);
        }
        self.stand_by(|role| role.after_hearing(relation, other, Instant::now()));
        Ok(false)
    }

    /// Waits until nothing more comes over an older connection, and says that this one publishes from now on. To be called
    /// before the first object is sent.
    ///
    /// # Errors
    /// When the connection breaks, or does not take a subscription.
    pub(super) async fn take_turn(&mut self, connection: u64, subjects: &Subjects) -> Result<(), SessionError> {
        let subject = subjects.publisher();
        if self.carried.turn.as_ref().is_some_and(|turn| turn.is(connection, &subject)) {
            return Ok(());
        }
        let client = &self.broker.client;
        let mut connections = self.broker.connection.clone();
        let until = self.carried.silent_since.take().unwrap_or_else(Instant::now) + GIVE_UP_AFTER;
        let gone = async { Questions::begin(client, &subject).await?.nobody_listens().await };
        tokio::select! {
            gone = tokio::time::timeout_at(until.into(), gone) => match gone {
                Ok(gone) => gone?,
                Err(_) => tracing::warn!(
                    waited = ?GIVE_UP_AFTER,
                    "the connection of another agent for this cluster is still open; publishing beside it"
                ),
            },
            _ = connections.wait_for(|now| !now.is(connection)) => {
                return Err(SessionError("the connection broke".to_owned()));
            }
        }
        let listens = client.subscribe(subject.clone()).await.map_err(|error| SessionError(error.to_string()))?;
        let answering = Answering::begin(self.peers(subject.clone()), listens, self.instance());
        self.carried.turn = Some(Turn { connection, subject, answering });
        self.carried.had_turn = true;
        Ok(())
    }

    /// Until another agent takes the place of this one.
    pub(super) fn lost_turn(&self) -> impl Future<Output = ()> + use<> {
        let lost = self.carried.turn.as_ref().map(|turn| turn.answering.lost());
        async move {
            if let Some(mut lost) = lost
                && lost.wait_for(|role| !role.is_active()).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// Lets the one that took the place of this one have it.
    pub(super) async fn yield_turn(&mut self) {
        let Some(lost) = self.carried.turn.as_ref().map(|turn| turn.answering.lost()) else { return };
        let role = lost.borrow().clone();
        self.stand_by(|_| role);
        if let Err(problem) = self.give_up_turn().await {
            tracing::debug!(%problem, "the subscription of the one that publishes does not end");
        }
    }

    /// Waits before it is asked again whether this agent may publish; `false` when asked to stop.
    pub(super) async fn wait_for_turn(&mut self, connection: u64) -> bool {
        // What is watched is not held up; nothing of another cluster's stream concerns it.
        self.progress.done(HashMap::new());
        let mut connections = self.broker.connection.clone();
        let again = tokio::time::sleep(ASK_AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => return true,
                // Whoever asked for everything is to ask the one that publishes.
                Some(_) = self.answers.recv() => {}
                _ = connections.wait_for(|now| !now.is(connection)) => {
                    self.role.send_modify(|role| role.unreachable(Instant::now()));
                    return true;
                }
                () = self.shutdown.requested() => return false,
            }
        }
    }

    fn begin_turn(&mut self) {
        if !self.role.borrow().is_active() {
            tracing::info!("no other agent publishes this cluster's stream any more: this one does");
            self.role.send_replace(Role::Active);
            if self.carried.had_turn {
                // Core subscribers may have been told something else meanwhile.
                self.queue.resync(&self.store);
            }
        }
    }

    fn stand_by(&self, after: impl FnOnce(&Role) -> Role) {
        self.role.send_modify(|role| {
            let before = role.standby().map(Standby::reason);
            *role = after(role);
            if let Some(standby) = role.standby().filter(|standby| before != Some(standby.reason())) {
                tracing::warn!(reason = standby.reason(), "{}", standby.message());
            }
        });
    }

    async fn give_up_turn(&mut self) -> Result<(), SessionError> {
        match self.carried.turn.take() {
            Some(Turn { answering, .. }) => answering.end().await,
            None => Ok(()),
        }
    }

    fn peers(&self, subject: String) -> Peers {
        let (client, witness) = (self.broker.client.clone(), self.witness.clone());
        Peers { client, subject, witness, id: self.me.id.clone() }
    }

    fn instance(&self) -> Instance {
        let config = self.active_plan.borrow().config.clone();
        let owner =
            |ReportTarget { namespace, name, uid }: ReportTarget| Owner { uid, name: format!("{namespace}/{name}") };
        let Me { id, name } = self.me.clone();
        let meshsync = config.and_then(|config| config.report_to.clone()).map(owner);
        Instance { id, name, since: Timestamp::now(), meshsync }
    }
}
