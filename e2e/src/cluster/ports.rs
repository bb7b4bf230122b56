//! Where the processes of a cluster listen.

/// Ports of one cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Of the API server.
    pub(super) api: u16,
    /// Of etcd, for its clients.
    etcd: u16,
    /// Of etcd, for other members.
    pub(super) peers: u16,
}

impl Ports {
    /// Those of a lab's cluster.
    pub(super) const USUAL: Self = Self { api: 6_443, etcd: 2_379, peers: 2_380 };
    /// Those of a clone beside it.
    pub(super) const OF_A_CLONE: Self = Self { api: 16_443, etcd: 12_379, peers: 12_380 };

    /// Where etcd serves its clients.
    pub(super) fn etcd_url(self) -> String {
        format!("http://127.0.0.1:{}", self.etcd)
    }
}
