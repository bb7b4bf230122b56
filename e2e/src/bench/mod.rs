//! Measures the agent beside the null client and other programs: same API server, same broker, same data, in turn.

pub mod contender;
pub mod dataset;
pub mod large;
pub mod load;
pub mod null_client;
pub mod process;
pub mod replay;
pub mod snapshot;
