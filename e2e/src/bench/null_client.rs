//! The null client: reads every list that an agent must read, and throws it away.
//!
//! Nothing that keeps a snapshot can be faster, so it is the yardstick. Its pages are the agent's largest, and it reads as
//! many types at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{AsyncReadExt, StreamExt, TryStreamExt, stream};
use kube::Client;

/// Objects a page.
const PAGE: usize = 1000;
/// Types that are read at the same time.
const CONCURRENCY: usize = 6;

/// What a run of the null client took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NullRun {
    /// From the first request to the last byte.
    pub elapsed: Duration,
    /// Bytes of all response bodies.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
}

/// Lists the collections at `paths`.
///
/// # Errors
/// The first request that fails, with its path.
pub async fn run(client: &Client, paths: Vec<String>) -> Result<NullRun> {
    let start = Instant::now();
    let (bytes, requests) = stream::iter(paths)
        .map(|path| read_collection(client, path))
        .buffer_unordered(CONCURRENCY)
        .try_fold((0, 0), async |(bytes, requests), (b, r)| Ok((bytes + b, requests + r)))
        .await?;
    Ok(NullRun { elapsed: start.elapsed(), bytes, requests })
}

async fn read_collection(client: &Client, path: String) -> Result<(u64, u64)> {
    let (mut bytes, mut requests) = (0, 0);
    let mut token = String::new();
    loop {
        let page = read_page(client, &path, &token).await.with_context(|| format!("null client: GET {path}"))?;
        bytes += page.bytes;
        requests += 1;
        match page.next {
            Some(next) => token = next,
            None => return Ok((bytes, requests)),
        }
    }
}

struct Page {
    bytes: u64,
    next: Option<String>,
}

async fn read_page(client: &Client, path: &str, token: &str) -> Result<Page> {
    let mut uri = format!("{path}?limit={PAGE}");
    if !token.is_empty() {
        uri.push_str("&continue=");
        uri.push_str(token);
    }
    let request = http::Request::get(uri).body(Vec::new())?;
    let mut body = std::pin::pin!(client.request_stream(request).await?);
    let mut head = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = body.read(&mut buffer).await?;
        if read == 0 {
            return Ok(Page { bytes, next: continue_token(&head) });
        }
        bytes += read as u64;
        // The server writes the list's metadata before its items.
        if head.len() < 4096 {
            head.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
    }
}

/// The token in the first bytes of a list, already fit for a query (base64url without padding, RFC 4648 section 5).
fn continue_token(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head.get(..head.len().min(4096)).unwrap_or_default()).into_owned();
    let metadata = head.split_once("\"items\":").map_or(head.as_str(), |(metadata, _)| metadata);
    let (_, rest) = metadata.split_once("\"continue\":\"")?;
    let (token, _) = rest.split_once('"')?;
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_that_of_the_list_and_not_of_an_item() {
        let list = br#"{"kind":"PodList","metadata":{"resourceVersion":"5","continue":"abc_-1"},"items":[{}]}"#;
        assert_eq!(continue_token(list).as_deref(), Some("abc_-1"));
        let last = br#"{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[{"continue":"no"}]}"#;
        assert_eq!(continue_token(last), None);
    }
}
