//! Waits for a condition with a deadline, which is the only way in which a test may wait.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Pause between two probes: short compared with what tests measure, long compared with a probe's cost.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// Calls `probe` until it returns a value, and returns that value.
///
/// `Ok(None)` means "not yet". An `Err` also means "not yet" (a server that restarts refuses connections); the last one
/// is part of the message if the deadline passes.
///
/// # Errors
/// When `deadline` has passed without a value: names `what`, the deadline, and the last probe's error.
///
/// ```no_run
/// # async fn example(cluster: &meshsync_e2e::cluster::Cluster) -> anyhow::Result<()> {
/// use std::time::Duration;
/// let uid = meshsync_e2e::await_condition("namespace `demo` exists", Duration::from_secs(10), async || {
///     let uid = cluster.kubectl(["get", "ns", "demo", "-o", "jsonpath={.metadata.uid}"]).await?;
///     Ok((!uid.is_empty()).then_some(uid))
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub async fn await_condition<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let last = match tokio::time::timeout(left, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(anyhow!("the probe itself did not answer in time")),
        };
        if Instant::now() >= end {
            let cause = last.unwrap_or_else(|| anyhow!("the condition did not hold"));
            return Err(cause.context(format!("waited {deadline:?} for: {what}")));
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
