//! The operator against a real API server and real controllers, with exactly the rights of its manifest.

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::local_system::OPERATOR_PROBES;
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{NAME, NAMESPACE, System, deploy};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Records every write, and the account that made it.
const AUDIT: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}]}"#;
const OPERATOR: &str = "system:serviceaccount:meshery:meshsync-operator";

/// Name of the sample's FlowSchema.
const FLOW: &str = "meshsync.meshery.meshsync";

async fn get(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    let text = cluster.kubectl(["get", kind, name, "-n", NAMESPACE, "-o", "json"]).await?;
    Ok(serde_json::from_str(&text)?)
}

async fn uid(cluster: &Cluster, kind: &str, name: &str) -> Result<String> {
    Ok(get(cluster, kind, name).await?["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

/// Applies the plain sample, and waits until the operator has made all its children.
async fn apply_sample(cluster: &Cluster) -> Result<()> {
    cluster.apply(std::fs::read(deploy("samples/meshsync.yaml"))?).await?;
    await_condition("the broker, which is made last, is there", DEADLINE, async || {
        get(cluster, "statefulset", "meshsync-broker").await.map(drop).map(Some)
    })
    .await
}

/// Starts the operator, installs the API and the plain sample, and waits until all children are made.
async fn start(lab: &Lab, cluster: &Cluster) -> Result<Daemon> {
    let operator = lab.operator_process(cluster).await?;
    System::of(cluster).install_definition().await?;
    operator.start()?;
    apply_sample(cluster).await?;
    Ok(operator)
}

/// How many times the operator has completed a reconciliation of a MeshSync.
async fn reconciliations() -> Result<f64> {
    let metrics = Metrics(meshsync_e2e::metrics::get(OPERATOR_PROBES, "/metrics").await?);
    Ok(metrics.sum("meshsync_operator_reconcile_seconds_count"))
}

/// Requests that changed something, made by the operator, without its events and its access reviews.
fn writes(cluster: &Cluster) -> Result<Vec<String>> {
    let described = |event: &Value| {
        let object = &event["objectRef"];
        let resource = object["resource"].as_str().unwrap_or_default();
        let is_write = event["user"]["username"] == OPERATOR && resource != "events" && !resource.ends_with("reviews");
        is_write.then(|| format!("{} {resource} {} {}", event["verb"], object["subresource"], object["name"]))
    };
    Ok(cluster.audit_events()?.iter().filter_map(described).collect())
}

/// Checks that the operator is not ready, and says why, until its definition is installed.
async fn ensure_ready_only_with_the_definition(cluster: &Cluster, operator: &Daemon) -> Result<()> {
    let mut probes = kube::Config::new(format!("http://{OPERATOR_PROBES}").parse()?);
    // "Not ready" is an answer, not a reason to ask again.
    probes.default_retry = false;
    let probes = kube::Client::try_from(probes)?;
    let ready = async || {
        probes.request_text(http::Request::get("/readyz").body(Vec::new())?).await.map_err(anyhow::Error::from)
    };
    await_condition("the operator logs that its definition is missing", DEADLINE, async || {
        Ok(operator.log().contains("crd generate | kubectl apply").then_some(()))
    })
    .await?;
    ensure!(ready().await.is_err(), "ready without the definition");
    System::of(cluster).install_definition().await?;
    await_condition("the operator is ready", DEADLINE, async || ready().await.map(Some)).await.map(drop)
}

/// Sets values that the API server stores in another form, and checks that the operator does not mistake that form for
/// somebody's change.
async fn ensure_odd_spellings_are_applied_once(cluster: &Cluster) -> Result<()> {
    let odd = json!({"resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}}, "affinity": {}, "nodeSelector": {}});
    System::of(cluster).patch(&json!({"spec": {"agent": odd}})).await?;
    await_condition("the limits are in the Deployment", DEADLINE, async || {
        let deployment = get(cluster, "deployment", "meshsync-agent").await?;
        Ok((deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "500m")
            .then_some(()))
    })
    .await?;
    ensure!(
        get(cluster, "deployment", "meshsync-agent").await?["metadata"]["generation"] == 2,
        "created, and edited once"
    );
    await_condition("the status has the generation of the edit", DEADLINE, async || {
        let meshsync = get(cluster, "meshsync", "meshsync").await?;
        Ok((meshsync["status"]["observedGeneration"] == 2).then_some(()))
    })
    .await
}

/// Makes changes that need no answer, and checks that the operator reconciles after each of them and writes nothing.
async fn ensure_irrelevant_changes_cause_no_writes(cluster: &Cluster) -> Result<()> {
    let settled = writes(cluster)?;
    for round in 0..3 {
        let (label, before) = (format!("round=r{round}"), reconciliations().await?);
        cluster.kubectl(["label", "--overwrite", "configmap", "-n", NAMESPACE, "meshsync-agent", &label]).await?;
        await_condition("the operator has reconciled", DEADLINE, async || {
            Ok((reconciliations().await? > before).then_some(()))
        })
        .await?;
    }
    let now = writes(cluster)?;
    ensure!(now.len() == settled.len(), "written again: {:#?}", &now[settled.len()..]);
    Ok(())
}

#[test]
fn operator_waits_for_its_definition_and_writes_each_child_once() -> Result<()> {
    lab::run("operator-writes", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).audit(AUDIT).start().await?;
        let operator = lab.operator_process(&cluster).await?;
        operator.start()?;
        ensure_ready_only_with_the_definition(&cluster, &operator).await?;
        apply_sample(&cluster).await?;
        ensure_odd_spellings_are_applied_once(&cluster).await?;
        ensure_irrelevant_changes_cause_no_writes(&cluster).await?;
        operator.ensure_running()
    })
}

/// Deletes the broker's NetworkPolicy, and waits until the operator has made another.
async fn ensure_network_policy_is_recreated(cluster: &Cluster) -> Result<()> {
    let uid_before = uid(cluster, "networkpolicy", "meshsync-broker").await?;
    cluster.kubectl(["delete", "networkpolicy", "-n", NAMESPACE, "meshsync-broker"]).await?;
    await_condition("the NetworkPolicy is back", DEADLINE, async || {
        Ok((uid(cluster, "networkpolicy", "meshsync-broker").await? != uid_before).then_some(()))
    })
    .await
}

/// Gives the agent's requests precedence over everybody's, and waits until the operator has taken it away.
async fn ensure_priority_is_reset(cluster: &Cluster) -> Result<()> {
    let patch = json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}).to_string();
    cluster.kubectl(["patch", "flowschema", FLOW, "--type=merge", "-p", &patch]).await?;
    await_condition("the agent no longer has precedence over everybody else", DEADLINE, async || {
        let schema = get(cluster, "flowschema", FLOW).await?;
        Ok((schema["spec"]["priorityLevelConfiguration"]["name"] == "workload-low").then_some(()))
    })
    .await
}

/// Waits for the event that reports the repair of the NetworkPolicy.
async fn await_repair_event(cluster: &Cluster) -> Result<()> {
    await_condition("an event reports the repair", DEADLINE, async || {
        let notes = cluster.kubectl(["get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].message}"]).await?;
        Ok(notes.contains("applied NetworkPolicy meshsync-broker").then_some(()))
    })
    .await
}

/// Deletes the broker's token, and waits until broker and agent are rolled: only pods started afterwards know a new token.
async fn ensure_new_token_rolls_broker_and_agent(cluster: &Cluster) -> Result<()> {
    let annotations = async |kind: &str, name: &str| -> Result<Value> {
        Ok(get(cluster, kind, name).await?["spec"]["template"]["metadata"]["annotations"].take())
    };
    let both = async || -> Result<(Value, Value)> {
        Ok((annotations("statefulset", "meshsync-broker").await?, annotations("deployment", "meshsync-agent").await?))
    };
    let before = both().await?;
    cluster.kubectl(["delete", "secret", "-n", NAMESPACE, "meshsync-broker"]).await?;
    await_condition("broker and agent are rolled", DEADLINE, async || {
        let now = both().await?;
        Ok((now.0 != before.0 && now.1 != before.1).then_some(()))
    })
    .await
}

/// Asks for another volume size, which the API server refuses to change in a StatefulSet, and checks that the operator
/// replaces the StatefulSet, and that the agent's part of the same edit does not wait for it.
async fn ensure_new_volume_size_replaces_statefulset(cluster: &Cluster) -> Result<()> {
    let uid_before = uid(cluster, "statefulset", "meshsync-broker").await?;
    let patch =
        json!({"spec": {"broker": {"managed": {"storage": {"size": "1.5Gi"}}}, "agent": {"podLabels": {"a": "b"}}}});
    System::of(cluster).patch(&patch).await?;
    await_condition("the StatefulSet is replaced", DEADLINE, async || {
        let now = get(cluster, "statefulset", "meshsync-broker").await?;
        let claim = &now["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
        Ok((now["metadata"]["uid"] != uid_before.as_str() && claim == "1536Mi").then_some(()))
    })
    .await?;
    let deployment = get(cluster, "deployment", "meshsync-agent").await?;
    ensure!(deployment["spec"]["template"]["metadata"]["labels"]["a"] == "b", "{deployment:#}");
    let config = get(cluster, "configmap", "meshsync-broker").await?["data"]["nats.conf"].take();
    ensure!(config.as_str().unwrap_or_default().contains("max_file_store: 1449551457"), "{config}");
    Ok(())
}

#[test]
fn operator_repairs_broken_children_and_deletes_them_with_the_meshsync() -> Result<()> {
    lab::run("operator-mends", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        ensure_network_policy_is_recreated(&cluster).await?;
        ensure_priority_is_reset(&cluster).await?;
        await_repair_event(&cluster).await?;
        ensure_new_token_rolls_broker_and_agent(&cluster).await?;
        ensure_new_volume_size_replaces_statefulset(&cluster).await?;
        System::of(&cluster).ensure_deletion_leaves_nothing(DEADLINE).await?;
        operator.ensure_running()
    })
}

#[test]
fn requests_of_an_agent_have_a_flow_of_their_own_at_workload_priority() -> Result<()> {
    lab::run("operator-flow", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        System::of(&cluster).await_reason("Authorized", "True", "Granted").await?;
        let nats = lab.nats().start().await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent_process(&cluster, &nats).await?;
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        let dispatched = async |flow: &str| -> Result<f64> {
            let metrics = Metrics(cluster.kubectl(["get", "--raw", "/metrics"]).await?);
            let labels = format!(r#"{{flow_schema="{flow}",priority_level="workload-low"}}"#);
            let metric = "apiserver_flowcontrol_dispatched_requests_total";
            Ok(metrics.get(&format!("{metric}{labels}")).unwrap_or_default())
        };
        let (lists, flow) = (Metrics::of_agent().await?.sum("meshsync_lists_total"), dispatched(FLOW).await?);
        ensure!(lists > 50.0 && flow >= lists, "{lists} lists, and {flow} requests in the agent's flow");
        operator.ensure_running()
    })
}

#[test]
fn edits_to_the_agents_config_map_do_not_lose_the_last_good_configuration() -> Result<()> {
    lab::run("operator-memory", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        let system = System::of(&cluster);
        system.patch(&json!({"spec": {"informer_config": {"blacklist": ["configmaps"]}}})).await?;
        let good = async || {
            await_condition("the agent's ConfigMap holds the last good configuration", DEADLINE, async || {
                let given = get(&cluster, "configmap", "meshsync-agent").await?["data"]["config.yaml"].take();
                let given: Value = serde_json::from_str(given.as_str().unwrap_or_default())?;
                let remembered = system.meshsync().await?["status"]["configuration"]["informer_config"].take();
                let blacklists = [&given["informer_config"]["blacklist"], &remembered["blacklist"]];
                Ok(blacklists.iter().all(|blacklist| **blacklist == json!(["configmaps"])).then_some(()))
            })
            .await
        };
        good().await?;
        let cancelling = json!({"blacklist": ["pods"], "whitelist": ["pods"]});
        system.patch(&json!({"spec": {"informer_config": cancelling}})).await?;
        system.await_reason("Resolved", "False", "NothingSelected").await?;

        // The first edit cannot be read. The second can, and means the built-in blacklist instead of the requested one.
        for edit in ["{garbage", r#"{"revision": "edited"}"#] {
            let patch = json!({"data": {"config.yaml": edit}}).to_string();
            cluster
                .kubectl(["patch", "configmap", "-n", NAMESPACE, "meshsync-agent", "--type=merge", "-p", &patch])
                .await?;
            good().await.with_context(|| format!("after {edit}"))?;
        }
        for kind in ["configmap", "role", "deployment"] {
            cluster.kubectl(["delete", kind, "-n", NAMESPACE, "meshsync-agent"]).await?;
        }
        good().await.context("after a deletion")?;
        for kind in ["role", "deployment"] {
            await_condition("the deleted child is back", DEADLINE, async || {
                get(&cluster, kind, "meshsync-agent").await.map(Some)
            })
            .await?;
        }
        let message = system.await_reason("Resolved", "False", "NothingSelected").await?;
        ensure!(message.contains("last good configuration stays in force"), "{message}");
        system.await_reason("Authorized", "True", "Granted").await?;
        operator.ensure_running()
    })
}

/// Whether the agent's ServiceAccount may list a resource, according to `kubectl auth can-i`.
async fn may_list(cluster: &Cluster, plural: &str) -> bool {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{NAME}-agent");
    cluster.kubectl(["auth", "can-i", "list", plural, "-A", &account]).await.is_ok()
}

#[test]
fn ceiling_limits_the_agent_to_less_than_the_operator_may_do_itself() -> Result<()> {
    lab::run("operator-ceiling", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        let system = System::of(&cluster);
        system.await_reason("Authorized", "True", "Granted").await?;
        for plural in ["secrets", "configmaps", "clusterroles", "deployments"] {
            ensure!(may_list(&cluster, plural).await, "{plural} are not granted");
        }

        // The operator needs the first three for its own work, so that the API server would let it grant them.
        let rules = json!([{"op": "replace", "path": "/rules", "value":
            [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["list", "watch"]}]}])
        .to_string();
        cluster.kubectl(["patch", "clusterrole", "meshsync-agent-ceiling", "--type=json", "-p", &rules]).await?;
        let message = system.await_reason("Authorized", "False", "NotGrantable").await?;
        ensure!(message.contains("meshsync-agent-ceiling") && message.contains("secrets"), "{message}");
        system.await_reported(&operator, "NotGrantable", "meshsync-agent-ceiling").await?;
        await_condition("the agent may no longer list Secrets", DEADLINE, async || {
            Ok((!may_list(&cluster, "secrets").await).then_some(()))
        })
        .await?;
        for (plural, allowed) in [("configmaps", false), ("clusterroles", false), ("deployments", true)] {
            ensure!(may_list(&cluster, plural).await == allowed, "{plural}");
        }

        let rules = json!([{"op": "replace", "path": "/rules", "value":
            [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "watch"]}]}])
        .to_string();
        cluster.kubectl(["patch", "clusterrole", "meshsync-agent-ceiling", "--type=json", "-p", &rules]).await?;
        system.await_reason("Authorized", "True", "Granted").await?;
        ensure!(may_list(&cluster, "secrets").await, "the operator did not notice the wider ceiling");
        operator.ensure_running()
    })
}
