//! Sends everything that is held to one who asked.

use async_nats::{Client, PublishError};

use super::meshery::{Pushed, StoreReply};
use crate::snapshot::Store;

/// Sends the whole of `store` to `reply`, objects of one type after the other; gives their number.
///
/// # Errors
/// When the client is closed.
pub(super) async fn send_store(
    client: &Client,
    store: &Store,
    cluster_id: &str,
    reply: &str,
) -> Result<u64, PublishError> {
    let mut answer = StoreReply::new(cluster_id, client.server_info().max_payload);
    let mut objects = 0;
    for (_, served, table) in store.tables() {
        for object in table.scan() {
            match answer.push(&object.body) {
                Ok((Pushed::TooLarge, _)) => {
                    tracing::warn!(r#type = %served, object = %object.name, "too large for the broker: left out");
                }
                Ok((_, full)) => {
                    objects += 1;
                    if let Some(full) = full {
                        client.publish(reply.to_owned(), full.into()).await?;
                    }
                }
                Err(error) => tracing::error!(r#type = %served, object = %object.name, %error, "left out"),
            }
        }
    }
    for last in answer.finish() {
        client.publish(reply.to_owned(), last.into()).await?;
    }
    Ok(objects)
}
