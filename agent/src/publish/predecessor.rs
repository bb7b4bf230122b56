//! Waiting until the connection over which this cluster was published before is gone.
//!
//! Core NATS brings the messages of two connections into no order: what an agent that was killed had written may still be on
//! its way when the next one publishes, and subscribers would hear an older state after a newer one. But a server handles
//! what a connection brings in order, and drops the connection's subscriptions after that. So each connection that
//! publishes listens to a subject that belongs to the cluster: once the server says that nobody does ("no responders",
//! nats-server 2.2 or newer), it has handled everything that came over an earlier one.
//!
//! Who listens to everything (`nats sub '>'`, a monitor) listens to that subject, too, and then nobody is told so. Servers tell
//! such subscriptions from the predecessor's where a message is traced: see [`super::trace`].

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

use super::parts::{Parts, Problem};
use super::trace::{self, Trace};
use crate::stream::Subjects;

/// How often to ask whether anybody still listens.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long to wait at most. A server holds a connection whose other end went away without a word for minutes, and nothing
/// more comes over that; an agent that runs beside this one by mistake stays for as long as it likes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// This process's turn to publish a cluster: over one connection.
#[derive(Debug)]
pub(super) struct Turn {
    connection: u64,
    subject: String,
    /// Nothing that comes here matters, only that there is a subscription.
    listens: Subscriber,
}

impl Parts {
    /// Waits until nothing more comes over an older connection, and says that this one publishes from now on. To be called
    /// before the first object is sent.
    ///
    /// # Errors
    /// When the connection breaks, or does not take a subscription.
    pub(super) async fn take_turn(&mut self, connection: u64, subjects: &Subjects) -> Result<(), Problem> {
        let subject = subjects.publisher();
        if let Some(turn) = self.carried.turn.take() {
            if turn.connection == connection && turn.subject == subject {
                self.carried.turn = Some(turn);
                return Ok(());
            }
            // The client has subscribed again over the new connection: that is not the predecessor.
            let Turn { mut listens, .. } = turn;
            listens.unsubscribe().await.map_err(|error| Problem(error.to_string()))?;
        }
        let client = &self.broker.client;
        let mut connections = self.broker.connection.clone();
        tokio::select! {
            gone = tokio::time::timeout(GIVE_UP_AFTER, nobody_listens(client, &subject)) => match gone {
                Ok(gone) => gone?,
                Err(_) => tracing::warn!(
                    waited = ?GIVE_UP_AFTER,
                    "the connection of another agent for this cluster is still open; publishing beside it"
                ),
            },
            _ = connections.wait_for(|now| !now.is(connection)) => {
                return Err(Problem("the connection broke".to_owned()));
            }
        }
        let listens = client.subscribe(subject.clone()).await.map_err(|error| Problem(error.to_string()))?;
        self.carried.turn = Some(Turn { connection, subject, listens });
        Ok(())
    }
}

/// Until nobody listens to `subject`.
async fn nobody_listens(client: &Client, subject: &str) -> Result<(), Problem> {
    if !client.server_info().headers {
        // Then it cannot say so either.
        return Ok(());
    }
    let mut questions = Questions::begin(client, subject).await?;
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            _ = ask.tick() => questions.ask().await?,
            answer = questions.answers.next() => match answer {
                Some(answer) if questions.is_answered_by(&answer) => return Ok(()),
                Some(_) => {}
                None => return Err(Problem("the client is closed".to_owned())),
            },
        }
    }
}

/// Who listens is asked in two ways at once. Whichever question is answered with "nobody": who did not listen then does not any
/// more.
struct Questions<'c> {
    client: &'c Client,
    subject: &'c str,
    inbox: String,
    answers: Subscriber,
    /// Traces by the last token of the subject that servers tell of them.
    traces: HashMap<String, Trace>,
    asked: u64,
}

impl<'c> Questions<'c> {
    async fn begin(client: &'c Client, subject: &'c str) -> Result<Self, Problem> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|error| Problem(error.to_string()))?;
        Ok(Self { client, subject, inbox, answers, traces: HashMap::new(), asked: 0 })
    }

    async fn ask(&mut self) -> Result<(), Problem> {
        let (subject, number) = (self.subject.to_owned(), self.asked);
        self.asked += 1;
        let answer_to = format!("{}.{number}", self.inbox);
        // Somebody is there, or the first would have been answered: it may be one who listens to everything.
        if number > 0 {
            self.traces.insert(number.to_string(), Trace::default());
            let headers = trace::headers(&answer_to);
            let sent = self.client.publish_with_headers(subject.clone(), headers, Bytes::new()).await;
            sent.map_err(|error| Problem(error.to_string()))?;
        }
        let sent = self.client.publish_with_reply(subject, answer_to, Bytes::new()).await;
        sent.map_err(|error| Problem(error.to_string()))
    }

    /// Whether an answer, with those that came before, says that nobody listens.
    fn is_answered_by(&mut self, answer: &Message) -> bool {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return true;
        }
        let number = answer.subject.rsplit('.').next().unwrap_or_default();
        let Some(trace) = self.traces.get_mut(number) else { return false };
        trace.take_in(self.subject, &answer.payload);
        trace.shows_nobody()
    }
}
