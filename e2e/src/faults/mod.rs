//! Faults, injected on the real thing, and the checker that tells whether an agent stood them.

pub mod invariants;
mod proxy;
mod trial;

pub use proxy::{Link, Proxy};
pub use trial::{NAMESPACE, Trial};
