//! The agent with an account that has rights in only one namespace, and with flags that narrow its configuration.

#![allow(clippy::disallowed_methods, reason = "the clients talk to clusters and processes of their own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::local_system::account_kubeconfig;
use meshsync_e2e::metrics::{Metrics, agent_readiness};
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: meshery}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prices, namespace: shop}
data: {apple: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: till, namespace: shop}
stringData: {code: tr0ub4dor-and-3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: elsewhere, namespace: meshery}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keeper, namespace: meshery}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keeper, namespace: shop}
rules:
- {apiGroups: [""], resources: [configmaps, secrets], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keeper, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keeper}
subjects: [{kind: ServiceAccount, name: keeper, namespace: meshery}]
"#;

/// The definition is there already.
const REPORTED: &str = r#"
apiVersion: meshery.layer5.io/v1alpha1
kind: MeshSync
metadata: {name: meshsync, namespace: meshery}
spec: {}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reporter, namespace: meshery}
rules:
- {apiGroups: [meshery.layer5.io], resources: [meshsyncs/status], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reporter, namespace: meshery}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reporter}
subjects: [{kind: ServiceAccount, name: keeper, namespace: meshery}]
"#;

const LATER: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: later, namespace: shop}
"#;

const EVERYWHERE: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: keeper}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: keeper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keeper}
subjects: [{kind: ServiceAccount, name: keeper, namespace: meshery}]
"#;

fn snapshot(kubeconfig: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("meshsync-agent")?);
    command.arg("snapshot").arg("--kubeconfig").arg(kubeconfig).args(arguments);
    Ok(command)
}

/// Namespaces and kinds of the written objects, the text on standard error, and the exit code.
type Written = (BTreeSet<(String, String)>, String, Option<i32>);

fn written(output: Output) -> Result<Written> {
    let text = String::from_utf8(output.stdout)?;
    let of = |line: &str| -> Result<(String, String)> {
        let object: Value = serde_json::from_str(line)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok((text(&object["metadata"]["namespace"]), text(&object["kind"])))
    };
    let found = text.lines().map(of).collect::<Result<_>>()?;
    Ok((found, String::from_utf8(output.stderr)?, output.status.code()))
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(namespace, kind)| ((*namespace).to_owned(), (*kind).to_owned())).collect()
}

#[test]
fn account_with_rights_in_one_namespace_can_read_what_kubectl_can() -> Result<()> {
    lab::run("namespaced", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        cluster.apply(OBJECTS).await?;
        let keeper = account_kubeconfig(lab, &cluster, "keeper").await?;
        let path = keeper.to_str().context("UTF-8")?;
        let in_shop = pairs(&[("shop", "ConfigMap"), ("shop", "Secret")]);

        // A requested namespace is complete except for forbidden types.
        let (found, told, code) = written(snapshot(&keeper, &["-n", "shop"])?.output()?)?;
        ensure!(found == in_shop && code == Some(3) && told.contains("missing: pods"), "{code:?} {found:?} {told}");
        let (found, told, code) = written(snapshot(&keeper, &["-n", "shop", "--include", "cm,secrets"])?.output()?)?;
        ensure!(found == in_shop && code == Some(0), "{code:?} {found:?} {told}");

        // The agent uses the namespace of the context, as kubectl does, and says so, because all namespaces were
        // requested.
        cluster.kubectl(["config", "--kubeconfig", path, "set-context", "--current", "--namespace=shop"]).await?;
        let (found, told, code) = written(snapshot(&keeper, &[])?.output()?)?;
        ensure!(found == in_shop && code == Some(3), "{code:?} {found:?} {told}");
        ensure!(told.contains("only in namespace shop") && told.contains("configmaps, secrets"), "{told}");

        // The account may read only some of the namespaces.
        let (found, told, code) = written(snapshot(&keeper, &["-n", "shop,meshery", "--include", "cm"])?.output()?)?;
        ensure!(found == pairs(&[("shop", "ConfigMap")]) && code == Some(3), "{code:?} {found:?} {told}");
        ensure!(told.contains("missing: configmaps in namespace meshery: refused (403)"), "{told}");
        Ok(())
    })
}

#[test]
fn snapshot_is_written_to_the_requested_place_in_the_requested_form() -> Result<()> {
    lab::run("snapshot-output", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        cluster.apply(OBJECTS).await?;
        let kubeconfig = cluster.kubeconfig();
        let run = |arguments: &[&str]| written(snapshot(kubeconfig, arguments)?.output()?);

        let (_, told, code) = run(&["-n", "shop,nosuch"])?;
        ensure!(code == Some(1) && told.contains("there is no namespace `nosuch`"), "{code:?} {told}");
        let (_, told, code) = run(&["--include", "events"])?;
        ensure!(code == Some(0), "{code:?} {told}");
        let (_, told, code) = run(&["--exclude", ""])?;
        ensure!(code == Some(0), "{code:?} {told}");
        let (_, told, code) = run(&["-o", "yaml"])?;
        ensure!(code == Some(2) && told.contains("--format yaml"), "{code:?} {told}");
        let (_, told, code) = run(&["-o", "/dev/full"])?;
        ensure!(code == Some(1) && told.contains("cannot write to /dev/full"), "{code:?} {told}");

        let file = lab.dir().join("shop.ndjson");
        std::fs::write(&file, "from before")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
        let path = file.to_str().context("UTF-8")?;
        let (_, told, code) = run(&["-n", "shop", "--show-secrets", "-o", path])?;
        let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(code == Some(0) && mode == 0o600, "{code:?} {mode:o} {told}");
        ensure!(std::fs::read_to_string(&file)?.contains("dHIwdWI0ZG9yLWFuZC0z"), "the values are not shown");

        // The reader closes the pipe after the first bytes, as `head` does.
        let mut command = snapshot(kubeconfig, &[])?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdout.take().context("no output")?.read_exact(&mut [0; 1])?;
        let output = child.wait_with_output()?;
        ensure!(output.status.code() == Some(0), "{output:?}");
        Ok(())
    })
}

#[test]
fn flags_narrow_a_configuration_file() -> Result<()> {
    lab::run("narrowed", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        cluster.apply(OBJECTS).await?;
        let (config, file) = (lab.dir().join("agent.yaml"), lab.dir().join("out.yaml"));
        std::fs::write(&config, "revision: ''\npublish: {secrets: publish}\n")?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig());
        let agent = agent.args(["-output", "file", "-outputFile"]).arg(&file).arg("--config").arg(&config);
        let flags = ["-outputNamespaces", "shop", "-outputResources", "ConfigMap,secret,namespace"];
        let agent = agent.args(flags).env("MESHSYNC_REDACT_SECRETS", "true");
        agent.start()?;
        let probes = kube::Client::try_from(kube::Config::new("http://127.0.0.1:11000".parse()?))?;
        await_condition("the agent is ready", DEADLINE, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(probes.request_text(request).await.ok())
        })
        .await?;
        let status = agent.stop(DEADLINE).await?;
        ensure!(status.code() == Some(0), "{status}: {}", agent.log());
        ensure!(agent.log().contains("narrows every configuration: --outputNamespaces shop"), "{}", agent.log());
        let text = std::fs::read_to_string(&file)?;
        let kinds: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
        let kinds: BTreeSet<&str> = kinds.iter().map(|kind| kind.trim_matches('"')).collect();
        ensure!(kinds == BTreeSet::from(["ConfigMap", "Secret"]), "{text}");
        ensure!(text.contains("prices") && !text.contains("elsewhere"), "{text}");
        ensure!(!text.contains("dHIwdWI0ZG9yLWFuZC0z"), "the values of Secrets are shown");
        Ok(())
    })
}

/// Kinds, namespaces and names of what a consumer holds.
fn held(consumer: &Consumer) -> BTreeSet<String> {
    consumer.view().keys().map(|key| format!("{} {}/{}", key.kind, key.namespace, key.name)).collect()
}

async fn await_held(consumer: &Consumer, wanted: &[&str]) -> Result<()> {
    await_condition(&format!("{wanted:?} are held"), DEADLINE, async || {
        Ok((held(consumer).iter().map(String::as_str).eq(wanted.iter().copied())).then_some(()))
    })
    .await
    .with_context(|| format!("held: {:?}", held(consumer)))
}

/// An agent of the account, with a configuration of which the file is followed.
struct Keeper<'a> {
    cluster: &'a Cluster,
    agent: Daemon,
    file: PathBuf,
    uid: Value,
}

impl<'a> Keeper<'a> {
    /// It is not started yet, and its context names the namespace `shop`.
    async fn new(lab: &Lab, cluster: &'a Cluster, nats: &Nats) -> Result<Self> {
        System::of(cluster).install_definition().await?;
        cluster.apply(OBJECTS).await?;
        cluster.apply(REPORTED).await?;
        let keeper = account_kubeconfig(lab, cluster, "keeper").await?;
        let path = keeper.to_str().context("UTF-8")?;
        cluster.kubectl(["config", "--kubeconfig", path, "set-context", "--current", "--namespace=shop"]).await?;
        let file = lab.dir().join("agent.json");
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(&keeper).arg("--config").arg(&file);
        let agent = agent.env("BROKER_URL", nats.url());
        let uid = System::of(cluster).meshsync().await?["metadata"]["uid"].take();
        Ok(Self { cluster, agent, file, uid })
    }

    fn configure(&self, revision: &str, cluster_id: Option<&str>) -> Result<()> {
        let mut config = json!({"revision": revision});
        config["reportTo"] = json!({"namespace": NAMESPACE, "name": NAME, "uid": self.uid});
        if let Some(id) = cluster_id {
            config["clusterId"] = id.into();
        }
        Ok(std::fs::write(&self.file, config.to_string())?)
    }

    /// What it says of itself once it narrows so many types.
    async fn status(&self, revision: &str, narrowed: usize) -> Result<Value> {
        await_condition(&format!("status with {narrowed} types"), DEADLINE, async || {
            let status = System::of(self.cluster).meshsync().await?["status"]["agent"].take();
            let is_so = status["pendingTypes"] == 0 && status["appliedRevision"] == revision;
            Ok((is_so && types(&status["narrowed"]).len() == narrowed).then_some(status))
        })
        .await
    }

    /// Warnings and errors that say this.
    fn complaints(&self, text: &str) -> usize {
        let is_bad = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        self.agent.log().lines().filter(is_bad).filter(|line| line.contains(text)).count()
    }

    /// What is refused is asked for again and again, and complained about once.
    async fn complains_once(&self) -> Result<()> {
        let failures = r#"meshsync_watch_failures_total{type="nodes"}"#;
        await_condition("refused again", DEADLINE, async || {
            Ok((Metrics::of_agent().await?.get(failures).unwrap_or_default() >= 3.0).then_some(()))
        })
        .await?;
        for text in ["clusterId", "nodes is forbidden", "in shop only"] {
            ensure!(self.complaints(text) == 1, "{text}: {}", self.agent.log());
        }
        Ok(())
    }
}

fn types(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry["type"].as_str()).collect()
}

#[test]
fn an_agent_with_rights_in_one_namespace_publishes_what_is_in_it() -> Result<()> {
    lab::run("namespaced-run", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().start().await?;
        let keeper = Keeper::new(lab, &cluster, &nats).await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        keeper.configure("one", None)?;
        keeper.agent.start()?;
        await_condition("kube-system may not be read", DEADLINE, async || {
            keeper.agent.ensure_running()?;
            Ok((keeper.complaints("clusterId") > 0).then_some(()))
        })
        .await?;
        keeper.configure("two", Some("one-of-mine"))?;
        await_held(&consumer, &["ConfigMap shop/prices", "Secret shop/till"]).await?;
        cluster.apply(LATER).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/prices"]).await?;
        await_held(&consumer, &["ConfigMap shop/later", "Secret shop/till"]).await?;
        await_condition("ready", DEADLINE, async || Ok(agent_readiness().await?.0.then_some(()))).await?;

        let status = keeper.status("two", 2).await?;
        ensure!(types(&status["narrowed"]) == ["configmaps", "secrets"], "{status}");
        ensure!(status["narrowed"][0]["namespaces"] == json!(["shop"]), "{status}");
        let refused = types(&status["refused"]);
        ensure!(["nodes", "pods", "deployments.apps"].iter().all(|name| refused.contains(name)), "{refused:?}");
        ensure!(status["phase"] == "Degraded", "{status}");
        keeper.complains_once().await?;

        // Rights that are given later; a new revision makes it look at once.
        cluster.apply(EVERYWHERE).await?;
        keeper.configure("three", Some("one-of-mine"))?;
        let all = ["ConfigMap meshery/elsewhere", "ConfigMap shop/later", "Secret shop/till"];
        await_condition("the other namespace", DEADLINE, async || {
            let held = held(&consumer);
            Ok(all.iter().all(|name| held.contains(*name)).then_some(()))
        })
        .await?;
        let status = keeper.status("three", 1).await?;
        ensure!(types(&status["narrowed"]) == ["secrets"], "{status}");
        keeper.agent.ensure_running()
    })
}
