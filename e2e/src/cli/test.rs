//! `cargo lab test`: all tests, from a fresh clone, with one verdict at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use super::output::print;
use super::test_run::{Tally, end_children_on_signals, run as run_tests};
use crate::assets::{self, Tool};
use crate::cluster::Level;
use crate::lab::Lab;
use crate::packages;
use crate::progress::{say, step};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Run only tests that need no cluster; installs nothing, and builds only the workspace
    #[arg(long)]
    unit: bool,
    /// Install missing Debian packages (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// Give up on a phase after this many minutes: 2.5 times what a quick machine needs
    #[arg(long, default_value_t = 38, value_name = "MINUTES")]
    phase_timeout: u64,
}

/// The highest level that a test asks for.
const HIGHEST: Level = Level::Node;

/// Lab tests that run at once in one test binary; each has a cluster of its own, and the work is bound by processors.
const LABS_AT_ONCE: &str = "--test-threads=2";

/// Runs all tests. The last line on standard output is `N passed, N failed`; the exit code is 0 only if none failed.
pub(super) fn run(args: &TestArgs) -> Result<ExitCode> {
    end_children_on_signals()?;
    let started = Instant::now();
    let total = run_all(args).unwrap_or_else(|error| {
        say(format!("{error:#}"));
        Tally::ONE_FAILURE
    });
    say(format!("all phases: {:.0} s", started.elapsed().as_secs_f64()));
    print(total.to_string())?;
    Ok(if total.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_all(args: &TestArgs) -> Result<Tally> {
    if !args.unit {
        packages::ensure_installed(HIGHEST, packages::agreed(args.yes))?;
        let tools: Vec<_> = HIGHEST.tools().iter().copied().chain([Tool::NatsServer]).collect();
        assets::ensure_all(&tools)?;
        Lab::sweep()?;
    }
    let binaries = step("building the workspace and its tests", build)?;

    let limit = Duration::from_secs(args.phase_timeout * 60);
    let mut total = phase("unit tests", limit, binaries.iter().filter(|binary| !binary.is_on_clusters()), args, &[]);
    if !args.unit {
        let on_clusters = binaries.iter().filter(|binary| binary.is_on_clusters());
        total += phase("tests on clusters", limit, on_clusters, args, &[LABS_AT_ONCE]);
        // Killed tests leave labs behind; the verdict must not.
        Lab::sweep()?;
    }
    total += doc_tests(limit, args);
    Ok(total)
}

/// A test program that cargo built.
#[derive(Debug)]
struct TestBinary {
    name: String,
    kind: String,
    path: PathBuf,
    package_dir: PathBuf,
}

impl TestBinary {
    /// Whether it starts clusters. Tests of other packages, such as that of the schema, need none.
    fn is_on_clusters(&self) -> bool {
        self.kind == "test" && self.package_dir.ends_with("e2e")
    }
}

/// The part that is read of cargo's message about something that it built.
#[derive(Debug, Deserialize)]
struct Artifact {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    profile: Profile,
    target: Target,
    manifest_path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds everything in one go: the tests start the workspace's binaries by path, and two builds with different selections
/// of packages would compile shared dependencies twice, with different features.
fn build() -> Result<Vec<TestBinary>> {
    let output = cargo()
        .args(["build", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the workspace does not build");
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are no text")?;
    Ok(test_binaries(&messages))
}

/// Builds the workspace's binaries for a demonstration: with the same selection as the tests, which compiles what they share
/// once.
pub(super) fn build_binaries() -> Result<()> {
    let status = cargo().args(["build", "--workspace", "--bins"]).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the workspace does not build");
    Ok(())
}

/// Builds the agent, with all optimisations if `release`, and returns its path.
pub(super) fn build_agent(release: bool) -> Result<std::path::PathBuf> {
    if !release {
        build_binaries()?;
        return crate::binaries::binary("meshsync-agent");
    }
    let status =
        cargo().args(["build", "--release", "--package", "meshsync-agent"]).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the agent does not build");
    let debug = crate::binaries::binary("meshsync-agent")?;
    let target = debug.parent().and_then(Path::parent).context("the build directory has an unexpected layout")?;
    Ok(target.join("release/meshsync-agent"))
}

/// The test programs among cargo's messages; other messages have other shapes. The build includes benchmarks, so that
/// they keep compiling; they are not tests, although cargo says so.
fn test_binaries(messages: &str) -> Vec<TestBinary> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let tests =
        artifacts.filter(|artifact| artifact.profile.test && !artifact.target.kind.iter().any(|kind| kind == "bench"));
    tests
        .filter_map(|artifact| {
            Some(TestBinary {
                name: artifact.target.name,
                kind: artifact.target.kind.into_iter().next()?,
                path: artifact.executable?,
                package_dir: artifact.manifest_path.parent()?.to_owned(),
            })
        })
        .collect()
}

fn phase<'a>(
    name: &str,
    limit: Duration,
    binaries: impl Iterator<Item = &'a TestBinary>,
    args: &TestArgs,
    options: &[&str],
) -> Tally {
    let started = Instant::now();
    let mut tally = Tally::default();
    for binary in binaries {
        say(format!("{name}: {}", binary.name));
        let began = Instant::now();
        let mut command = Command::new(&binary.path);
        // As under `cargo test`: tests name fixtures relative to their package.
        command.current_dir(&binary.package_dir).env("CARGO_MANIFEST_DIR", &binary.package_dir);
        command.args(&args.filter).args(options);
        tally += run_tests(command, limit.saturating_sub(started.elapsed()));
        say(format!("{name}: {} took {:.1} s", binary.name, began.elapsed().as_secs_f64()));
    }
    say(format!("{name}: {tally}, {:.1} s", started.elapsed().as_secs_f64()));
    tally
}

fn doc_tests(limit: Duration, args: &TestArgs) -> Tally {
    let started = Instant::now();
    let mut command = cargo();
    command.args(["test", "--workspace", "--doc", "--"]).args(&args.filter);
    let tally = run_tests(command, limit);
    say(format!("documentation's examples: {tally}, {:.1} s", started.elapsed().as_secs_f64()));
    tally
}

/// Cargo at the workspace's root. What `cargo run` set for this program is removed: some build scripts watch those
/// variables and would compile their crates again.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let set_by_cargo = |name: &str| {
        name == "CARGO"
            || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p))
    };
    for (name, _) in std::env::vars().filter(|(name, _)| set_by_cargo(name)) {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_read_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"profile":{"test":true},"executable":"/t/a-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/e2e/Cargo.toml","target":{"name":"wire","kind":["test"]},"profile":{"test":true},"executable":"/t/wire-2"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"schema","kind":["test"]},"profile":{"test":true},"executable":"/t/schema-4"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"fast","kind":["bench"]},"profile":{"test":true},"executable":"/t/fast-3"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = test_binaries(messages);
        let found: Vec<_> = found.iter().map(|binary| (binary.name.as_str(), binary.is_on_clusters())).collect();
        assert_eq!(found, [("a", false), ("wire", true), ("schema", false)]);
    }
}
