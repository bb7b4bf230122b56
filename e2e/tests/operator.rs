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
use meshsync_e2e::system::{CHILD_KINDS, NAME, NAMESPACE, System, deploy};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Every write, with who made it.
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

async fn apply_sample(cluster: &Cluster, sample: &str) -> Result<()> {
    cluster.apply(std::fs::read(deploy("samples").join(sample))?).await.map(drop)
}

/// The operator, running, with the API and the plain sample installed and all children made.
async fn start(lab: &Lab, cluster: &Cluster) -> Result<Daemon> {
    let operator = lab.operator_process(cluster).await?;
    System::of(cluster).install_definition().await?;
    operator.start()?;
    apply_sample(cluster, "meshsync.yaml").await?;
    await_condition("the broker, which is made last, is there", DEADLINE, async || {
        get(cluster, "statefulset", "meshsync-broker").await.map(Some)
    })
    .await?;
    Ok(operator)
}

/// How often the operator has looked at a MeshSync from beginning to end.
async fn looks() -> Result<f64> {
    let metrics = Metrics(meshsync_e2e::metrics::get(OPERATOR_PROBES, "/metrics").await?);
    Ok(metrics.sum("meshsync_operator_reconcile_seconds_count"))
}

/// Requests by which the operator changed something, events and its questions about rights left out.
fn writes(cluster: &Cluster) -> Result<Vec<String>> {
    let told = |event: &Value| {
        let object = &event["objectRef"];
        let resource = object["resource"].as_str().unwrap_or_default();
        let is_write = event["user"]["username"] == OPERATOR && resource != "events" && !resource.ends_with("reviews");
        is_write.then(|| format!("{} {resource} {} {}", event["verb"], object["subresource"], object["name"]))
    };
    Ok(cluster.audit_events()?.iter().filter_map(told).collect())
}

#[test]
fn it_waits_for_its_definition_and_then_writes_each_child_once() -> Result<()> {
    lab::run("operator-writes", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).audit(AUDIT).start().await?;
        let operator = lab.operator_process(&cluster).await?;
        operator.start()?;
        let mut probes = kube::Config::new(format!("http://{OPERATOR_PROBES}").parse()?);
        // "Not ready" is an answer, not a reason to ask again.
        probes.default_retry = false;
        let probes = kube::Client::try_from(probes)?;
        let ready = async || {
            probes.request_text(http::Request::get("/readyz").body(Vec::new())?).await.map_err(anyhow::Error::from)
        };
        await_condition("the operator says what it misses", DEADLINE, async || {
            Ok(operator.log().contains("crd generate | kubectl apply").then_some(()))
        })
        .await?;
        ensure!(ready().await.is_err(), "ready without the definition");
        System::of(&cluster).install_definition().await?;
        await_condition("the operator is ready", DEADLINE, async || ready().await.map(Some)).await?;

        apply_sample(&cluster, "meshsync.yaml").await?;
        await_condition("the broker, which is made last, is there", DEADLINE, async || {
            get(&cluster, "statefulset", "meshsync-broker").await.map(Some)
        })
        .await?;
        // Spellings that the API server stores in another form must not look like changes of somebody else.
        let odd =
            json!({"resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}}, "affinity": {}, "nodeSelector": {}});
        System::of(&cluster).patch(&json!({"spec": {"agent": odd}})).await?;
        await_condition("the limits are in the Deployment", DEADLINE, async || {
            let deployment = get(&cluster, "deployment", "meshsync-agent").await?;
            Ok((deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "500m")
                .then_some(()))
        })
        .await?;
        ensure!(
            get(&cluster, "deployment", "meshsync-agent").await?["metadata"]["generation"] == 2,
            "created, and edited once"
        );

        await_condition("its status says so", DEADLINE, async || {
            let meshsync = get(&cluster, "meshsync", "meshsync").await?;
            Ok((meshsync["status"]["observedGeneration"] == 2).then_some(()))
        })
        .await?;

        // A change that concerns nobody makes the operator look at everything and write nothing.
        let settled = writes(&cluster)?;
        for round in 0..3 {
            let (label, before) = (format!("round=r{round}"), looks().await?);
            cluster.kubectl(["label", "--overwrite", "configmap", "-n", NAMESPACE, "meshsync-agent", &label]).await?;
            await_condition("the operator has looked", DEADLINE, async || Ok((looks().await? > before).then_some(())))
                .await?;
        }
        let now = writes(&cluster)?;
        ensure!(now.len() == settled.len(), "written again: {:#?}", &now[settled.len()..]);
        operator.ensure_running()
    })
}

#[test]
fn what_somebody_breaks_is_mended() -> Result<()> {
    lab::run("operator-mends", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        let annotations = async |kind: &str, name: &str| -> Result<Value> {
            Ok(get(&cluster, kind, name).await?["spec"]["template"]["metadata"]["annotations"].take())
        };

        let uid_before = uid(&cluster, "networkpolicy", "meshsync-broker").await?;
        cluster.kubectl(["delete", "networkpolicy", "-n", NAMESPACE, "meshsync-broker"]).await?;
        await_condition("the NetworkPolicy is back", DEADLINE, async || {
            Ok((uid(&cluster, "networkpolicy", "meshsync-broker").await? != uid_before).then_some(()))
        })
        .await?;

        let priority = async || -> Result<Value> {
            Ok(get(&cluster, "flowschema", FLOW).await?["spec"]["priorityLevelConfiguration"]["name"].take())
        };
        let patch = json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}).to_string();
        cluster.kubectl(["patch", "flowschema", FLOW, "--type=merge", "-p", &patch]).await?;
        await_condition("the agent is no longer served before everybody else", DEADLINE, async || {
            Ok((priority().await? == "workload-low").then_some(()))
        })
        .await?;

        await_condition("an event tells what was mended", DEADLINE, async || {
            let notes =
                cluster.kubectl(["get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].message}"]).await?;
            Ok(notes.contains("applied NetworkPolicy meshsync-broker").then_some(()))
        })
        .await?;

        // A new token is of use only to pods that are started with it.
        let before =
            (annotations("statefulset", "meshsync-broker").await?, annotations("deployment", "meshsync-agent").await?);
        cluster.kubectl(["delete", "secret", "-n", NAMESPACE, "meshsync-broker"]).await?;
        await_condition("broker and agent are rolled", DEADLINE, async || {
            let now = (
                annotations("statefulset", "meshsync-broker").await?,
                annotations("deployment", "meshsync-agent").await?,
            );
            Ok((now.0 != before.0 && now.1 != before.1).then_some(()))
        })
        .await?;

        // The API server refuses to change the volumes of a StatefulSet: the agent must not wait for that.
        let uid_before = uid(&cluster, "statefulset", "meshsync-broker").await?;
        let patch = json!({"spec": {"broker": {"managed": {"storage": {"size": "1.5Gi"}}}, "agent": {"podLabels": {"a": "b"}}}});
        System::of(&cluster).patch(&patch).await?;
        await_condition("the StatefulSet is replaced", DEADLINE, async || {
            let now = get(&cluster, "statefulset", "meshsync-broker").await?;
            let claim = &now["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
            Ok((now["metadata"]["uid"] != uid_before.as_str() && claim == "1536Mi").then_some(()))
        })
        .await?;
        let deployment = get(&cluster, "deployment", "meshsync-agent").await?;
        ensure!(deployment["spec"]["template"]["metadata"]["labels"]["a"] == "b", "{deployment:#}");
        let config = get(&cluster, "configmap", "meshsync-broker").await?["data"]["nats.conf"].take();
        ensure!(config.as_str().unwrap_or_default().contains("max_file_store: 1449551457"), "{config}");

        cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, NAME]).await?;
        await_condition("nothing is left", DEADLINE, async || {
            let label = "meshery.layer5.io/meshsync-uid";
            let left = cluster.kubectl(["get", CHILD_KINDS, "-A", "-l", label, "-o", "name"]).await?;
            Ok(left.trim().is_empty().then_some(()))
        })
        .await?;
        operator.ensure_running()
    })
}

#[test]
fn what_an_agent_asks_is_a_flow_of_its_own_among_workloads() -> Result<()> {
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
fn an_edited_configuration_of_the_agent_does_not_lose_the_last_good_one() -> Result<()> {
    lab::run("operator-memory", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        let system = System::of(&cluster);
        system.patch(&json!({"spec": {"informer_config": {"blacklist": ["configmaps"]}}})).await?;
        let good = async || {
            await_condition("the agent is given the last good configuration", DEADLINE, async || {
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

        // The first cannot be read; the second can, and means the built-in blacklist, which nobody asked for.
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
            await_condition("what was deleted is back", DEADLINE, async || {
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

/// What the agent's ServiceAccount may list, as `kubectl auth can-i` sees it.
async fn may_list(cluster: &Cluster, plural: &str) -> bool {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{NAME}-agent");
    cluster.kubectl(["auth", "can-i", "list", plural, "-A", &account]).await.is_ok()
}

#[test]
fn the_ceiling_binds_whatever_the_operator_may_do_itself() -> Result<()> {
    lab::run("operator-ceiling", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let operator = start(lab, &cluster).await?;
        let system = System::of(&cluster);
        system.await_reason("Authorized", "True", "Granted").await?;
        for plural in ["secrets", "configmaps", "clusterroles", "deployments"] {
            ensure!(may_list(&cluster, plural).await, "{plural} are not granted");
        }

        // The operator needs the first three for its own work; the API server would let it pass them on.
        let rules = json!([{"op": "replace", "path": "/rules", "value":
            [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["list", "watch"]}]}])
        .to_string();
        cluster.kubectl(["patch", "clusterrole", "meshsync-agent-ceiling", "--type=json", "-p", &rules]).await?;
        let message = system.await_reason("Authorized", "False", "NotGrantable").await?;
        ensure!(message.contains("meshsync-agent-ceiling") && message.contains("secrets"), "{message}");
        system.await_told(&operator, "NotGrantable", "meshsync-agent-ceiling").await?;
        await_condition("the rights are narrowed", DEADLINE, async || {
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
        ensure!(may_list(&cluster, "secrets").await, "widening is not noticed");
        operator.ensure_running()
    })
}

#[test]
fn what_is_wrong_is_told_where_it_is_looked_for() -> Result<()> {
    lab::run("operator-wrong-input", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let system = System::of(&cluster);
        let operator = lab.operator_process(&cluster).await?;
        system.install_definition().await?;
        operator.start()?;

        // What the API server can tell is refused there, with a word on what would be right.
        let url = |url: &str| json!({"broker": {"external": {"url": url}}});
        for (spec, said) in [
            (url("http://broker:4222"), "must be nats://host:port"),
            (url("nats://user:password@broker:4222"), "without credentials"),
            (url("nats://broker:99999"), "port must be a number from 1 to 65535"),
            (url("nats://broker:port"), "port must be a number from 1 to 65535"),
            (json!({"broker": {"managed": {}, "external": {"url": "nats://b:4222"}}}), "exactly one of"),
            (json!({"broker": {"managed": {"storage": {"size": "plenty"}}}}), "such as 1Gi"),
            (json!({"informer_config": {"blacklist": "pods"}}), "informer_config.blacklist"),
        ] {
            let meshsync = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
                "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec});
            let refused = cluster.apply(meshsync.to_string()).await.err().map(|error| format!("{error:#}"));
            ensure!(refused.as_ref().is_some_and(|refused| refused.contains(said)), "{said}: {refused:?}");
        }

        // A Secret that is missing: told, and taken up when it comes.
        let external = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"broker": {"external": {"url": "nats://b:4222", "credentials": {"token": {"name": "t", "key": "token"}}}}}});
        cluster.apply(external.to_string()).await?;
        let message = system.await_reason("BrokerAvailable", "False", "SecretNotFound").await?;
        ensure!(message.contains("Secret meshery/t"), "{message}");
        system.await_told(&operator, "SecretNotFound", "Secret meshery/t").await?;
        cluster.kubectl(["create", "secret", "generic", "t", "-n", NAMESPACE, "--from-literal=wrong=x"]).await?;
        await_condition("the key is missing still", DEADLINE, async || {
            let message = system.await_reason("BrokerAvailable", "False", "SecretNotFound").await?;
            Ok(message.contains("key `token`").then_some(()))
        })
        .await?;
        cluster.kubectl(["delete", "secret", "t", "-n", NAMESPACE]).await?;
        cluster.kubectl(["create", "secret", "generic", "t", "-n", NAMESPACE, "--from-literal=token=x"]).await?;
        system.await_reason("BrokerAvailable", "Unknown", "NotReported").await?;
        let agent = json!({"status": {"agent": {"appliedRevision": "r", "phase": "Degraded", "pod": "p", "version": "v",
            "broker": {"url": "nats://b:4222", "connected": false}, "types": 1, "pendingTypes": 2, "objects": 3, "outbox": 4, "tooLarge": 5}}});
        let patch = ["patch", "meshsync", "-n", NAMESPACE, NAME, "--subresource=status", "--type=merge", "-p"];
        cluster.kubectl(patch.into_iter().chain([agent.to_string().as_str()])).await?;
        system.await_told(&operator, "Unreachable", "the agent cannot connect to nats://b:4222").await?;

        // A configuration that cannot be, on a MeshSync that never had another: nothing runs, and that is said.
        cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, NAME]).await?;
        let wrong = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
            "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"informer_config": {"blacklist": ["po ds"]}}});
        cluster.apply(wrong.to_string()).await?;
        let message = system.await_reason("Resolved", "False", "InvalidTypePattern").await?;
        ensure!(
            message.contains("blacklist[0]") && message.contains("po ds") && message.contains("nothing runs"),
            "{message}"
        );
        system.await_told(&operator, "InvalidTypePattern", "po ds").await?;
        // Whoever cuts it after 1,024 characters still has more bytes than the API takes of a note.
        let long: Vec<String> = (0..6).map(|number| format!("{} {number}", "ä".repeat(120))).collect();
        system.patch(&json!({"spec": {"informer_config": {"blacklist": long}}})).await?;
        system.await_told(&operator, "InvalidTypePattern", "äää").await?;
        system.patch(&json!({"spec": {"informer_config": {"blacklist": ["pod", "podz"]}}})).await?;
        let message = system.await_reason("Resolved", "True", "UnknownType").await?;
        ensure!(message.contains("podz") && message.contains("did you mean"), "{message}");
        system.await_told(&operator, "UnknownType", "podz").await?;

        // One reason and three causes: each is told.
        for (blacklist, whitelist) in
            [(json!(["*"]), json!([])), (json!([]), json!(["podz"])), (json!(["pods"]), json!(["pods"]))]
        {
            let patch = json!({"spec": {"informer_config": {"blacklist": blacklist, "whitelist": whitelist}}});
            system.patch(&patch).await?;
            let generation = system.meshsync().await?["metadata"]["generation"].take();
            await_condition("the operator has seen it", DEADLINE, async || {
                Ok((system.meshsync().await?["status"]["observedGeneration"] == generation).then_some(()))
            })
            .await?;
            let message = system.await_reason("Resolved", "False", "NothingSelected").await?;
            ensure!(message.contains("last good configuration stays in force"), "{message}");
            system.await_told(&operator, "NothingSelected", &message).await?;
        }
        let log = operator.log();
        let lines = log.lines().filter(|line| line.contains("podz") && line.contains("UnknownType")).count();
        ensure!(lines == 1, "{lines} lines about one finding:\n{log}");
        operator.ensure_running()
    })
}
