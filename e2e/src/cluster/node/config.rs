//! Configuration files of the node's daemons. All that they keep lies in the lab's directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{NODE_NAME, PAUSE_IMAGE};
use crate::lab::NODE_IP;

/// Addresses of the node's pods.
const POD_RANGE: &str = "10.244.0.0/24";

/// Where Debian's containernetworking-plugins puts its programs.
const CNI_PROGRAMS: &str = "/usr/lib/cni";

/// Paths of the files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) containerd: PathBuf,
    pub(super) kubelet: PathBuf,
    pub(super) proxy: PathBuf,
    pub(super) corefile: PathBuf,
}

/// Writes all files below `dir`.
pub(super) fn write(dir: &Path, kubeconfig: &Path, control_group: &str) -> Result<Files> {
    for sub in ["cni", "pod-logs", "kubelet"] {
        fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot create {}/{sub}", dir.display()))?;
    }
    let pretty = |value: Value| serde_json::to_vec_pretty(&value);
    write_file(&dir.join("cni"), "10-bridge.conflist", &pretty(cni(dir))?)?;
    Ok(Files {
        containerd: write_file(dir, "containerd.toml", containerd(dir).as_bytes())?,
        kubelet: write_file(dir, "kubelet.yaml", &pretty(kubelet(dir, control_group))?)?,
        proxy: write_file(dir, "kube-proxy.yaml", &pretty(proxy(kubeconfig))?)?,
        corefile: write_file(dir, "Corefile", corefile(kubeconfig).as_bytes())?,
    })
}

fn cni(dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": dir.join("cni-data"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// containerd's configuration (version 2 of its format, which 1.6 and 1.7 read).
fn containerd(dir: &Path) -> String {
    // Without `restrict_oom_score_adj` every sandbox fails where root lacks CAP_SYS_RESOURCE: runc lowers that score.
    // Namespaces of pods are mounted below `state`, so that the teardown finds them.
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/containerd-state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        dir = dir.display()
    )
}

fn kubelet(dir: &Path, control_group: &str) -> Value {
    let ca = dir.with_file_name("pki").join("ca.crt");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": control_group,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", dir.display()),
        "podLogsDir": dir.join("pod-logs"),
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": ca}},
        "authorization": {"mode": "Webhook"},
        "resolvConf": "",
        "clusterDNS": [NODE_IP],
        "clusterDomain": "cluster.local",
        // A developer's disk may be fuller than a node's should be.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        // Tests wait for pods to come and go; both periods only add to that.
        "syncFrequency": "10s",
        "fileCheckFrequency": "10s",
    })
}

fn proxy(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": kubeconfig},
        // The table's size is the machine's, not the namespace's: leave it alone.
        "conntrack": {"maxPerCore": 0},
    })
}

fn corefile(kubeconfig: &Path) -> String {
    format!(
        ".:53 {{\n  bind {NODE_IP}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {} lab\n  }}\n}}\n",
        kubeconfig.display()
    )
}

/// Writes `content` to `dir/name` and returns that path.
fn write_file(dir: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
