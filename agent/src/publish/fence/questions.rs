//! Asking until it is known who listens to a subject, in two ways at once.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

use super::instance::{Instance, Question, written};
use super::trace::{self, Trace};
use crate::publish::error::SessionError;

/// How often to ask.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Whichever question is answered with "nobody": who did not listen then does not any more.
pub(in crate::publish) struct Questions<'c> {
    client: &'c Client,
    subject: &'c str,
    inbox: String,
    answers: Subscriber,
    /// Traces by the last token of the subject that servers tell of them.
    traces: HashMap<String, Trace>,
    asked: u64,
}

impl<'c> Questions<'c> {
    pub(in crate::publish) async fn begin(client: &'c Client, subject: &'c str) -> Result<Self, SessionError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|error| SessionError(error.to_string()))?;
        Ok(Self { client, subject, inbox, answers, traces: HashMap::new(), asked: 0 })
    }

    /// Until nobody listens.
    pub(in crate::publish) async fn nobody_listens(&mut self) -> Result<(), SessionError> {
        while self.next_answer().await?.is_some() {}
        Ok(())
    }

    /// The first agent but `me` that says that it publishes; `None` if nobody listens.
    pub(in crate::publish) async fn first_answer(&mut self, me: &str) -> Result<Option<Instance>, SessionError> {
        loop {
            let Some(answer) = self.next_answer().await? else { return Ok(None) };
            if let Some(other) = Instance::read(&answer.payload).filter(|other| other.id != me) {
                return Ok(Some(other));
            }
        }
    }

    /// Asks on until there is an answer; `None` once that, with those before, says that nobody listens.
    async fn next_answer(&mut self) -> Result<Option<Message>, SessionError> {
        if !self.client.server_info().headers {
            // Then it cannot say so either.
            return Ok(None);
        }
        loop {
            if self.asked == 0 {
                self.ask().await?;
            }
            let answer = match tokio::time::timeout(ASK_EVERY, self.answers.next()).await {
                Err(_) => {
                    self.ask().await?;
                    continue;
                }
                Ok(answer) => answer.ok_or_else(|| SessionError("the client is closed".to_owned()))?,
            };
            return Ok((!self.is_nobody(&answer)).then_some(answer));
        }
    }

    async fn ask(&mut self) -> Result<(), SessionError> {
        let (subject, number) = (self.subject.to_owned(), self.asked);
        self.asked += 1;
        let answer_to = format!("{}.{number}", self.inbox);
        // Somebody is there, or the first would have been answered: it may be one who listens to everything.
        if number > 0 {
            self.traces.insert(number.to_string(), Trace::default());
            let headers = trace::headers(&answer_to);
            let sent = self.client.publish_with_headers(subject.clone(), headers, Bytes::new()).await;
            sent.map_err(|error| SessionError(error.to_string()))?;
        }
        let sent = self.client.publish_with_reply(subject, answer_to, written(&Question::Who)).await;
        sent.map_err(|error| SessionError(error.to_string()))
    }

    /// Whether an answer, with those that came before, says that nobody listens.
    fn is_nobody(&mut self, answer: &Message) -> bool {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return true;
        }
        let number = answer.subject.rsplit('.').next().unwrap_or_default();
        let Some(trace) = self.traces.get_mut(number) else { return false };
        if Instance::read(&answer.payload).is_some() {
            return false;
        }
        trace.take_in(self.subject, &answer.payload);
        trace.shows_nobody()
    }
}
