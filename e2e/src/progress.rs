//! Progress on standard error: the current step, and how long it took.
//!
//! Standard output stays free for programs, and a long step does not look like a hang.

use std::io::Write as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often a long step reports that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Writes one line to standard error.
pub fn say(line: impl AsRef<str>) {
    // A closed standard error must not fail the work that is reported on.
    let _ = writeln!(std::io::stderr().lock(), "lab: {}", line.as_ref());
}

/// Runs `work` between a line that announces it and a line with its duration, with heartbeats in between.
///
/// # Errors
/// The error of `work`.
pub fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    say(format!("{what} …"));
    let started = Instant::now();
    let (finished, waiting) = mpsc::channel::<()>();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = waiting.recv_timeout(HEARTBEAT) {
                say(format!("{what}: still at it, {} s", started.elapsed().as_secs()));
            }
        });
        let outcome = work();
        drop(finished);
        outcome
    });
    let verdict = if outcome.is_ok() { "done" } else { "failed" };
    say(format!("{what}: {verdict}, {:.1} s", started.elapsed().as_secs_f64()));
    outcome
}
