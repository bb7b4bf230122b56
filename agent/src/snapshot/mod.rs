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

pub use codec::{Codec, Packed};
pub use digest::Digest;
pub use extent::Extent;
pub use restore::{Restored, Stored};
pub use scan::Scan;
pub use store::{Store, TypeId};
pub use table::{Confirmation, Object, Outcome, Relist, Removed, Table, TableStats, Told};
