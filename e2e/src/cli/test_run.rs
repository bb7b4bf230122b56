//! Running one test program and reading its verdict.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write};
use std::ops::AddAssign;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::progress::say;

/// Process group of the test program that runs; 0 between two of them.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// Whether this program was asked to end: no further test program starts.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How long a killed test program may take to vanish.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// Numbers of tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    pub(super) const ONE_FAILURE: Self = Self { passed: 0, failed: 1 };

    pub(super) const fn is_good(self) -> bool {
        self.failed == 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs a test program (or `cargo test`, which runs several) and passes its output on. A program that cannot be started,
/// exceeds `limit`, or ends badly without having named a failed test counts as one failure.
pub(super) fn run(command: Command, limit: Duration) -> Tally {
    run_into(command, limit, std::io::stdout())
}

fn run_into(mut command: Command, limit: Duration, sink: impl Write + Send + 'static) -> Tally {
    if ENDING.load(Ordering::SeqCst) {
        return Tally::ONE_FAILURE;
    }
    // A group of its own, so that what a test program started can be ended with it; see `end_children_on_signals`.
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            say(format!("cannot start {}: {error}", command.get_program().display()));
            return Tally::ONE_FAILURE;
        }
    };
    let group = i32::try_from(child.id()).unwrap_or_default();
    GROUP.store(group, Ordering::SeqCst);
    let read = read_verdicts(&mut child, sink);
    let (mut tally, in_time) = match read.recv_timeout(limit) {
        Ok(tally) => (tally, true),
        Err(_) => (Tally::default(), false),
    };
    if !in_time {
        say(format!("{} exceeded its {limit:?} and is killed", command.get_program().display()));
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        // The results that it reported until then still count.
        tally = read.recv().unwrap_or_default();
    }
    let ended_well = child.wait().is_ok_and(|status| status.success());
    GROUP.store(0, Ordering::SeqCst);
    if !ended_well && tally.is_good() {
        tally += Tally::ONE_FAILURE;
    }
    tally
}

/// From now on an interrupt or a request to end also ends the test program that runs, and removes its labs: being in a
/// group of its own, it would not notice otherwise.
///
/// # Errors
/// When the handler cannot be installed.
pub(super) fn end_children_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        });
        ENDING.store(true, Ordering::SeqCst);
        let end = Instant::now() + REAP_DEADLINE;
        // Until it is reaped, its labs count as those of a living owner.
        loop {
            let group = GROUP.load(Ordering::SeqCst);
            // 0 would be this program's own group.
            if group <= 0 || Instant::now() > end {
                break;
            }
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(20));
        }
        // If this fails, the next run removes the labs.
        let _ = crate::lab::Lab::sweep();
        std::process::exit(130);
    });
    Ok(())
}

/// Passes the program's output on, and sends the sum of its verdicts when the output ends.
fn read_verdicts(child: &mut Child, mut sink: impl Write + Send + 'static) -> mpsc::Receiver<Tally> {
    let (send, receive) = mpsc::channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut sum = Tally::default();
        let lines = output.into_iter().flat_map(|output| BufReader::new(output).split(b'\n')).map_while(Result::ok);
        for line in lines {
            let line = String::from_utf8_lossy(&line);
            // A closed output must not end the tests: the exit code still reports the verdict.
            let _ = writeln!(sink, "{line}");
            if let Some(tally) = verdict(&line) {
                sum += tally;
            }
        }
        // The receiver waits until the sender is gone, so this cannot go unheard.
        let _ = send.send(sum);
    });
    receive
}

/// Reads libtest's line `test result: ok. 12 passed; 1 failed; 0 ignored; …`.
fn verdict(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split(';').find_map(|part| part.trim().strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script, and keeps its verdicts off the output that an outer run reads.
    fn shell(script: &str, limit: Duration) -> Tally {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run_into(command, limit, std::io::sink())
    }

    #[test]
    fn verdicts_of_several_programs_are_summed() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; \
                      echo 'test result: FAILED. 2 passed; 4 failed; 0 ignored'; exit 101";
        assert_eq!(shell(script, Duration::from_secs(10)), Tally { passed: 5, failed: 4 });
    }

    #[test]
    fn program_that_dies_without_a_verdict_counts_as_a_failure() {
        assert_eq!(shell("exit 3", Duration::from_secs(10)), Tally::ONE_FAILURE);
        let after_a_good_one = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; kill -9 $$";
        assert_eq!(shell(after_a_good_one, Duration::from_secs(10)), Tally { passed: 1, failed: 1 });
    }

    #[test]
    fn hanging_program_is_killed_with_its_children() {
        let started = Instant::now();
        assert_eq!(shell("tail -f /dev/null & wait", Duration::from_millis(200)), Tally::ONE_FAILURE);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn last_line_has_the_form_that_scripts_parse() {
        assert_eq!(Tally { passed: 12, failed: 0 }.to_string(), "12 passed, 0 failed");
    }
}
