//! Raw JSON of Kubernetes objects: framing, splitting, stripping. Nothing here builds a tree of an object.
//!
//! Everything in this module reads bytes that somebody else wrote, so it must stand any input: no recursion on nesting,
//! no quadratic work on repeated keys, and no error text that quotes a value (a Secret's would end in a log).

mod body;
mod compact;
mod error;
pub mod event;
pub mod fields;
pub mod frame;
mod identity;
pub mod list;
mod list_body;
mod outline;
mod prepare;
mod redact;
mod scan;
mod skip;
pub mod split;
#[cfg(test)]
mod tests;
pub mod text;

pub use body::Body;
pub(crate) use body::Lengths;
pub use error::ObjectError;
pub(crate) use error::utf8;
pub use event::{EventKind, WatchEvent};
pub use frame::{FrameError, FrameSplitter};
pub use identity::{ObjectName, ResourceVersion, Uid};
pub use list::ListPage;
pub use list_body::ListBody;
pub use outline::Outline;
pub use prepare::{PREPARE_REVISION, Prepared, TypeContext, prepare, prepare_outline};
pub use redact::{DATA_PLACEHOLDER, TEXT_PLACEHOLDER};
