//! How the operator reports wrong input: in a condition, in an event and in its log.

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::Duration;

use anyhow::{Result, ensure};
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::process::Daemon;
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

/// A MeshSync with this spec, for [`Cluster::apply`].
fn meshsync(spec: &Value) -> String {
    json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
        "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec})
    .to_string()
}

/// A cluster with the API and a running operator.
struct World<'a> {
    cluster: &'a Cluster,
    system: System<'a>,
    operator: Daemon,
}

impl World<'_> {
    /// Checks that the API server refuses specs that its schema can judge, with a message that says what would be right.
    async fn ensure_schema_refuses(&self) -> Result<()> {
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
            let refused = self.cluster.apply(meshsync(&spec)).await.err().map(|error| format!("{error:#}"));
            ensure!(refused.as_ref().is_some_and(|refused| refused.contains(said)), "{said}: {refused:?}");
        }
        Ok(())
    }

    /// Refers to a Secret that is missing, then to one without the key, and checks that each is reported and that the
    /// operator uses the Secret once it is complete.
    async fn ensure_missing_secret_is_reported(&self) -> Result<()> {
        let (cluster, system) = (self.cluster, &self.system);
        let credentials = json!({"token": {"name": "t", "key": "token"}});
        let external = json!({"broker": {"external": {"url": "nats://b:4222", "credentials": credentials}}});
        cluster.apply(meshsync(&external)).await?;
        let message = system.await_reason("BrokerAvailable", "False", "SecretNotFound").await?;
        ensure!(message.contains("Secret meshery/t"), "{message}");
        system.await_reported(&self.operator, "SecretNotFound", "Secret meshery/t").await?;
        cluster.kubectl(["create", "secret", "generic", "t", "-n", NAMESPACE, "--from-literal=wrong=x"]).await?;
        await_condition("the condition names the missing key", DEADLINE, async || {
            let message = system.await_reason("BrokerAvailable", "False", "SecretNotFound").await?;
            Ok(message.contains("key `token`").then_some(()))
        })
        .await?;
        cluster.kubectl(["delete", "secret", "t", "-n", NAMESPACE]).await?;
        cluster.kubectl(["create", "secret", "generic", "t", "-n", NAMESPACE, "--from-literal=token=x"]).await?;
        system.await_reason("BrokerAvailable", "Unknown", "NotReported").await.map(drop)
    }

    /// Reports in the agent's place that the broker is unreachable, and checks that the operator passes it on.
    async fn ensure_unreachable_broker_is_reported(&self) -> Result<()> {
        let broker = json!({"url": "nats://b:4222", "connected": false});
        let agent = json!({"status": {"agent": {"appliedRevision": "r", "phase": "Degraded", "pod": "p", "version": "v",
            "broker": broker, "types": 1, "pendingTypes": 2, "objects": 3, "outbox": 4, "tooLarge": 5}}});
        let patch = ["patch", "meshsync", "-n", NAMESPACE, NAME, "--subresource=status", "--type=merge", "-p"];
        self.cluster.kubectl(patch.into_iter().chain([agent.to_string().as_str()])).await?;
        self.system.await_reported(&self.operator, "Unreachable", "the agent cannot connect to nats://b:4222").await
    }

    /// Creates a MeshSync whose first configuration is invalid, and checks that its condition says that nothing runs.
    async fn ensure_invalid_first_configuration_is_reported(&self) -> Result<()> {
        self.cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, NAME]).await?;
        self.cluster.apply(meshsync(&json!({"informer_config": {"blacklist": ["po ds"]}}))).await?;
        let message = self.system.await_reason("Resolved", "False", "InvalidTypePattern").await?;
        let said = ["blacklist[0]", "po ds", "nothing runs"];
        ensure!(said.iter().all(|said| message.contains(said)), "{message}");
        self.system.await_reported(&self.operator, "InvalidTypePattern", "po ds").await
    }

    /// Checks that a message of more bytes than an event's note may have still becomes an event: cut after 1,024
    /// characters, it would still be too long.
    async fn ensure_long_message_is_reported(&self) -> Result<()> {
        let long: Vec<String> = (0..6).map(|number| format!("{} {number}", "ä".repeat(120))).collect();
        self.system.patch(&json!({"spec": {"informer_config": {"blacklist": long}}})).await?;
        self.system.await_reported(&self.operator, "InvalidTypePattern", "äää").await
    }

    async fn ensure_unknown_type_is_reported(&self) -> Result<()> {
        self.system.patch(&json!({"spec": {"informer_config": {"blacklist": ["pod", "podz"]}}})).await?;
        let message = self.system.await_reason("Resolved", "True", "UnknownType").await?;
        ensure!(message.contains("podz") && message.contains("did you mean"), "{message}");
        self.system.await_reported(&self.operator, "UnknownType", "podz").await
    }

    /// Checks that each of the three causes of the same reason, an empty selection, is reported.
    async fn ensure_each_empty_selection_is_reported(&self) -> Result<()> {
        let system = &self.system;
        for (blacklist, whitelist) in
            [(json!(["*"]), json!([])), (json!([]), json!(["podz"])), (json!(["pods"]), json!(["pods"]))]
        {
            let patch = json!({"spec": {"informer_config": {"blacklist": blacklist, "whitelist": whitelist}}});
            system.patch(&patch).await?;
            let generation = system.meshsync().await?["metadata"]["generation"].take();
            await_condition("the operator has reconciled the edit", DEADLINE, async || {
                Ok((system.meshsync().await?["status"]["observedGeneration"] == generation).then_some(()))
            })
            .await?;
            let message = system.await_reason("Resolved", "False", "NothingSelected").await?;
            ensure!(message.contains("last good configuration stays in force"), "{message}");
            system.await_reported(&self.operator, "NothingSelected", &message).await?;
        }
        Ok(())
    }

    fn ensure_unknown_type_is_logged_once(&self) -> Result<()> {
        let log = self.operator.log();
        let lines = log.lines().filter(|line| line.contains("podz") && line.contains("UnknownType")).count();
        ensure!(lines == 1, "{lines} lines about one finding:\n{log}");
        Ok(())
    }
}

#[test]
fn wrong_input_is_reported_in_condition_event_and_log() -> Result<()> {
    lab::run("operator-wrong-input", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let (system, operator) = (System::of(&cluster), lab.operator_process(&cluster).await?);
        system.install_definition().await?;
        operator.start()?;
        let world = World { cluster: &cluster, system, operator };
        world.ensure_schema_refuses().await?;
        world.ensure_missing_secret_is_reported().await?;
        world.ensure_unreachable_broker_is_reported().await?;
        world.ensure_invalid_first_configuration_is_reported().await?;
        world.ensure_long_message_is_reported().await?;
        world.ensure_unknown_type_is_reported().await?;
        world.ensure_each_empty_selection_is_reported().await?;
        world.ensure_unknown_type_is_logged_once()?;
        world.operator.ensure_running()
    })
}
