//! Reads probes, metrics and debug pages of agents and other servers in a lab.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Request;
use serde_json::Value;

/// Probe address of an agent that runs as a process.
pub const AGENT_PROBES: &str = "127.0.0.1:11000";

/// Address of its debug server.
const AGENT_DEBUG: &str = "127.0.0.1:11001";

/// Metrics in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// Reads the metrics of the agent that runs as a process in the lab.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of_agent() -> Result<Self> {
        get(AGENT_PROBES, "/metrics").await.map(Self)
    }

    /// The value of one sample, e.g. `process_resident_memory_bytes` or `x_total{type="pods"}`.
    #[must_use]
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    }

    /// The sum over all labels of a metric; 0 if there is none of the name.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.0.lines().filter_map(|line| value_of(name, line)).sum()
    }
}

/// All objects of the agent that runs as a process in the lab.
///
/// # Errors
/// When it does not answer, or not to the end.
pub async fn agent_snapshot() -> Result<Vec<Value>> {
    let text = get(AGENT_DEBUG, "/snapshot").await?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not an object: {line}"))).collect()
}

/// State of the watches of the agent that runs as a process in the lab, by type.
///
/// # Errors
/// When it does not answer.
pub async fn agent_watches() -> Result<Value> {
    Ok(serde_json::from_str(&get(AGENT_DEBUG, "/debug/watches").await?)?)
}

/// Whether the agent that runs as a process in the lab is ready, and the body of its answer.
///
/// # Errors
/// When it does not answer.
pub async fn agent_readiness() -> Result<(bool, String)> {
    readiness(AGENT_PROBES).await
}

/// As [`agent_readiness`], of one with another address for its probes.
///
/// # Errors
/// When it does not answer.
pub async fn readiness(address: &str) -> Result<(bool, String)> {
    let request = Request::get("/readyz").body(kube::client::Body::empty())?;
    let answer = client(address)?.send(request).await.context("no answer from /readyz")?;
    let is_ready = answer.status().is_success();
    let body = answer.into_body().collect_bytes().await.context("half an answer from /readyz")?;
    Ok((is_ready, String::from_utf8_lossy(&body).into_owned()))
}

/// The answer of an HTTP server in the lab.
///
/// # Errors
/// When it does not answer, or answers with an error.
pub async fn get(address: &str, path: &str) -> Result<String> {
    let text = client(address)?.request_text(Request::get(path).body(Vec::new())?).await;
    text.with_context(|| format!("no answer from http://{address}{path}"))
}

fn client(address: &str) -> Result<kube::Client> {
    let mut config = kube::Config::new(format!("http://{address}").parse()?);
    // An answer of 503 is an answer.
    config.default_retry = false;
    config.read_timeout = Some(Duration::from_secs(10));
    Ok(kube::Client::try_from(config)?)
}

fn value_of(name: &str, line: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        Some(labels) => labels.rsplit_once("} ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_and_summed() {
        let text = "# HELP x_total Some\nx_total{type=\"a\"} 2\nx_total{type=\"b } c\"} 3\nx_total_more 9\ny 1.5\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("x_total"), metrics.sum("y"), metrics.sum("z")), (5.0, 1.5, 0.0));
        assert_eq!((metrics.get("x_total{type=\"a\"}"), metrics.get("x_total")), (Some(2.0), None));
    }
}
