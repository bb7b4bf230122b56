//! Entry point of the operator.

use std::process::ExitCode;

use clap::Parser;
use meshsync_operator::cli::Cli;
use meshsync_runtime::{exit, tls};

#[tokio::main]
async fn main() -> ExitCode {
    tls::install_provider();
    exit::report(Cli::parse().execute().await)
}
