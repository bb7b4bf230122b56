//! `cargo lab check`: checks what the machine needs before a lab can start.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::output::print;
use crate::cluster::Level;
use crate::packages;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Level of the cluster
    #[arg(long, value_enum, default_value = "node")]
    level: Level,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    /// Whether `--provider local` can work once the missing packages are installed.
    local: bool,
    /// Whether `--provider kind` can work.
    kind: bool,
    linux: bool,
    root: bool,
    /// Version of Go; null if it is missing or older than 1.21.
    go: Option<String>,
    missing_packages: Vec<&'static str>,
    /// Programs that the first start has to build.
    to_build: Vec<&'static str>,
}

/// Prints what exists and what is missing. The exit code is 0 if a cluster of the level can start right now.
pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let found = look(args.level)?;
    if args.json {
        print(serde_json::to_string(&found)?)?;
    } else {
        explain(&found)?;
    }
    let ready = found.kind || (found.local && found.missing_packages.is_empty());
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(level: Level) -> Result<Findings> {
    let linux = cfg!(target_os = "linux");
    let root = nix::unistd::geteuid().is_root();
    let go = go_version();
    let to_build = crate::assets::missing(level.tools())?.into_iter().map(crate::assets::Tool::name).collect();
    let kind = crate::provider::kind_works();
    let local = linux && root && go.is_some();
    Ok(Findings { local, kind, linux, root, go, missing_packages: packages::missing(level), to_build })
}

fn explain(found: &Findings) -> Result<()> {
    let mark = |good: bool| if good { "ok     " } else { "missing" };
    print(format!("{} Linux", mark(found.linux)))?;
    print(format!("{} root rights", mark(found.root)))?;
    print(format!("{} Go 1.21 or newer ({})", mark(found.go.is_some()), found.go.as_deref().unwrap_or("none found")))?;
    print(format!("{} Debian packages {}", mark(found.missing_packages.is_empty()), found.missing_packages.join(" ")))?;
    print(format!("{} Docker and kind", mark(found.kind)))?;
    if !found.to_build.is_empty() {
        print(format!("built at the first start (minutes, once): {}", found.to_build.join(" ")))?;
    }
    if found.kind || (found.local && found.missing_packages.is_empty()) {
        return print("ready");
    }
    print("\nTwo ways on:")?;
    print("  1. Linux as root with Go 1.21 or newer on PATH, and these packages:")?;
    let install = found.missing_packages.join(" ");
    print(format!(
        "     {}",
        if install.is_empty() { "(none missing)".to_owned() } else { packages::command(&install) }
    ))?;
    print("  2. any machine with Docker running and kind on PATH (https://kind.sigs.k8s.io)")
}

/// The version of `go` on PATH if it is at least 1.21, which downloads the release that the modules require.
pub(super) fn go_version() -> Option<String> {
    let output =
        Command::new("go").args(["env", "GOVERSION"]).output().ok().filter(|output| output.status.success())?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    is_recent_go(&version).then_some(version)
}

fn is_recent_go(version: &str) -> bool {
    let mut parts = version.trim_start_matches("go").split(['.', 'r', 'b']).map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next().flatten(), parts.next().flatten());
    (major, minor) >= (Some(1), Some(21))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_is_accepted_from_version_1_21() {
        for (version, recent) in [
            ("go1.26.8", true),
            ("go1.21", true),
            ("go1.22rc1", true),
            ("go1.20.14", false),
            ("go2.0", true),
            ("", false),
        ] {
            assert_eq!(is_recent_go(version), recent, "{version}");
        }
    }
}
