//! Processes of a lab: started, stopped, killed and started again, with captured output.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::await_condition;

/// How much of a log's end is read for its last lines.
const TAIL_BYTES: u64 = 64 * 1024;

/// A long-running process of a lab.
///
/// Configure it with [`arg`](Self::arg) and [`env`](Self::env), then [`start`](Self::start) it. It can be stopped and
/// started again with the same arguments; the log file continues. Dropping it kills it, unless it was
/// [`left_running`](Self::leave_running).
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    dir: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    pub(crate) fn new(lab_dir: &Path, name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            dir: lab_dir.to_owned(),
            log: lab_dir.join("logs").join(format!("{name}.log")),
            child: Mutex::new(None),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the process through `program`, which gets `arguments` and the command line so far, and must exec that
    /// command line.
    #[must_use]
    pub fn through<A: AsRef<OsStr>>(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let own = std::mem::replace(&mut self.program, program.into()).into_os_string();
        let before = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.arguments = before.chain([own]).chain(std::mem::take(&mut self.arguments)).collect();
        self
    }

    /// The process's name, which is its log file's too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the process in the lab's directory, in the namespace of the calling thread.
    ///
    /// # Errors
    /// When it runs already or the program cannot be executed.
    pub fn start(&self) -> Result<()> {
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            bail!("{} runs already", self.name);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        let started = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: an interrupt typed at the terminal is for the lab, which ends its processes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        *child = Some(started);
        Ok(())
    }

    /// Id of the running process; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        let running = child.as_mut()?;
        matches!(running.try_wait(), Ok(None)).then(|| running.id())
    }

    /// How the process ended; `None` while it runs or before its start.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().as_mut()?.try_wait().ok().flatten()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let pid = Pid::from_raw(i32::try_from(pid)?);
        kill(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it still runs after `deadline`; it then continues to run.
    pub async fn stop(&self, deadline: Duration) -> Result<ExitStatus> {
        if self.pid().is_some() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(deadline).await
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it was never started.
    pub async fn kill(&self) -> Result<ExitStatus> {
        if self.pid().is_some() {
            self.signal(Signal::SIGKILL)?;
        }
        self.wait(Duration::from_secs(10)).await
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// When it still runs after `deadline`, or was never started.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} has ended", self.name);
        await_condition(&what, deadline, async || {
            let mut child = self.child();
            let child = child.as_mut().with_context(|| format!("{} was never started", self.name))?;
            Ok(child.try_wait()?)
        })
        .await
    }

    /// Path of the log file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything that the process has written since its first start; empty before that.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Fails with the end of its log if the process has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn ensure_running(&self) -> Result<()> {
        match self.exit_status() {
            Some(status) => bail!("{} has ended ({status}); its last lines:\n{}", self.name, tail(&self.log, 15)),
            None => Ok(()),
        }
    }

    /// Resident memory in bytes, from the kernel's account of the process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_kib("VmRSS:").map(|kib| kib * 1024)
    }

    /// Peak of the resident memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.status_kib("VmHWM:").map(|kib| kib * 1024)
    }

    /// Lets the process outlive this value, for a lab that stays up.
    pub fn leave_running(self) {
        self.child().take();
    }

    fn status_kib(&self, field: &str) -> Result<u64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
            .with_context(|| format!("no {field} for {}", self.name))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // The value stays sound if a test's assertion failed while it was borrowed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended already; without the wait it would stay a zombie.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command of this machine to its end.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", words.trim());
    Ok(())
}

/// The last `lines` lines of every log below `lab_dir`, each under its name.
pub(crate) fn log_tails(lab_dir: &Path, lines: usize) -> String {
    let Ok(entries) = fs::read_dir(lab_dir.join("logs")) else { return String::new() };
    let mut logs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    logs.sort();
    logs.iter().fold(String::new(), |mut text, log| {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(text, "---- {name}\n{}\n", tail(log, lines));
        text
    })
}

/// The last `lines` lines of a file; empty if it cannot be read.
fn tail(path: &Path, lines: usize) -> String {
    let end = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = end().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
