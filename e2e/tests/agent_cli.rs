//! The agent on the command line: snapshots with only a kubeconfig, and wrong input.

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::equality::ObjectKey;
use meshsync_e2e::everything::{NOT_WATCHED, objects};
use meshsync_e2e::local_system::account_kubeconfig;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::{await_condition, lab};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
const SECRET_VALUE: &str = "tr0ub4dor-and-3";
const SECRET_BASE64: &str = "dHIwdWI0ZG9yLWFuZC0z";

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: meshery}
---
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: meshery}
stringData: {password: tr0ub4dor-and-3}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: narrow, namespace: meshery}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: narrow}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [configmaps], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: narrow}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: narrow}
subjects: [{kind: ServiceAccount, name: narrow, namespace: meshery}]
"#;

/// The agent's binary with a clean environment.
fn agent() -> Result<Command> {
    let mut command = Command::new(binary("meshsync-agent")?);
    for variable in ["KUBECONFIG", "BROKER_URL", "NATS_TOKEN", "HOME"] {
        command.env_remove(variable);
    }
    Ok(command)
}

fn snapshot(kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
    agent()?.arg("snapshot").arg("--kubeconfig").arg(kubeconfig).args(arguments).output().context("run the agent")
}

fn keys<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeSet<ObjectKey> {
    objects.into_iter().map(ObjectKey::of).collect()
}

async fn all_keys(cluster: &Cluster) -> Result<BTreeSet<ObjectKey>> {
    Ok(keys(&objects(cluster, &NOT_WATCHED).await?))
}

#[test]
fn snapshot_is_complete_and_contains_no_secret() -> Result<()> {
    lab::run("snapshot", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        cluster.apply(OBJECTS).await?;
        let expected = all_keys(&cluster).await?;

        let output = snapshot(cluster.kubeconfig(), &[])?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        ensure!(keys(&lines) == expected, "{} lines, {} objects", lines.len(), expected.len());
        let told = String::from_utf8(output.stderr)?;
        ensure!(told.contains(&format!("{} objects written, 0 types missing", expected.len())), "{told}");

        let file = lab.dir().join("snapshot.yaml");
        let path = file.to_str().context("UTF-8")?;
        let output = snapshot(cluster.kubeconfig(), &["--format", "yaml", "-o", path])?;
        ensure!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let yaml = std::fs::read_to_string(&file)?;
        ensure!(yaml.lines().filter(|line| *line == "---").count() >= expected.len() - 1, "too few documents");
        for (form, text) in [("NDJSON", &text), ("YAML", &yaml), ("messages", &told)] {
            ensure!(text.contains("\"db\"") || text.contains("db") || form == "messages", "{form}: no Secret at all");
            ensure!(!text.contains(SECRET_VALUE) && !text.contains(SECRET_BASE64), "{form} holds the secret");
        }

        // A selection, and an unknown type.
        let output = snapshot(cluster.kubeconfig(), &["--include", "ns,sa", "-n", "meshery"])?;
        let text = String::from_utf8(output.stdout)?;
        let kinds: BTreeSet<String> = text
            .lines()
            .map(|line| Ok(serde_json::from_str::<Value>(line)?["kind"].as_str().unwrap_or_default().to_owned()))
            .collect::<Result<_>>()?;
        ensure!(kinds == BTreeSet::from(["Namespace".to_owned(), "ServiceAccount".to_owned()]), "{kinds:?}");
        let output = snapshot(cluster.kubeconfig(), &["--include", "podz"])?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && told.contains("--include[0]: `podz`"), "{told}");

        // The agent names types that it may not read, and writes the rest.
        let narrow = account_kubeconfig(lab, &cluster, "narrow").await?;
        let output = snapshot(&narrow, &["--include", "namespaces,configmaps,secrets"])?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(3), "{:?}: {told}", output.status);
        ensure!(told.contains("missing: secrets:") && told.contains("forbidden"), "{told}");
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.contains("\"kind\":\"Namespace\"") && text.contains("\"kind\":\"ConfigMap\""), "{text}");
        Ok(())
    })
}

#[test]
fn forbidden_types_are_reported_and_delay_nothing() -> Result<()> {
    lab::run("narrow-rights", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().start().await?;
        cluster.apply(OBJECTS).await?;
        let narrow = account_kubeconfig(lab, &cluster, "narrow").await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(&narrow).env("BROKER_URL", nats.url());
        agent.start()?;
        await_condition("what may be read arrives", DEADLINE, async || {
            let view = consumer.view();
            Ok((view.count("v1", "Namespace") > 0 && view.count("v1", "ConfigMap") > 0).then_some(()))
        })
        .await?;
        let probes = kube::Client::try_from(kube::Config::new("http://127.0.0.1:11000".parse()?))?;
        let pages = kube::Client::try_from(kube::Config::new("http://127.0.0.1:11001".parse()?))?;
        let get = async |client: &kube::Client, path: &str| {
            client.request_text(http::Request::get(path).body(Vec::new())?).await.map_err(anyhow::Error::from)
        };
        await_condition("the agent is ready without the others", DEADLINE, async || {
            get(&probes, "/readyz").await.map(Some)
        })
        .await?;
        let watches: Value = serde_json::from_str(&get(&pages, "/debug/watches").await?)?;
        ensure!(watches["secrets"]["phase"] == "Refused", "{watches:#}");
        let error = watches["secrets"]["lastError"].as_str().unwrap_or_default();
        ensure!(error.contains("secrets is forbidden") && error.contains("meshery:narrow"), "{error}");
        // The agent may list the type but not watch it: it reports the refusal and keeps the objects.
        await_condition("the watch of ConfigMaps is refused", DEADLINE, async || {
            let watches: Value = serde_json::from_str(&get(&pages, "/debug/watches").await?)?;
            Ok((watches["configmaps"]["phase"] == "Refused").then_some(()))
        })
        .await?;
        ensure!(consumer.view().count("v1", "Secret") == 0);

        // The agent notices a right that is granted later.
        let rules = r#"[{"op": "add", "path": "/rules/-", "value":
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}}]"#;
        cluster.kubectl(["patch", "clusterrole", "narrow", "--type=json", "-p", rules]).await?;
        await_condition("the Secrets arrive", Duration::from_secs(90), async || {
            Ok((consumer.view().count("v1", "Secret") > 0).then_some(()))
        })
        .await?;
        agent.ensure_running()
    })
}

#[test]
fn wrong_input_ends_the_agent_with_one_line_that_says_what_to_do() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("meshsync-agent-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let garbage = dir.join("garbage");
    std::fs::write(&garbage, "clusters: [")?;
    let nowhere = dir.join("nowhere");
    let unreachable = dir.join("unreachable");
    std::fs::write(&unreachable, kubeconfig("https://127.0.0.1:1"))?;
    let path = |path: &Path| path.to_str().unwrap_or_default().to_owned();
    let (garbage, nowhere, unreachable) = (path(&garbage), path(&nowhere), path(&unreachable));
    let cases: [(&[&str], i32, &[&str]); 15] = [
        (&["run", "--broker-url", "nats://b", "--kubeconfig", &garbage], 1, &[&garbage, "--kubeconfig"]),
        (&["run", "--broker-url", "nats://b", "--kubeconfig", &nowhere], 1, &[&nowhere, "--kubeconfig"]),
        (&["run", "--broker-url", "nats://b"], 1, &["found no cluster", "--kubeconfig"]),
        (&["run", "--kubeconfig", &unreachable], 1, &["BROKER_URL", "--broker-url"]),
        (&["run", "--kubeconfig", &unreachable, "--broker-url", "http://s3cret@b"], 1, &["broker URL", "nats"]),
        (&["run", "--kubeconfig", &unreachable, "--broker-url", "nats://s3cret@b:99999"], 1, &["port 99999", "65535"]),
        (
            &["tail", "--broker-url", "nats://s3cret@127.0.0.1:1"],
            1,
            &["nats://127.0.0.1:1 ", "refused", "--broker-url"],
        ),
        (&["tail", "--type", "pods/log"], 2, &["pods/log", "--type"]),
        (&["run", "--stopAfter", "soon"], 2, &["--stopAfter", "soon"]),
        (&["snapshot", "--kubeconfig", &unreachable], 1, &["127.0.0.1:1"]),
        (&["snapshot", "--kubeconfig", &unreachable, "-o", "/no/such/dir/file"], 1, &["/no/such/dir/file", "--output"]),
        (&["snapshot", "--kubeconfig", &unreachable, "-o", "yaml"], 2, &["--format yaml", "./yaml"]),
        (&["snapshot", "--kubeconfig", &unreachable, "-n", "../x"], 2, &["--namespace", "../x"]),
        (
            &["run", "--kubeconfig", &unreachable, "-output", "file", "-outputFile=/no/such/dir/file"],
            1,
            &["/no/such/dir/file", "--outputFile"],
        ),
        (&["verify", "--kubeconfig", &unreachable, "--settle", "0"], 1, &["127.0.0.1:1"]),
    ];
    for (arguments, code, said) in cases {
        let output = agent()?.args(arguments).output()?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code), "{arguments:?}: {:?}: {told}", output.status);
        ensure!(said.iter().all(|word| told.contains(word)), "{arguments:?}: {told}");
        ensure!(!told.contains("s3cret") && !told.contains("panicked"), "{arguments:?}: {told}");
        let lines = told.lines().filter(|line| line.starts_with("error: ")).count();
        ensure!(lines == 1, "{arguments:?}: {lines} lines of error: {told}");
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

#[test]
fn agent_waiting_for_an_api_server_stops_in_order() -> Result<()> {
    lab::run("agent-waits", async |lab| {
        let kubeconfig = lab.dir().join("unreachable");
        std::fs::write(&kubeconfig, self::kubeconfig("https://127.0.0.1:1"))?;
        let nats = lab.nats().start().await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(&kubeconfig).env("BROKER_URL", nats.url());
        // Which task sees the end first is random, so this repeats often enough to see each.
        for begun in 1..=5 {
            agent.start()?;
            await_condition("the agent has started", DEADLINE, async || {
                Ok((agent.log().matches("connected to the broker").count() >= begun).then_some(()))
            })
            .await?;
            let status = agent.stop(DEADLINE).await?;
            ensure!(status.code() == Some(0), "the agent ended with {status}: {}", agent.log());
        }
        Ok(())
    })
}

fn kubeconfig(server: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    })
    .to_string()
}
