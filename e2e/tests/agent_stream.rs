//! What the agent publishes is the cluster.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshsync_e2e::churn::Churn;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::Lab;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::{await_condition, lab};

const SECRET_VALUE: &str = "tr0ub4dor-and-3";
/// The same in base64, as the API carries it.
const SECRET_BASE64: &str = "dHIwdWI0ZG9yLWFuZC0z";
const DEADLINE: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {team: "ünïcode \"quoted\""}}
---
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop}
stringData: {password: tr0ub4dor-and-3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, annotations: {note: "line\nbreak\tand \\ backslash"}}
data: {a: "1", script: "echo \"hi\"\n"}
binaryData: {blob: AAEC}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/web:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;
const WIDGET: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: first, namespace: shop}
spec: {size: 3, huge: 9007199254740993}
"#;

fn agent(lab: &Lab, cluster: &Cluster, nats: &Nats) -> Result<Daemon> {
    Ok(lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url()))
}

#[test]
fn the_stream_holds_every_object_and_follows_every_change() -> Result<()> {
    lab::run("agent-complete", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        let plain = Consumer::subscribe(nats.client().await?, Some(SECRET_VALUE)).await?;
        let consumer = Consumer::subscribe(nats.client().await?, Some(SECRET_BASE64)).await?;
        cluster.apply(OBJECTS).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;

        // A type that appeared after the start is found without anybody telling the agent.
        await_condition("the API server accepts widgets", DEADLINE, async || Ok(cluster.apply(WIDGET).await.ok()))
            .await?;
        cluster.kubectl(["scale", "-n", "shop", "deployment/web", "--replicas=3"]).await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        await_equal(&cluster, &consumer, &NOT_WATCHED, DEADLINE).await?;
        ensure!(consumer.view().count("example.com/v1", "Widget") == 1, "the widget is missing");

        // A type that goes takes its objects along.
        cluster.kubectl(["delete", "crd", "widgets.example.com"]).await?;
        await_condition("the widget leaves", DEADLINE, async || {
            Ok((consumer.view().count("example.com/v1", "Widget") == 0).then_some(()))
        })
        .await?;
        agent.ensure_running()?;
        for (consumer, spelling) in [(&plain, "plain"), (&consumer, "base64")] {
            ensure!(consumer.view().needle_hits == 0, "the secret was published ({spelling})");
        }
        ensure!(!agent.log().contains(SECRET_VALUE) && !agent.log().contains(SECRET_BASE64), "the secret was logged");
        Ok(())
    })
}

/// The delay that NATS clients have by default.
const UNHURRIED: Duration = Duration::from_secs(2);

#[test]
fn it_recovers_alone_from_the_loss_of_broker_api_server_and_itself() -> Result<()> {
    lab::run("agent-recovers", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().start().await?;
        cluster.apply(OBJECTS).await?;
        // One asks when it may have missed something; the other, as Meshery Server does, only listens, and is back later
        // than the agent.
        let asking = Consumer::asking(nats.client().await?, None).await?;
        let listening = Consumer::subscribe(nats.client_reconnecting_after(UNHURRIED).await?, None).await?;
        let agent = agent(lab, &cluster, &nats)?;
        agent.start()?;
        for consumer in [&asking, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }

        let churn = Churn::start(&cluster, "shop").await?;
        churn.go_on(100).await?;
        nats.kill().await?;
        cluster.kubectl(["delete", "-n", "shop", "service/web"]).await?;
        // Short, so that the agent still tries often and is back long before the one who listens.
        churn.go_on(10).await?;
        nats.start().await?;
        churn.go_on(100).await?;
        drop(churn);
        for consumer in [&asking, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }

        let churn = Churn::start(&cluster, "shop").await?;
        churn.go_on(100).await?;
        cluster.component("kube-apiserver")?.kill().await?;
        cluster.restart("kube-apiserver").await?;
        cluster.await_apiserver().await?;
        churn.go_on(100).await?;
        drop(churn);
        for consumer in [&asking, &listening] {
            await_equal(&cluster, consumer, &NOT_WATCHED, DEADLINE).await?;
        }

        let churn = Churn::start(&cluster, "shop").await?;
        churn.go_on(100).await?;
        agent.kill().await?;
        cluster.kubectl(["delete", "-n", "shop", "configmap/settings"]).await?;
        churn.go_on(200).await?;
        agent.start()?;
        churn.go_on(100).await?;
        drop(churn);
        // Who never asks cannot know what went while there was no agent.
        await_equal(&cluster, &asking, &NOT_WATCHED, DEADLINE).await
    })
}
