//! Faults injected into real processes, and the checker that decides whether an agent survived them.

mod api_proxy;
mod clock;
mod frozen;
pub mod invariants;
mod memory_limit;
mod proxy;
mod server_link;
pub mod soak;
mod trial;

pub use api_proxy::{Answer, ApiProxy, Asked, Rule};
pub use clock::Clock;
pub use memory_limit::MemoryLimit;
pub use proxy::{Link, Proxy};
pub use server_link::ServerLink;
pub use trial::{NAMESPACE, Trial};
