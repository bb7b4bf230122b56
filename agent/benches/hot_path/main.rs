//! What each step costs on the way from the API server's bytes to a message for the broker.
//!
//! `cargo bench -p meshsync-agent` measures; a word after `--` selects. Times of a shared machine are noise: allocations are
//! exact, and so are the instructions that `valgrind --tool=callgrind` counts, because without `--bench` each benchmark runs
//! just once. `--toggle-collect='*measured*'` leaves out the making of objects.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::indexing_slicing, reason = "a benchmark may panic")]
#![allow(missing_docs, reason = "nobody can use it")]

mod objects;
mod path;
mod stages;

// As the agent has it, and counted.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<tikv_jemallocator::Jemalloc> =
    divan::AllocProfiler::new(tikv_jemallocator::Jemalloc);

fn main() {
    divan::main();
}
