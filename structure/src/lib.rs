//! The structure of the workspace, read from its source: which module imports from which.
//!
//! [`Modules::read`] parses a crate's files, [`imports`] resolves every path to the module that defines the item, and
//! [`cycles`] finds modules that import from each other. Code under `#[cfg(test)]` does not count: tests may look
//! everywhere.

mod cycles;
mod imports;
mod module_path;
mod modules;
mod paths;

pub use cycles::cycles;
pub use imports::{Import, imports};
pub use module_path::ModulePath;
pub use modules::{Module, Modules};
