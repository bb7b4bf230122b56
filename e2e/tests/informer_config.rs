//! Edits to the selection of watched types, against a real API server, an operator and an agent with their own rights.

#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::metrics::Metrics;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::system::{NAME, NAMESPACE, System, deploy};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const CRD: &str = "meshsyncs.meshery.layer5.io";
const ANNOTATION: &str = "meshery.layer5.io/informer_config";

/// Everything except a node: the operator and the agent of the plain sample, and a consumer.
struct World<'a> {
    cluster: &'a Cluster,
    system: System<'a>,
    operator: Daemon,
    agent: Daemon,
    consumer: Consumer,
}

impl<'a> World<'a> {
    async fn start(lab: &Lab, cluster: &'a Cluster, nats: &Nats) -> Result<Self> {
        let system = System::of(cluster);
        let operator = lab.operator_process(cluster).await?;
        system.install_definition().await?;
        operator.start()?;
        cluster.apply(std::fs::read(deploy("samples/meshsync.yaml"))?).await?;
        let account = format!("{NAME}-agent");
        await_condition("the agent's ConfigMap is there", DEADLINE, async || {
            Ok(cluster.kubectl(["get", "configmap", "-n", NAMESPACE, &account]).await.ok())
        })
        .await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        let agent = lab.agent_process(cluster, nats).await?;
        agent.start()?;
        let world = Self { cluster, system, operator, agent, consumer };
        world.acknowledged().await?;
        await_equal(cluster, &world.consumer, &NOT_WATCHED, DEADLINE).await?;
        Ok(world)
    }

    /// Waits until the agent reports that it has applied the configuration that the operator wrote.
    async fn acknowledged(&self) -> Result<()> {
        await_condition("the agent acknowledges its configuration", DEADLINE, async || {
            let status = self.system.meshsync().await?["status"].take();
            let (given, applied) = (&status["configuration"]["revision"], &status["agent"]["appliedRevision"]);
            Ok((given.is_string() && given == applied).then_some(()))
        })
        .await
    }

    /// Waits until the consumer holds ConfigMaps, or until it holds none.
    async fn config_maps(&self, present: bool) -> Result<()> {
        let what = if present { "the ConfigMaps are back" } else { "the ConfigMaps have left" };
        await_condition(what, DEADLINE, async || {
            Ok(((self.consumer.view().count("v1", "ConfigMap") > 0) == present).then_some(()))
        })
        .await
    }

    /// Watches opened so far, by type, without those of ConfigMaps.
    async fn watch_opens(&self) -> Result<BTreeSet<String>> {
        let metrics = Metrics::of_agent().await?;
        let opens = metrics.0.lines().filter(|line| line.starts_with("meshsync_watch_opens_total{"));
        Ok(opens.filter(|line| !line.contains("\"configmaps\"")).map(str::to_owned).collect())
    }

    async fn annotation(&self) -> Result<String> {
        let path = format!("jsonpath={{.metadata.annotations.{}}}", ANNOTATION.replace('.', "\\."));
        self.cluster.kubectl(["get", "crd", CRD, "-o", &path]).await
    }

    /// Edits the annotation in place, as `kubectl edit` would.
    async fn annotate(&self, text: &str) -> Result<()> {
        let annotation = format!("{ANNOTATION}={text}");
        self.cluster.kubectl(["annotate", "--overwrite", "crd", CRD, &annotation]).await.map(drop)
    }

    fn running(&self) -> Result<()> {
        self.operator.ensure_running()?;
        self.agent.ensure_running()
    }
}

/// Blacklists ConfigMaps by the three documented steps: download the definition, edit it, apply it.
async fn edit_downloaded_definition(lab: &Lab, cluster: &Cluster) -> Result<()> {
    let file = lab.dir().join("meshsync.yaml");
    let downloaded = cluster.kubectl(["get", "crd", CRD, "-o", "yaml"]).await?;
    let entry = downloaded.lines().find(|line| line.trim() == "- leases.coordination.k8s.io");
    let entry = entry.with_context(|| format!("no blacklist to edit in:\n{}", &downloaded[..2000]))?;
    let with_config_maps = format!("{entry}\n{}", entry.replace("leases.coordination.k8s.io", "configmaps"));
    std::fs::write(&file, downloaded.replacen(entry, &with_config_maps, 1))?;
    cluster.kubectl(["apply", "-f", file.to_str().context("UTF-8")?]).await.map(drop)
}

impl World<'_> {
    /// Checks that the edit of the default takes effect at once, and opens no other watch again.
    async fn ensure_default_is_in_force(&self, applied: Instant, opens: &BTreeSet<String>) -> Result<()> {
        self.config_maps(false).await?;
        ensure!(applied.elapsed() < Duration::from_secs(3), "it took {:?}", applied.elapsed());
        self.acknowledged().await?;
        let status = self.system.meshsync().await?["status"].take();
        ensure!(status["configuration"]["source"] == "ClusterDefault", "{status:#}");
        ensure!(self.watch_opens().await? == *opens, "other watches were opened again");
        Ok(())
    }

    async fn await_edit_in_annotation(&self) -> Result<()> {
        await_condition("the edit is in the annotation", DEADLINE, async || {
            Ok(self.annotation().await?.contains("configmaps").then_some(()))
        })
        .await
    }

    /// Checks that an upgrade does not undo the edit, whether the definition is applied by the client or by the server.
    async fn ensure_upgrades_keep_the_edit(&self) -> Result<()> {
        for attempt in 0..2 {
            self.system.install_definition().await.with_context(|| format!("upgrade {attempt}"))?;
            self.await_edit_in_annotation().await?;
        }
        let generated = std::fs::read(deploy("crds/meshsyncs.yaml"))?;
        self.cluster.kubectl_with_input(["apply", "--server-side", "--force-conflicts", "-f", "-"], generated).await?;
        self.await_edit_in_annotation().await?;
        self.acknowledged().await?;
        ensure!(self.consumer.view().count("v1", "ConfigMap") == 0, "an upgrade undid the edit");
        Ok(())
    }

    /// Checks that the condition says what is wrong with a broken default, and that the last good default stays in force.
    async fn ensure_broken_default_is_reported(&self) -> Result<()> {
        self.annotate("blacklist: ['po ds']").await?;
        let message = self.system.await_reason("Resolved", "False", "InvalidClusterDefault").await?;
        ensure!(message.contains(ANNOTATION) && message.contains("po ds"), "{message}");
        ensure!(self.consumer.view().count("v1", "ConfigMap") == 0, "a broken edit replaced the good default");
        // A default that selects nothing is broken, too.
        self.annotate("blacklist: ['*']").await?;
        await_condition("the condition reports a default that selects nothing", DEADLINE, async || {
            let message = self.system.await_reason("Resolved", "False", "InvalidClusterDefault").await?;
            Ok(message.contains("leaves no type to watch").then_some(()))
        })
        .await
    }

    /// Creates another MeshSync while the default is broken, and checks that it gets the last good default.
    async fn ensure_new_meshsync_gets_the_last_good_default(&self) -> Result<()> {
        self.annotate("blacklist: {").await?;
        let later = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
            "metadata": {"name": "later", "namespace": NAMESPACE}, "spec": {}});
        self.cluster.apply(later.to_string()).await?;
        let given = await_condition("the new MeshSync has a configuration", DEADLINE, async || {
            self.cluster.kubectl(["get", "configmap", "-n", NAMESPACE, "later-agent", "-o", "yaml"]).await.map(Some)
        })
        .await?;
        ensure!(given.contains("leases.coordination.k8s.io") && given.contains("configmaps"), "{given}");
        self.cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, "later"]).await.map(drop)
    }

    async fn ensure_empty_annotation_means_the_built_in_default(&self) -> Result<()> {
        self.annotate("").await?;
        self.system.await_reason("Resolved", "True", "Resolved").await?;
        self.config_maps(true).await?;
        await_equal(self.cluster, &self.consumer, &NOT_WATCHED, DEADLINE).await
    }
}

#[test]
fn default_edited_in_the_downloaded_definition_takes_effect_and_survives_upgrades() -> Result<()> {
    lab::run("crd-way", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let world = World::start(lab, &cluster, &nats).await?;
        let opens = world.watch_opens().await?;
        edit_downloaded_definition(lab, &cluster).await?;
        world.ensure_default_is_in_force(Instant::now(), &opens).await?;
        world.ensure_upgrades_keep_the_edit().await?;
        world.ensure_broken_default_is_reported().await?;
        world.ensure_new_meshsync_gets_the_last_good_default().await?;
        world.ensure_empty_annotation_means_the_built_in_default().await?;
        ensure!(world.watch_opens().await? == opens, "other watches were opened again");
        world.running()
    })
}

/// The rights of an account according to `kubectl auth can-i --list`, one verb a line: resource, URLs, names, verb.
async fn rights(cluster: &Cluster, account: &str) -> Result<BTreeSet<String>> {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
    let groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"];
    let list = ["auth", "can-i", "--list", "--no-headers", "-n", NAMESPACE, &account].into_iter().chain(groups);
    let text = cluster.kubectl(list).await?;
    let verbs = |line: &str| {
        let (rest, verbs) = line.rsplit_once('[').unwrap_or((line, ""));
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        let verbs = verbs.trim_end_matches(']').split_whitespace();
        verbs.map(|verb| format!("{rest} {verb}")).collect::<Vec<_>>()
    };
    Ok(text.lines().flat_map(verbs).collect())
}

#[test]
fn agent_may_only_read_the_selected_types_and_use_its_own_two_objects() -> Result<()> {
    lab::run("agent-rights", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let world = World::start(lab, &cluster, &nats).await?;
        let blacklist = json!(["events", "events.events.k8s.io", "leases.coordination.k8s.io", "secrets"]);
        world.system.patch(&json!({"spec": {"informer_config": {"blacklist": blacklist}}})).await?;
        let types = cluster.kubectl(["api-resources", "--verbs=list,watch", "-o", "name"]).await?;
        let left_out = ["events", "events.events.k8s.io", "leases.coordination.k8s.io", "secrets"];
        let expected: BTreeSet<String> = types
            .lines()
            .filter(|name| !left_out.contains(name))
            .flat_map(|name| ["list", "watch"].map(|verb| format!("{name} [] [] {verb}")))
            .chain([
                format!("configmaps [] [{NAME}-agent] watch"),
                format!("meshsyncs.meshery.layer5.io/status [] [{NAME}] patch"),
            ])
            .collect();
        // The operator did not grant what every account may do.
        let everybody = rights(&cluster, "default").await?;
        let expected: BTreeSet<String> = expected.difference(&everybody).cloned().collect();
        let mut last = BTreeSet::new();
        let exact = await_condition("the agent has exactly these rights", DEADLINE, async || {
            last = rights(&cluster, "meshsync-agent").await?.difference(&everybody).cloned().collect();
            Ok((last == expected).then_some(()))
        });
        exact.await.with_context(|| {
            let differing: Vec<_> = last.symmetric_difference(&expected).collect();
            format!("differing: {differing:#?}")
        })?;
        world.running()
    })
}

#[test]
fn unreadable_configuration_changes_nothing() -> Result<()> {
    lab::run("garbage-config", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let world = World::start(lab, &cluster, &nats).await?;
        // The operator would repair the ConfigMap at once.
        world.operator.kill().await?;
        let opens = world.watch_opens().await?;
        let config_map = format!("{NAME}-agent");
        let good = cluster.kubectl(["get", "configmap", "-n", NAMESPACE, &config_map, "-o", "json"]).await?;
        let good: serde_json::Value = serde_json::from_str(&good)?;
        let good: serde_json::Value = serde_json::from_str(good["data"]["config.yaml"].as_str().context("a text")?)?;
        let blacklisting = |entry: &str| {
            let mut config = good.clone();
            config["revision"] = format!("without {entry}").into();
            config["informer_config"]["blacklist"] = json!([entry]);
            config.to_string()
        };
        for (garbage, said) in [
            ("{".to_owned(), "key config.yaml: not a valid agent configuration"),
            (blacklisting("*"), "leaves no type to watch"),
            (blacklisting("po ds"), "blacklist[0]"),
            (r#"{"revision": "r", "informer_config": {}}"#.to_owned(), "missing field `blacklist`"),
        ] {
            let patch = json!({"data": {"config.yaml": garbage}}).to_string();
            cluster.kubectl(["patch", "configmap", "-n", NAMESPACE, &config_map, "--type=merge", "-p", &patch]).await?;
            let mut status = serde_json::Value::Null;
            let reported = await_condition("the agent reports what is wrong", DEADLINE, async || {
                status = world.system.meshsync().await?["status"]["agent"].take();
                Ok(status["message"].as_str().is_some_and(|message| message.contains(said)).then_some(()))
            });
            reported.await.with_context(|| format!("{garbage}: {status:#}"))?;
            ensure!(world.agent.log().contains(said), "nothing in the log about {garbage}");
        }
        let patch = json!({"data": null}).to_string();
        cluster.kubectl(["patch", "configmap", "-n", NAMESPACE, &config_map, "--type=merge", "-p", &patch]).await?;
        cluster.kubectl(["create", "configmap", "-n", "default", "after-the-garbage"]).await?;
        await_equal(&cluster, &world.consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(world.watch_opens().await? == opens, "watches were opened again");
        // The operator returns and repairs the ConfigMap.
        world.operator.start()?;
        world.acknowledged().await?;
        world.running()
    })
}

#[test]
fn agent_reports_status_to_a_definition_of_an_older_release() -> Result<()> {
    lab::run("older-definition", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let world = World::start(lab, &cluster, &nats).await?;
        let text = cluster.kubectl(["get", "crd", CRD, "-o", "json"]).await?;
        let mut definition: Value = serde_json::from_str(&text)?;
        let versions = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let agent = versions.pointer_mut("/properties/status/properties/agent/properties").context("no agent")?;
        agent.as_object_mut().context("no fields")?.remove("deliveryReason").context("not a field any more")?;
        cluster.kubectl_with_input(["replace", "-f", "-"], serde_json::to_vec(&definition)?).await?;
        let patch = r#"{"spec":{"informer_config":{"blacklist":["configmaps"]}}}"#;
        cluster.kubectl(["patch", "meshsync", "-n", NAMESPACE, NAME, "--type=merge", "-p", patch]).await?;
        world.config_maps(false).await?;
        world.acknowledged().await?;
        world.running()
    })
}
