//! The program behind `cargo lab`: it builds the lab, says how long that takes, and executes it.
//!
//! The lab has dependencies that take minutes to compile. This program has none, so that `cargo lab` speaks within a second.

use std::env;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Message before the first build, with times for two cores at 2 GHz.
const FIRST_BUILD: &str = "\
lab: this is the first run, so there is much to compile: the lab itself takes about 5 minutes now.
lab: `cargo lab demo` and `cargo lab test` then compile the workspace (about 10 minutes) and Kubernetes from its Go modules
lab: (about 15 minutes). Later runs reuse all of it and start at once.";

fn main() -> ExitCode {
    match become_lab() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: cannot start the lab: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Builds the lab and replaces this process with it. Returns only if the build fails.
fn become_lab() -> io::Result<ExitCode> {
    let lab = lab_path()?;
    let is_first = !lab.is_file();
    if is_first {
        say(FIRST_BUILD);
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Selects the whole workspace, as for its tests: another selection would compile shared dependencies again with
    // other features.
    build.args(["build", "--workspace", "--bin", "lab"]);
    // Cargo's own lines show the progress of a build; a build that has nothing to do is not worth a line.
    if !is_first {
        build.arg("--quiet");
    }
    // Removes the variables that cargo sets for this program's own package: packages that read them would be compiled
    // again.
    for (name, _) in env::vars_os().filter(|(name, _)| is_about_this_package(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let status = build.status()?;
    if !status.success() {
        say("error: the lab does not build; the compiler's messages are above");
        return Ok(ExitCode::FAILURE);
    }
    Err(Command::new(lab).args(env::args_os().skip(1)).exec())
}

fn is_about_this_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The lab's binary lies beside this one.
fn lab_path() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("lab"))
}

fn say(text: &str) {
    // Without standard error nobody can read the message.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
