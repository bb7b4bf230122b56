//! The workspace's own binaries.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;
use crate::process::Daemon;

/// Path of one of the workspace's binaries, from the same build profile as the running program.
///
/// # Errors
/// When it does not exist: cargo builds the binaries of another package only on request.
pub fn binary(name: &str) -> Result<PathBuf> {
    let current = std::env::current_exe().context("cannot find this program's own path")?;
    let dir = current.parent().context("a program lies in a directory")?;
    // Tests lie one directory below the profile's own.
    let profile = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = profile.join(name);
    ensure!(path.is_file(), "{} is not built: run `cargo build --workspace --bins`", path.display());
    Ok(path)
}

impl Lab {
    /// The agent, without arguments; the caller configures and starts it.
    ///
    /// ```no_run
    /// # fn example(lab: &meshsync_e2e::Lab, cluster: &meshsync_e2e::cluster::Cluster) -> anyhow::Result<()> {
    /// let agent = lab.agent()?.arg("run").env("KUBECONFIG", cluster.kubeconfig());
    /// agent.start()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the workspace's binaries are not built.
    pub fn agent(&self) -> Result<Daemon> {
        self.agent_named("meshsync-agent")
    }

    /// As [`agent`](Self::agent), with its own log: for a second agent beside the first.
    ///
    /// # Errors
    /// When the workspace's binaries are not built.
    pub fn agent_named(&self, name: &str) -> Result<Daemon> {
        Ok(self.daemon(name, binary("meshsync-agent")?))
    }

    /// The operator, without arguments; the caller configures and starts it.
    ///
    /// # Errors
    /// When the workspace's binaries are not built.
    pub fn operator(&self) -> Result<Daemon> {
        Ok(self.daemon("meshsync-operator", binary("meshsync-operator")?))
    }
}
