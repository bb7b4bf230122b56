//! The lab's command line: `cargo lab --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshsync_e2e::cli::main()
}
