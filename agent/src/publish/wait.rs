//! What a session waits for.

use std::time::Instant;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

use crate::outbox::{Next, Outbox};

/// Waits until the broker has handled what was sent over the connection so far: it handles one message after the other, and
/// this one comes back to `echoes`, which listens to `inbox`. `None` when the client is closed.
pub(super) async fn echo(client: &Client, inbox: &str, echoes: &mut Subscriber) -> Option<()> {
    client.publish(inbox.to_owned(), Bytes::new()).await.ok()?;
    client.flush().await.ok()?;
    echoes.next().await.map(drop)
}

/// Until a point in time; for ever if there is none.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Until there may be something to send.
pub(super) async fn wait(queue: &Outbox, next: &Next) {
    match next {
        Next::WaitUntil(until) => {
            tokio::select! {
                () = tokio::time::sleep_until((*until).into()) => {}
                () = queue.pushed() => {}
            }
        }
        Next::Empty | Next::Item(_) => queue.pushed().await,
    }
}
