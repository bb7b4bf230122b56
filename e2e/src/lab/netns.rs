//! Private network namespaces without a route out.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::kernel::enter_network;

/// Address of the node's own interface, on which the API server is advertised.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The node's interface is a bridge with one veth in it, since not every kernel has the `dummy` link type. The default
/// route leads to an address that nobody has: kubelet and kube-proxy want a route to exist, tests want none that leads out.
const LINKS: &str = "link set lo up
link add node0 type bridge
address add 10.99.0.1/24 dev node0
link add n0 type veth peer name n1
link set n0 master node0
link set n0 up
link set n1 up
link set node0 up
route add default via 10.99.0.2 dev node0
";

/// Name of the namespace of the lab `lab`, which is also that of its control group.
pub(crate) fn namespace_of(lab: &str) -> String {
    format!("meshsync-lab-{lab}")
}

/// Path at which `ip` keeps the namespace `name`.
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Creates the namespace `name` with a loopback and a node interface.
pub(super) fn create(name: &str) -> Result<()> {
    ip(&["netns", "add", name], "")?;
    ip(&["-netns", name, "-batch", "-"], LINKS)
}

/// Removes the namespace `name` if it exists. Processes in it must have ended: it would live on with them, nameless.
pub(super) fn delete(name: &str) -> Result<()> {
    if path(name).exists() { ip(&["netns", "delete", name], "") } else { Ok(()) }
}

/// Process ids whose main thread is in the namespace `name`.
pub(super) fn pids(name: &str) -> Result<Vec<i32>> {
    if !path(name).exists() {
        return Ok(Vec::new());
    }
    let output = Command::new("ip").args(["netns", "pids", name]).output().context("cannot run `ip`")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Moves the calling thread, and all threads and processes that it starts from now on, into the namespace `name`.
pub(super) fn enter(name: &str) -> Result<()> {
    let path = path(name);
    let file = File::open(&path).with_context(|| format!("the namespace {} is gone", path.display()))?;
    enter_network(file).with_context(|| format!("cannot enter {} (root is needed)", path.display()))
}

/// Runs `work` in the process's first network namespace, whatever the calling thread's is: for work that needs a package
/// registry or the machine's own network.
///
/// # Errors
/// The error of `work`, or when the namespace cannot be entered.
pub fn on_host<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if !cfg!(target_os = "linux") {
        return work();
    }
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // The main thread never moves, so the process's own entry stays what the machine gave it.
                let host = File::open("/proc/self/ns/net").context("cannot open the machine's network namespace")?;
                let here = File::open("/proc/thread-self/ns/net").context("cannot open this thread's namespace")?;
                if same_file(&host, &here)? {
                    return work();
                }
                enter_network(host).context("cannot return to the machine's network namespace")?;
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn same_file(one: &File, other: &File) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(one.metadata()?.ino() == other.metadata()?.ino())
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install the Debian package iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("cannot write to `ip`")?;
    }
    let output = child.wait_with_output().context("cannot wait for `ip`")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed (root is needed): {}", arguments.join(" "), words.trim());
    }
    Ok(())
}
