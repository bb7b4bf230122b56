//! Asking agents that publish the same cluster.

use std::time::Duration;

use async_nats::{Client, StatusCode};
use futures::StreamExt;

use super::instance::{Instance, Owner, Question, Revised, read, shown, written};
use super::questions::Questions;
use super::role::{Relation, is_same_storage};
use super::witness::Witness;
use crate::publish::error::SessionError;

/// How long to wait for an agent that may publish already to say so. It is as far as the broker's two ways are long.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How long the other agent's API server may take.
const REVISION_WITHIN: Duration = Duration::from_secs(8);
/// How often versions are compared: once may be chance.
const ROUNDS: u32 = 3;
/// Most answers to one question that are looked at.
const MOST_ANSWERS: usize = 64;

/// Reaches the others.
#[derive(Clone)]
pub(in crate::publish) struct Peers {
    pub(in crate::publish) client: Client,
    /// The subject that they listen to.
    pub(in crate::publish) subject: String,
    pub(in crate::publish) witness: Witness,
    /// Id of this process.
    pub(in crate::publish) id: String,
}

/// Who publishes.
#[derive(Debug)]
pub(in crate::publish) enum Heard {
    /// Nobody does.
    Nobody,
    /// Somebody may, or listens to everything, and does not say so.
    Silence,
    /// He does.
    Agent(Instance),
}

impl Peers {
    /// Who publishes. To be asked by one that does not.
    pub(in crate::publish) async fn who(&self) -> Result<Heard, SessionError> {
        let mut questions = Questions::begin(&self.client, &self.subject).await?;
        match tokio::time::timeout(HEARD_WITHIN, questions.first_answer(&self.id)).await {
            Ok(Ok(None)) => Ok(Heard::Nobody),
            Ok(Ok(Some(other))) => Ok(Heard::Agent(other)),
            Ok(Err(problem)) => Err(problem),
            Err(_) => Ok(Heard::Silence),
        }
    }

    /// Another one that publishes, beside this one, which does as well.
    pub(in crate::publish) async fn beside(&self) -> Option<Instance> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
        self.client.publish_with_reply(self.subject.clone(), inbox, written(&Question::Who)).await.ok()?;
        let until = tokio::time::Instant::now() + HEARD_WITHIN;
        for _ in 0..MOST_ANSWERS {
            let answer = tokio::time::timeout_at(until, answers.next()).await.ok()??;
            if let Some(other) = Instance::read(&answer.payload).filter(|other| other.id != self.id) {
                return Some(other);
            }
        }
        None
    }

    /// What the other one is to this one, which is of `mine`.
    pub(in crate::publish) async fn relation(&self, mine: Option<&Owner>, other: &Instance) -> Relation {
        let uid = |owner: Option<&Owner>| owner.map(|owner| owner.uid.clone());
        for _ in 0..ROUNDS {
            match self.is_same_cluster(other).await {
                Ok(true) => {}
                Ok(false) => return Relation::OtherCluster,
                Err(problem) => return Relation::Unknown(problem),
            }
        }
        if uid(mine) == uid(other.meshsync.as_ref()) { Relation::Same } else { Relation::OtherMeshSync }
    }

    async fn is_same_cluster(&self, other: &Instance) -> Result<bool, String> {
        let (type_, before) = self.witness.any_revision().await?;
        let question = Question::Revision { of: other.id.clone(), type_: type_.clone() };
        let theirs = match tokio::time::timeout(REVISION_WITHIN, self.answer_to(&question)).await {
            Ok(Some(Revised::At(revision))) => revision,
            Ok(Some(Revised::Unknown(problem))) => return Err(format!("it says: {}", shown(&problem))),
            Ok(None) | Err(_) => return Err("it does not say how far its API server is".to_owned()),
        };
        Ok(is_same_storage(before, theirs, self.witness.revision(&type_).await?))
    }

    /// The first that can be read, from the one that is asked.
    async fn answer_to(&self, question: &Question) -> Option<Revised> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
        self.client.publish_with_reply(self.subject.clone(), inbox, written(question)).await.ok()?;
        loop {
            let answer = answers.next().await?;
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                return None;
            }
            if let Some(revised) = read(&answer.payload) {
                return Some(revised);
            }
        }
    }

    /// Asks the other one to end, as its successor.
    pub(in crate::publish) async fn succeed(&self, other: &Instance, me: Instance) -> Result<(), SessionError> {
        let question = Question::Yield { of: other.id.clone(), to: me };
        let sent = self.client.publish(self.subject.clone(), written(&question)).await;
        sent.map_err(|error| SessionError(error.to_string()))
    }
}
