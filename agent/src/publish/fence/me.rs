//! This process, as other agents hear of it.

use async_nats::Client;

/// This process.
#[derive(Clone, Debug)]
pub struct Me {
    /// Tells it from all others.
    pub(in crate::publish) id: String,
    /// For people: its pod or host.
    pub(in crate::publish) name: String,
}

impl Me {
    /// The process with this connection; the host's name has to do outside of a pod.
    #[must_use]
    pub fn new(client: &Client, pod: &str) -> Self {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let inbox = client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        Self { id, name: Some(pod.to_owned()).filter(|pod| !pod.is_empty()).unwrap_or_else(host) }
    }
}
