//! Loads that a real API server on a small machine cannot make: what one said is recorded and said again, many times over
//! and as fast as it is read. The broker is real.

mod record;
mod scenarios;
mod server;
mod stage;
mod template;
mod types;
mod world;

pub use record::{Recording, record};
pub use scenarios::{Latency, Memory, Outage, Throughput, latency, memory, outage, throughput};
pub use server::serve;
pub use template::{CHANGE_LABEL, Copy, Template};
pub use types::{Types, types};
pub use world::World;
