//! The agent with an account that has rights in only one namespace, and with flags that narrow its configuration.

#![allow(clippy::disallowed_methods, reason = "the clients talk to clusters and processes of their own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::Level;
use meshsync_e2e::local_system::account_kubeconfig;
use meshsync_e2e::{await_condition, lab};
use serde_json::Value;

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
