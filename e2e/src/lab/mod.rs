//! A lab: one private network namespace and one state directory, taken down without a trace.

mod cgroups;
mod cleanup;
mod kernel;
mod machine;
mod netns;
mod owner;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context as _, Result, ensure};

use crate::process::Daemon;
use crate::provider::Provider;

pub use machine::NodeGuard;
pub(crate) use netns::namespace_of;
pub use netns::{NODE_IP, on_host};
pub use owner::Lifetime;

/// Longest accepted name: it becomes part of the path of unix sockets, which end at 107 bytes.
const NAME_MAX: usize = 48;

/// A private network namespace and a state directory. A lab of another provider than this machine has only the directory.
///
/// Threads inside reach the lab's services on loopback; nothing leads out. Dropping the lab does nothing by itself:
/// [`run`] takes it down, and so does [`Lab::take_down`].
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    provider: Provider,
}

impl Lab {
    /// Creates the lab `name` (lower-case letters, digits and dashes) on this machine, after removing what dead runs left
    /// behind.
    ///
    /// # Errors
    /// When the name is taken or unusable, or when the process lacks the rights to create a network namespace.
    pub fn create(name: &str, lifetime: Lifetime) -> Result<Self> {
        Self::create_with(name, lifetime, Provider::Local)
    }

    /// As [`create`](Self::create), for a cluster of `provider`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(name: &str, lifetime: Lifetime, provider: Provider) -> Result<Self> {
        check_name(name)?;
        let _guard = owner::lock()?;
        cleanup::sweep()?;
        let dir = owner::labs_dir()?.join(name);
        ensure!(!dir.exists(), "a lab named `{name}` is running already (see `cargo lab status`)");
        owner::claim(&dir, lifetime, &provider)?;
        let lab = Self { name: name.to_owned(), dir, provider };
        if lab.provider == Provider::Local {
            netns::create(&lab.namespace()).or_else(|error| {
                cleanup::remove(&lab.dir)?;
                Err(error)
            })?;
        }
        Ok(lab)
    }

    /// The running lab `name`, such as one that `cargo lab up` left.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let dir = owner::labs_dir()?.join(name);
        ensure!(dir.is_dir(), "no lab named `{name}` is running: start it with `cargo lab up --name {name}`");
        let provider = owner::provider(&dir);
        Ok(Self { name: name.to_owned(), dir, provider })
    }

    /// All running labs, by name.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn list() -> Result<Vec<Self>> {
        let dirs = owner::lab_dirs()?;
        let named = |dir: PathBuf| {
            let name = dir.file_name()?.to_str()?.to_owned();
            Some(Self { name, provider: owner::provider(&dir), dir })
        };
        Ok(dirs.into_iter().filter_map(named).collect())
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's state directory: `logs/`, `kubeconfig`, certificates, and whatever a test puts there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the lab's cluster comes from.
    #[must_use]
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Name of the network namespace, as `ip netns list` shows it.
    #[must_use]
    pub fn namespace(&self) -> String {
        namespace_of(&self.name)
    }

    /// Process ids of everything that runs in the lab, pods excepted.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn pids(&self) -> Result<Vec<i32>> {
        netns::pids(&self.namespace())
    }

    /// A process of the lab, not started yet. Its output goes to `logs/<name>.log`.
    #[must_use]
    pub fn daemon(&self, name: &str, program: impl Into<PathBuf>) -> Daemon {
        Daemon::new(&self.dir, name, program.into())
    }

    /// Directory of a control group in which memory can be limited; what is in it ends with the lab.
    ///
    /// # Errors
    /// When there is none on this machine, or this user may not make groups.
    pub fn memory_group(&self) -> Result<PathBuf> {
        cgroups::create_for_memory(&namespace_of(&self.name))
    }

    /// Runs `work` on a thread of its own inside the lab's namespace, with a tokio runtime whose threads are inside too.
    ///
    /// # Errors
    /// The error of `work`, or when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl AsyncFnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = || {
                self.enter_namespace()?;
                install_tls_provider();
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .context("cannot start the lab's runtime")?;
                let outcome = runtime.block_on(work(self));
                // A blocking thread that hangs must not hang the teardown, which is what frees it.
                runtime.shutdown_background();
                outcome
            };
            let thread = std::thread::Builder::new().name(self.name.clone()).spawn_scoped(scope, inside);
            thread
                .context("cannot start the lab's thread")?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Becomes `command` inside the lab's namespace. Returns only if that fails.
    pub fn become_process(&self, mut command: Command) -> anyhow::Error {
        match self.enter_namespace() {
            Ok(()) => command.exec().into(),
            Err(error) => error,
        }
    }

    fn enter_namespace(&self) -> Result<()> {
        if self.provider == Provider::Local { netns::enter(&self.namespace()) } else { Ok(()) }
    }

    /// Removes the labs of processes that have ended.
    ///
    /// # Errors
    /// When something of one cannot be removed.
    pub fn sweep() -> Result<()> {
        let _guard = owner::lock()?;
        cleanup::sweep()
    }

    /// Ends every process, removes mounts, namespace, control groups and directory, and restores the machine's settings.
    ///
    /// # Errors
    /// When something cannot be removed; whatever comes after it is still tried.
    pub fn take_down(self) -> Result<()> {
        let _guard = owner::lock()?;
        cleanup::remove(&self.dir)
    }

    /// Ends of all log files, for the message of a failed test.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        crate::process::log_tails(&self.dir, lines)
    }
}

/// Runs `scenario` in a fresh lab named after `name` and this process, and takes the lab down afterwards, whatever the
/// outcome. When it fails, the ends of all logs are printed and the log files are kept.
///
/// # Errors
/// The error of `scenario`, or when the lab cannot be created or leaves something behind.
///
/// # Panics
/// Resumes the panic of a failed assertion of `scenario`, after the teardown.
pub fn run(name: &str, scenario: impl AsyncFnOnce(&Lab) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::create(&format!("{name}-{}", std::process::id()), Lifetime::ThisProcess)?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.enter(scenario)));
    if !matches!(outcome, Ok(Ok(()))) {
        report_failure(&lab, name);
    }
    let gone = lab.take_down().with_context(|| format!("lab `{name}` left something behind"));
    match outcome {
        Ok(Ok(())) => gone,
        Ok(Err(error)) => Err(error),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[expect(clippy::print_stderr, reason = "libtest shows a failed test what the print macros wrote, and only that")]
pub(crate) fn report_failure(lab: &Lab, name: &str) {
    let kept = owner::keep_logs(&lab.dir, &lab.name)
        .map_or_else(|error| format!("not kept: {error:#}"), |path| path.display().to_string());
    eprintln!("`{name}` failed in lab `{}`; its logs: {kept}\n{}", lab.name, lab.log_tails(25));
}

fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    ensure!(
        !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain),
        "`{name}` is no name for a lab: use at most {NAME_MAX} lower-case letters, digits and dashes"
    );
    Ok(())
}

/// Selects ring for every TLS connection of the process. A second call, or one after the code under test made the same
/// choice, changes nothing.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
