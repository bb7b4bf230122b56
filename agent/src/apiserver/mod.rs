//! Requests to the API server, what their answers mean, and the pauses between attempts.

pub(crate) mod backoff;
pub(crate) mod request;

pub use request::{Reason, RequestError, Source};
