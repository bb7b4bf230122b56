//! The doorway of the agent.

use std::process::ExitCode;

use meshsync_agent::cli::Cli;
use meshsync_runtime::{exit, tls};

// glibc keeps the peak of a start-up for ever; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    tls::install_provider();
    exit::report(Cli::from_process().execute().await)
}
