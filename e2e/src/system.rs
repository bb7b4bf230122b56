//! The whole system in a cluster, installed as the README describes: generated definition, manifest, sample.

#![allow(clippy::indexing_slicing, reason = "a missing field of a JSON value reads as null")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::await_condition;
use crate::binaries::binary;
use crate::cluster::Cluster;
use crate::image::Image;
use crate::metrics::Metrics;
use crate::nats::delete_streams;
use crate::process::Daemon;
use crate::progress;
use crate::stream::Consumer;

/// Kinds of all children of a MeshSync, for `kubectl get`.
const CHILD_KINDS: &str = "all,secrets,configmaps,persistentvolumeclaims,serviceaccounts,roles,rolebindings,\
    networkpolicies,clusterroles,clusterrolebindings,flowschemas";
/// Namespace of operator, agent and broker, as the manifest and the samples have it.
pub const NAMESPACE: &str = "meshery";
/// Name of the MeshSync of the sample.
pub const NAME: &str = "meshsync";
/// Longest time for anything that needs pods to start.
const DEADLINE: Duration = Duration::from_secs(120);

/// A file below `deploy/`.
#[must_use]
pub fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// Operator, agent and broker in a cluster with a node.
pub struct System<'a> {
    cluster: &'a Cluster,
}

impl<'a> System<'a> {
    /// Loads the images that the manifest names, and installs the API and the operator.
    ///
    /// # Errors
    /// The first command that fails, or an operator that does not become ready.
    pub async fn install(cluster: &'a Cluster) -> Result<Self> {
        let manifest = std::fs::read_to_string(deploy("manifests/operator.yaml")).context("read the manifest")?;
        for image in images(&manifest)? {
            progress::say(format!("loading {}", image.reference()));
            cluster.load(&image).await?;
        }
        progress::say("installing the API: meshsync-operator crd generate | kubectl apply -f -");
        Self::of(cluster).install_definition().await?;
        progress::say("installing the operator: kubectl apply -f deploy/manifests/operator.yaml");
        cluster.apply(manifest).await?;
        let system = Self::of(cluster);
        let rollout = ["rollout", "status", "-n", NAMESPACE, "deployment/meshsync-operator", "--timeout=120s"];
        cluster.kubectl(rollout).await?;
        Ok(system)
    }

    /// The system in `cluster`, before or after its installation.
    #[must_use]
    pub const fn of(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// Installs the API, and waits until it is served.
    ///
    /// # Errors
    /// When kubectl refuses it.
    pub async fn install_definition(&self) -> Result<()> {
        self.cluster.apply(generated_definitions()?).await?;
        let crd = "crd/meshsyncs.meshery.layer5.io";
        // `kubectl wait` fails at once if the definition has no conditions yet.
        await_condition("the definition is established", DEADLINE, async || {
            self.cluster.kubectl(["wait", "--for=condition=Established", crd, "--timeout=10s"]).await.map(Some)
        })
        .await
        .map(drop)
    }

    /// Applies a sample and waits until its MeshSync is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message holds its conditions.
    pub async fn apply_sample(&self, sample: &str) -> Result<()> {
        progress::say(format!("applying deploy/samples/{sample}"));
        self.cluster.apply(std::fs::read(deploy("samples").join(sample))?).await?;
        self.await_ready().await
    }

    /// Waits until the MeshSync is ready.
    ///
    /// # Errors
    /// When it is not ready in time; the message contains its conditions.
    pub async fn await_ready(&self) -> Result<()> {
        let mut last = Value::Null;
        let ready = await_condition("the MeshSync is Ready", DEADLINE, async || {
            last = self.meshsync().await?["status"]["conditions"].take();
            let conditions = last.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(()))
        });
        ready.await.with_context(|| format!("conditions: {last:#}"))
    }

    /// Waits until a condition of the MeshSync has this status and reason, and returns its message.
    ///
    /// # Errors
    /// When it does not in time; the message contains all conditions.
    pub async fn await_reason(&self, type_: &str, status: &str, reason: &str) -> Result<String> {
        let mut last = Value::Null;
        let what = format!("condition {type_} is {status} with reason {reason}");
        let message = await_condition(&what, DEADLINE, async || {
            last = self.meshsync().await?["status"]["conditions"].take();
            let found = last.as_array().into_iter().flatten().find(|condition| condition["type"] == type_);
            let found = found.filter(|condition| condition["status"] == status && condition["reason"] == reason);
            Ok(found.map(|condition| condition["message"].as_str().unwrap_or_default().to_owned()))
        });
        message.await.with_context(|| format!("conditions: {last:#}"))
    }

    /// Waits until an event with this reason and a warning in the operator's log hold `text`.
    ///
    /// # Errors
    /// When they do not in time; the message holds all events.
    pub async fn await_reported(&self, operator: &Daemon, reason: &str, text: &str) -> Result<()> {
        let mut events = Vec::new();
        let reported = await_condition("an event and the operator's log report it", DEADLINE, async || {
            events = self.events().await?;
            let is_event = events.iter().any(|event| event.starts_with(reason) && event.contains(text));
            let is_line = |line: &str| line.contains("WARN") && line.contains(reason) && line.contains(text);
            Ok((is_event && operator.log().lines().any(is_line)).then_some(()))
        });
        reported.await.with_context(|| format!("{reason}, {text}: not in the log, or not in the events {events:#?}"))
    }

    /// `reason: note` of every event in [`NAMESPACE`].
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn events(&self) -> Result<Vec<String>> {
        let template = "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}";
        let text = self.cluster.kubectl(["get", "events", "-n", NAMESPACE, "-o", template]).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The MeshSync.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn meshsync(&self) -> Result<Value> {
        let text = self.cluster.kubectl(["get", "meshsync", NAME, "-n", NAMESPACE, "-o", "json"]).await?;
        serde_json::from_str(&text).context("kubectl get meshsync -o json")
    }

    /// Changes the MeshSync with a merge patch.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn patch(&self, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", "meshsync", NAME, "-n", NAMESPACE, "--type=merge", "-p", &patch];
        self.cluster.kubectl(arguments).await.map(drop)
    }

    /// A connection to the managed broker, with the token that the operator made.
    ///
    /// # Errors
    /// When the Secret or the Service is missing, or the broker refuses the token.
    pub async fn broker(&self) -> Result<async_nats::Client> {
        let name = format!("{NAME}-broker");
        let token = ["get", "secret", &name, "-n", NAMESPACE, "-o", "go-template={{.data.token | base64decode}}"];
        let token = self.cluster.kubectl(token).await?;
        let address = ["get", "service", &name, "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"];
        let address = self.cluster.kubectl(address).await?;
        let connect = async || {
            let options = async_nats::ConnectOptions::with_token(token.clone());
            Ok(Some(options.connect(format!("{address}:4222")).await?))
        };
        await_condition("the broker's Service answers", DEADLINE, connect).await
    }

    /// Deletes all streams of the managed broker, as if nothing had been published yet.
    ///
    /// # Errors
    /// When the broker cannot be reached, or refuses.
    pub async fn forget_streams(&self) -> Result<()> {
        delete_streams(&self.broker().await?).await
    }

    /// A consumer that asks for everything the agent holds and follows from there, as a Meshery Server does.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn consumer(&self, needle: Option<&str>) -> Result<Consumer> {
        let client = self.broker().await?;
        let consumer = Consumer::subscribe(client.clone(), needle).await?;
        let resync = r#"{"ObjectType":"request-payload","EventType":"","Request":{"Entity":"resync-discovery","Payload":""},"Object":null}"#;
        client.publish("meshery.meshsync.request", resync.into()).await?;
        client.flush().await?;
        Ok(consumer)
    }

    /// Deletes the MeshSync and waits until nothing that belonged to it is left.
    ///
    /// # Errors
    /// When something is left after `deadline`.
    pub async fn ensure_deletion_leaves_nothing(&self, deadline: Duration) -> Result<()> {
        self.cluster.kubectl(["delete", "meshsync", "-n", NAMESPACE, NAME]).await?;
        await_condition("nothing is left", deadline, async || {
            let label = "meshery.layer5.io/meshsync-uid";
            let left = self.cluster.kubectl(["get", CHILD_KINDS, "-A", "-l", label, "-o", "name"]).await?;
            Ok(left.trim().is_empty().then_some(()))
        })
        .await
    }

    /// The agent's pod.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub async fn agent_pod(&self) -> Result<Value> {
        let selector = format!("app.kubernetes.io/component=agent,app.kubernetes.io/instance={NAME}");
        let text = self.cluster.kubectl(["get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "json"]).await?;
        let mut list: Value = serde_json::from_str(&text)?;
        let pods = list["items"].as_array().map(Vec::len).unwrap_or_default();
        ensure!(pods == 1, "there are {pods} agent pods");
        Ok(list["items"][0].take())
    }

    /// The agent's metrics.
    ///
    /// # Errors
    /// When the pod cannot be reached.
    pub async fn agent_metrics(&self) -> Result<Metrics> {
        let pod = self.agent_pod().await?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:11000/proxy/metrics");
        self.cluster.kubectl(["get", "--raw", &path]).await.map(Metrics)
    }
}

/// Our binaries and nats-server, under the references that the manifest has.
fn images(manifest: &str) -> Result<Vec<Image>> {
    let reference = |part: &str| {
        manifest
            .split(['"', ' ', '\n'])
            .find(|word| word.contains(part) && word.contains(':'))
            .with_context(|| format!("the manifest names no image with {part}"))
    };
    Ok(vec![
        Image::new(reference("/meshsync-operator:")?, binary("meshsync-operator")?),
        Image::new(reference("/meshsync-agent:")?, binary("meshsync-agent")?),
        Image::nats(reference("nats:")?)?,
    ])
}

fn generated_definitions() -> Result<Vec<u8>> {
    let output = Command::new(binary("meshsync-operator")?).args(["crd", "generate"]).output()?;
    ensure!(output.status.success(), "crd generate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
