//! etcd and kube-apiserver.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::builder::ClusterBuilder;
use super::pki::Pki;
use crate::assets::{Tool, ensure as binary};
use crate::lab::NODE_IP;
use crate::process::Daemon;
use crate::wait::await_condition;

/// Directory of etcd's data, in that of the cluster.
pub(super) const DATA_DIR: &str = "etcd";

/// Range of service addresses.
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";

/// Name of the audit log in the lab's directory.
pub(super) const AUDIT_LOG: &str = "audit.log";

/// etcd with one member.
pub(super) fn etcd(builder: &ClusterBuilder) -> Result<Daemon> {
    let daemon = Daemon::new(&builder.dir, "etcd", binary(Tool::Etcd)?)
        .arg(format!("--data-dir={DATA_DIR}"))
        .arg(format!("--listen-client-urls={}", builder.ports.etcd_url()))
        .arg(format!("--advertise-client-urls={}", builder.ports.etcd_url()))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", builder.ports.peers))
        .arg("--log-level=warn");
    Ok(if builder.durable { daemon } else { daemon.arg("--unsafe-no-fsync") })
}

/// kube-apiserver on all addresses of the lab.
pub(super) fn apiserver(builder: &ClusterBuilder, pki: &Pki) -> Result<Daemon> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.path(name).display());
    let daemon = Daemon::new(&builder.dir, "kube-apiserver", binary(Tool::KubeApiserver)?)
        .arg(format!("--etcd-servers={}", builder.ports.etcd_url()))
        .arg(format!("--secure-port={}", builder.ports.api))
        // The address of the `kubernetes` service's endpoint; a loopback address is refused.
        .arg(format!("--advertise-address={NODE_IP}"))
        .args([file("tls-cert-file", "apiserver.crt"), file("tls-private-key-file", "apiserver.key")])
        .arg(file("client-ca-file", "ca.crt"))
        .arg(file("kubelet-client-certificate", "kubelet-client.crt"))
        .arg(file("kubelet-client-key", "kubelet-client.key"))
        // Otherwise `logs` and `exec` look the node's name up, and no name server knows it.
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(file("service-account-key-file", "accounts.pub"))
        .arg(file("service-account-signing-key-file", "accounts.key"))
        .arg(file("token-auth-file", "tokens.csv"))
        .arg("--authorization-mode=Node,RBAC")
        .arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"))
        .arg("--allow-privileged=true")
        // A restart in a test should take the time that the restart takes, not a courtesy minute for open watches.
        .arg("--shutdown-delay-duration=0s")
        .args(&builder.apiserver_arguments);
    match &builder.audit_policy {
        Some(policy) => Ok(daemon.args(audit_arguments(builder, policy)?)),
        None => Ok(daemon),
    }
}

fn audit_arguments(builder: &ClusterBuilder, policy: &str) -> Result<[String; 3]> {
    let path = builder.dir.join("audit-policy.yaml");
    fs::write(&path, policy).with_context(|| format!("cannot write {}", path.display()))?;
    Ok([
        format!("--audit-policy-file={}", path.display()),
        format!("--audit-log-path={}", builder.dir.join(AUDIT_LOG).display()),
        // An event is in the file when the response has been sent: tests read it right after.
        "--audit-log-mode=blocking-strict".to_owned(),
    ])
}

/// Waits until `/readyz` says ok, or a component has ended.
pub(super) async fn await_ready(client: &kube::Client, components: &[Daemon]) -> Result<()> {
    let ready = await_condition("kube-apiserver is ready", Duration::from_secs(60), async || {
        if components.iter().any(|component| component.exit_status().is_some()) {
            return Ok(Some(()));
        }
        let answer = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
        ensure!(answer == "ok", "/readyz answered {answer}");
        Ok(Some(()))
    })
    .await;
    // A dead component explains more than the probe that failed because of it.
    components.iter().try_for_each(Daemon::ensure_running)?;
    ready
}
