//! A broker that an agent cannot use: operator and agent report its URL and the reason.

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::time::Duration;

use anyhow::{Result, ensure};
use meshsync_e2e::cluster::Level;
use meshsync_e2e::system::{NAME, NAMESPACE, System};
use meshsync_e2e::{await_condition, lab};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const NOWHERE: &str = "nats://no-such-host.invalid:4222";

#[test]
fn unusable_external_broker_is_reported_with_url_and_reason() -> Result<()> {
    lab::run("broker-url", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().token("right").start().await?;
        let system = System::of(&cluster);
        let operator = lab.operator_process(&cluster).await?;
        system.install_definition().await?;
        operator.start()?;
        let meshsync = json!({"apiVersion": "meshery.layer5.io/v1alpha1", "kind": "MeshSync",
            "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"broker": {"external": {"url": NOWHERE}}}});
        cluster.apply(meshsync.to_string()).await?;
        system.await_reason("BrokerAvailable", "Unknown", "NotReported").await?;

        let agent = async |url: &str| {
            let agent = lab.agent_process(&cluster, &nats).await?.env("BROKER_URL", url).env("NATS_TOKEN", "wr0ng");
            agent.start().map(|()| agent)
        };
        // The first report may precede the first failed attempt.
        let unreachable = async |url: &str, why: &str| {
            await_condition(&format!("{url} is unreachable: {why}"), DEADLINE, async || {
                let message = system.await_reason("BrokerAvailable", "False", "Unreachable").await?;
                Ok((message.contains(url) && message.contains(why)).then_some(()))
            })
            .await
        };
        let first = agent(NOWHERE).await?;
        unreachable(NOWHERE, "DNS error").await?;
        let told = |line: &str| line.contains("WARN") && line.contains(NOWHERE) && line.contains("DNS error");
        ensure!(first.log().lines().filter(|line| told(line)).count() == 1, "{}", first.log());
        ensure!(!first.log().contains("client error"), "the library repeats the reason: {}", first.log());

        // The old agent's report does not apply to the new broker.
        system.patch(&json!({"spec": {"broker": {"external": {"url": nats.url()}}}})).await?;
        let message = system.await_reason("BrokerAvailable", "Unknown", "NotReported").await?;
        ensure!(message.contains(&nats.url()), "{message}");
        first.kill().await?;

        let second = agent(&nats.url()).await?;
        unreachable(&nats.url(), "authorization violation").await?;
        await_condition("the log contains the reason", DEADLINE, async || {
            Ok(second.log().contains("authorization violation").then_some(()))
        })
        .await?;
        ensure!(!second.log().contains("wr0ng"), "the token is shown: {}", second.log());
        operator.ensure_running()
    })
}

#[test]
fn agent_authenticates_with_user_and_password_in_the_url() -> Result<()> {
    lab::run("broker-user", async |lab| {
        let users = json!({"users": [{"user": "us@er", "password": "p:a/ss%w0rd"}]});
        let nats = lab.nats().setting("authorization", users).start().await?;
        let url = nats.url().replace("nats://", "nats://us%40er:p%3Aa%2Fss%25w0rd@");
        let tail = lab.agent()?.args(["tail", "--broker-url"]).arg(url);
        tail.start()?;
        // Without a cluster there are no messages; the broker's monitoring shows its connections.
        await_condition("the broker accepts the agent", DEADLINE, async || {
            tail.ensure_running()?;
            let connections = monitor("connz?auth=true").await?;
            let is_ours =
                |connection: &Value| connection["authorized_user"] == "us@er" && connection["name"] == "meshsync";
            Ok(connections["connections"].as_array().is_some_and(|all| all.iter().any(is_ours)).then_some(()))
        })
        .await?;
        let log = tail.log();
        ensure!(!log.contains("w0rd"), "the password is shown: {log}");
        Ok(())
    })
}

/// A page of the broker's monitoring.
async fn monitor(page: &str) -> Result<Value> {
    let monitor = kube::Client::try_from(kube::Config::new("http://127.0.0.1:8222".parse()?))?;
    let text = monitor.request_text(http::Request::get(format!("/{page}")).body(Vec::new())?).await?;
    Ok(serde_json::from_str(&text)?)
}
