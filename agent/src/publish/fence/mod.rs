//! Whose turn it is to publish a cluster: one process's at a time, over one connection.
//!
//! Core NATS brings the messages of two connections into no order: what an agent that was killed had written may still be on
//! its way when the next one publishes, and subscribers would hear an older state after a newer one. But a server handles
//! what a connection brings in order, and drops the connection's subscriptions after that. So each connection that
//! publishes listens to a subject that belongs to the cluster: once the server says that nobody does ("no responders",
//! nats-server 2.2 or newer), it has handled everything that came over an earlier one.
//!
//! Who listens to everything (`nats sub '>'`, a monitor) listens to that subject, too, and then nobody is told so. Servers tell
//! such subscriptions from a predecessor's where a message is traced: see [`trace`].
//!
//! A predecessor that lives answers. If it is of the same cluster and the same MeshSync, as in a rolling update, it is asked to
//! end, and does so at once. Anybody else stays: two clusters of one id, as clones have it, would delete each other's objects
//! for ever. Whether a cluster is the same one is told by the storage of its API server: see [`witness`].

mod answering;
mod instance;
mod me;
mod peers;
mod questions;
mod role;
mod trace;
mod turn;
mod witness;

pub(super) use self::answering::Answering;
pub(super) use self::instance::{Instance, Owner};
pub use self::me::Me;
pub(super) use self::peers::{Heard, Peers};
pub(super) use self::questions::Questions;
pub(super) use self::role::Relation;
pub(crate) use self::role::{Role, Standby};
pub(super) use self::turn::Turn;
pub use self::witness::Witness;
