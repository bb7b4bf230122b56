//! The lab with a node: real pods from images built without an engine, service addresses, logs, exec, and a teardown that
//! leaves the machine as it was.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use meshsync_e2e::await_condition;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::image::Image;
use meshsync_e2e::lab::{self, Lab, Lifetime};

const POD_DEADLINE: Duration = Duration::from_secs(60);

/// A broker under Pod Security `restricted`, with a probe, behind a service address.
const BROKER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: lab, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: broker, namespace: lab}
spec:
  selector: {matchLabels: {app: broker}}
  template:
    metadata: {labels: {app: broker}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: broker
        image: lab.local/nats:1
        args: [-m, "8222"]
        readinessProbe: {httpGet: {path: /healthz, port: 8222}, periodSeconds: 1}
        securityContext:
          {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: broker, namespace: lab}
spec: {selector: {app: broker}, ports: [{name: client, port: 4222}]}
"#;

/// A second broker that connects to the first one by its name in DNS: a pod that reaches a service address.
const PEER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: peer, namespace: lab}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: peer
    image: lab.local/nats:1
    args: ["--config", /etc/peer/nats.conf]
    volumeMounts: [{name: config, mountPath: /etc/peer}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  volumes: [{name: config, configMap: {name: peer}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: peer, namespace: lab}
data: {nats.conf: 'gateway {name: "peer", port: 7222, gateways: [{name: "broker", url: "nats://broker:4222"}]}'}
"#;

#[test]
fn pods_with_lab_images_run_and_are_reachable() -> Result<()> {
    lab::run("node-pods", async |lab| {
        let cluster = lab.cluster(Level::Node).start().await?;
        cluster.load(&Image::nats("lab.local/nats:1")?).await?;
        cluster.apply(BROKER).await?;
        cluster.kubectl(["rollout", "status", "deployment/broker", "-n", "lab", "--timeout=60s"]).await?;

        let address =
            cluster.kubectl(["get", "service/broker", "-n", "lab", "-o", "jsonpath={.spec.clusterIP}"]).await?;
        let client = await_condition("the service address answers the node", POD_DEADLINE, async || {
            Ok(Some(async_nats::connect(format!("{address}:4222")).await?))
        });
        assert_eq!(client.await?.server_info().version, "2.15.2");

        let logs = cluster.kubectl(["logs", "deployment/broker", "-n", "lab"]).await?;
        assert!(logs.contains("Server is ready"), "{logs}");
        let version = ["exec", "deployment/broker", "-n", "lab", "--", "/nats-server", "--version"];
        assert!(cluster.kubectl(version).await?.contains("2.15.2"));

        cluster.apply(PEER).await?;
        await_condition("a pod reaches the other one by its service's name", POD_DEADLINE, async || {
            let logs = cluster.kubectl(["logs", "peer", "-n", "lab"]).await?;
            // The broker answers that 4222 is not its gateway port, so the connection works.
            Ok(logs.contains("wrong port").then_some(()))
        })
        .await
    })
}

#[test]
fn node_leaves_the_machine_unchanged() -> Result<()> {
    let before = machine()?;
    let lab = Lab::create(&format!("node-teardown-{}", std::process::id()), Lifetime::ThisProcess)?;
    let started = lab.enter(async |lab| {
        let cluster = lab.cluster(Level::Node).start().await?;
        run_a_pod(&cluster).await?;
        // As after a crash: containers, shims and mounts are still there when the teardown begins.
        cluster.leave_running();
        Ok(())
    });
    let gone = lab.take_down();
    started?;
    gone?;
    assert_eq!(machine()?, before);
    Ok(())
}

async fn run_a_pod(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::nats("lab.local/nats:1")?).await?;
    cluster.kubectl(["run", "broker", "--image=lab.local/nats:1"]).await?;
    cluster.kubectl(["wait", "pod/broker", "--for=condition=Ready", "--timeout=60s"]).await.map(drop)
}

/// State outside the lab that a node could change.
fn machine() -> Result<BTreeMap<String, String>> {
    let mut state = BTreeMap::new();
    for setting in ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"] {
        state.insert(setting.to_owned(), fs::read_to_string(format!("/proc/sys/{setting}"))?);
    }
    let of_node = |text: &str| text.contains("node-teardown");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    state.insert("mounts".to_owned(), mounts.lines().filter(|line| of_node(line)).collect());
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        processes.extend(of_node(&line).then_some(line));
    }
    state.insert("processes".to_owned(), processes.concat());
    for dir in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/run/netns"] {
        let names =
            fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        state.insert(dir.to_owned(), names.filter(|name| of_node(name)).collect());
    }
    Ok(state)
}
