//! kubectl for the cluster of a lab.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::handle::Cluster;
use crate::assets::{self, Tool};
use crate::lab::Lab;
use crate::provider::Provider;

impl Cluster {
    /// Runs kubectl, built from the same Kubernetes release, as administrator. Returns its standard output.
    ///
    /// # Errors
    /// When it exits with a code other than 0: the message holds what it wrote to standard error.
    pub async fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        self.kubectl_with_input(arguments, "").await
    }

    /// As [`kubectl`](Self::kubectl), with `input` on its standard input: `["apply", "-f", "-"]`.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub async fn kubectl_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: impl AsRef<[u8]>,
    ) -> Result<String> {
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let mut child = tokio::process::Command::from(command(&self.provider, &self.dir)?)
            .args(&arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes it early; its exit code says whether that was wrong.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_ref()).await;
        }
        let output = child.wait_with_output().await.context("cannot wait for kubectl")?;
        if !output.status.success() {
            let line = arguments.join(OsStr::new(" "));
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("`kubectl {}` failed ({}): {}", line.to_string_lossy(), output.status, words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies YAML or JSON documents.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub async fn apply(&self, documents: impl AsRef<[u8]>) -> Result<String> {
        self.kubectl_with_input(["apply", "-f", "-"], documents).await
    }

    /// The command `kubectl` for the cluster of `lab`, to be run inside the lab.
    ///
    /// # Errors
    /// When kubectl cannot be built.
    pub fn kubectl_command(lab: &Lab) -> Result<Command> {
        command(lab.provider(), lab.dir())
    }
}

/// kubectl for a lab's cluster. That of a kind cluster is the node's own: of the cluster's release by construction, and
/// there without Go. It sees the node's files, not this machine's: pass documents on standard input.
fn command(provider: &Provider, dir: &Path) -> Result<Command> {
    if let Provider::Kind(name) = provider {
        let mut command = Command::new("docker");
        command.args(["exec", "--interactive", &format!("{name}-control-plane"), "kubectl"]);
        command.arg("--kubeconfig=/etc/kubernetes/admin.conf");
        return Ok(command);
    }
    let mut command = Command::new(assets::ensure(Tool::Kubectl)?);
    // Discovery of one cluster must not be served from the cache of another at the same address.
    command.env("KUBECACHEDIR", dir.join("kubectl-cache")).env("KUBECONFIG", dir.join("kubeconfig"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_of_a_kind_cluster_runs_on_its_node() {
        let command = command(&Provider::Kind("c".to_owned()), Path::new("/lab")).unwrap();
        let line = format!("{command:?}").replace('"', "");
        assert_eq!(line, "docker exec --interactive c-control-plane kubectl --kubeconfig=/etc/kubernetes/admin.conf");
    }
}
