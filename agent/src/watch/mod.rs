//! Keeps one table of the snapshot equal to one type of the cluster, for each type of the plan.
//!
//! Every type has a loop of its own, so that a slow, refused or broken one never holds up another:
//! list → watch from its version → list again when the server no longer knows that version. It is read in
//! pages, or is the beginning of the watch itself where that is wanted and the server serves it. A type that may not be read in
//! all namespaces is read in some, by a list and a watch for each; they share one loop and take turns at listing.

mod board;
mod collection;
mod common;
mod fleet;
mod initial;
mod intake;
mod list;
mod once;
mod pages;
mod places;
mod resume;
mod scope;
mod standing;
mod stream;
mod successor;
#[cfg(test)]
mod tests;
mod type_loop;

pub use board::{Board, NamespaceReport, Narrowed, Phase, TypeReport};
pub use fleet::{Applied, Fleet, FleetDeps};
pub use once::{Listing, Reach, list_once};
pub use scope::Scope;
