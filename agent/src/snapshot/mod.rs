//! The last known state of every watched object, compressed, with what consumers have been told about each.

mod codec;
mod digest;
mod extent;
mod restore;
mod rows;
mod scan;
mod state;
mod store;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod types;

pub use codec::{Codec, Packed};
pub use digest::Digest;
pub use extent::Extent;
pub use scan::Scan;
pub use store::{Store, TypeId};
pub use table::{Relist, Table};
pub use types::{Confirmation, Object, Outcome, Removed, Restored, Stored, TableStats, Told};
