//! What the broker holds, compared and read from the command line.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::{Cluster, Level};
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab;
use meshsync_e2e::nats::Nats;
use meshsync_e2e::stream::Consumer;

const DEADLINE: Duration = Duration::from_secs(60);

fn agent(cluster: &Cluster, nats: &Nats, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("meshsync-agent")?);
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("BROKER_URL", nats.url());
    command.output().context("run the agent")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn verify_names_what_the_broker_does_not_hold() -> Result<()> {
    lab::run("verify", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        let nats = lab.nats().jetstream().start().await?;
        cluster.kubectl(["create", "namespace", "shop"]).await?;
        for name in ["stays", "changes", "goes"] {
            cluster.kubectl(["create", "configmap", "-n", "shop", name, "--from-literal=a=1"]).await?;
        }
        let absent = agent(&cluster, &nats, &["verify"])?;
        ensure!(absent.status.code() == Some(1), "{absent:?}");
        ensure!(text(&absent.stderr).contains("does not hold the cluster's state"), "{}", text(&absent.stderr));

        let stored = Consumer::stored(nats.client().await?, None).await?;
        let daemon =
            lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig()).env("BROKER_URL", nats.url());
        daemon.start()?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;
        let same = agent(&cluster, &nats, &["verify"])?;
        ensure!(same.status.success(), "{}{}", text(&same.stdout), text(&same.stderr));
        ensure!(text(&same.stdout).contains("the broker holds the cluster"), "{}", text(&same.stdout));

        daemon.stop(Duration::from_secs(20)).await?;
        cluster.kubectl(["delete", "configmap", "-n", "shop", "goes"]).await?;
        cluster.kubectl(["create", "configmap", "-n", "shop", "comes", "--from-literal=a=1"]).await?;
        cluster.kubectl(["patch", "configmap", "-n", "shop", "changes", "-p", r#"{"data":{"a":"2"}}"#]).await?;
        let other = agent(&cluster, &nats, &["verify", "--settle", "1"])?;
        ensure!(other.status.code() == Some(1), "{other:?}");
        let shop: Vec<String> =
            text(&other.stdout).lines().filter(|line| line.contains("shop/")).map(str::to_owned).collect();
        let expected = [
            "missing    configmaps shop/comes",
            "extra      configmaps shop/goes",
            "different  configmaps shop/changes",
        ];
        ensure!(shop == expected, "{}", text(&other.stdout));

        // What is not to be watched is not to be there.
        let config = lab.dir().join("agent.yaml");
        let informer_config = "{blacklist: [configmaps], whitelist: [], metadataOnly: [], namespaces: {}}";
        std::fs::write(&config, format!("revision: ''\ninformer_config: {informer_config}\n"))?;
        let path = config.to_str().context("a path in UTF-8")?;
        let narrower = agent(&cluster, &nats, &["verify", "--settle", "0", "--config", path, "-o", "json"])?;
        let report: serde_json::Value =
            serde_json::from_slice(&narrower.stdout).with_context(|| text(&narrower.stderr))?;
        let extra = report.get("differences").and_then(serde_json::Value::as_array).context("no differences")?;
        ensure!(extra.iter().any(|one| one.get("name") == Some(&"shop/stays".into())), "{report:#}");

        // The whole state, readably.
        let count = stored.view().len().to_string();
        let all = agent(&cluster, &nats, &["tail", "--all", "--count", &count])?;
        ensure!(
            text(&all.stdout).lines().any(|line| line.contains("v1 ConfigMap shop/stays")),
            "{}",
            text(&all.stdout)
        );
        // As kubectl names the type.
        for name in ["cm", "configmaps", "ConfigMap", "configmaps.v1."] {
            let one = agent(&cluster, &nats, &["tail", "--all", "--type", name, "--count", "1"])?;
            ensure!(text(&one.stdout).contains(" v1 ConfigMap "), "{name}: {}", text(&one.stdout));
        }

        nats.stop().await?;
        let nobody = agent(&cluster, &nats, &["verify"])?;
        ensure!(nobody.status.code() == Some(1), "{nobody:?}");
        ensure!(text(&nobody.stderr).contains("--broker-url"), "{}", text(&nobody.stderr));
        Ok(())
    })
}
