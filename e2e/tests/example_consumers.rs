//! The examples of `examples/consumers` hold what the cluster holds, and print what changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshsync_e2e::binaries::binary;
use meshsync_e2e::cluster::Level;
use meshsync_e2e::everything::{NOT_WATCHED, await_equal};
use meshsync_e2e::lab::{self, on_host};
use meshsync_e2e::process::Daemon;
use meshsync_e2e::stream::Consumer;
use meshsync_e2e::{Lab, await_condition};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "example-token";

#[test]
fn example_consumers_hold_the_cluster_and_print_changes() -> Result<()> {
    lab::run("example-consumers", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let nats = lab.nats().token(TOKEN).jetstream().start().await?;
        let agent = lab.agent()?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig());
        let agent = agent.env("BROKER_URL", nats.url()).env("NATS_TOKEN", TOKEN);
        agent.start()?;
        let stored = Consumer::stored(nats.client().await?, None).await?;
        await_equal(&cluster, &stored, &NOT_WATCHED, DEADLINE).await?;

        let consumers = consumers(lab)?;
        for consumer in &consumers {
            consumer.start()?;
            let current = format!("current: {} objects", stored.view().len());
            await_line(consumer, &current).await?;
        }
        cluster.kubectl(["create", "configmap", "hello", "--from-literal=a=b"]).await?;
        for consumer in &consumers {
            await_line(consumer, ".core.configmaps.default.hello").await?;
            await_line(consumer, &format!("current: {} objects", stored.view().len())).await?;
        }
        cluster.kubectl(["delete", "configmap", "hello"]).await?;
        for consumer in &consumers {
            await_condition("the deletion is printed", DEADLINE, async || {
                let deleted = |line: &str| line.starts_with("DELETED ") && line.ends_with(".configmaps.default.hello");
                Ok(consumer.log().lines().any(deleted).then_some(()))
            })
            .await?;
        }
        Ok(())
    })
}

/// The consumer in each language, not started.
fn consumers(lab: &Lab) -> Result<[Daemon; 3]> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/consumers");
    let url = "nats://127.0.0.1:4222";
    let consumer =
        |name: &str, program: PathBuf| lab.daemon(name, program).env("NATS_URL", url).env("NATS_TOKEN", TOKEN);
    let go = lab.dir().join("consumer-go");
    on_host(|| build_go(&examples.join("go"), &go))?;
    Ok([
        consumer("consumer-go", go),
        consumer("consumer-python", "python3".into()).arg(examples.join("python/consumer.py")),
        consumer("consumer-rust", binary("meshsync-example-consumer")?),
    ])
}

fn build_go(module: &Path, program: &Path) -> Result<()> {
    let output = Command::new("go").args(["build", "-mod=readonly", "-o"]).arg(program).current_dir(module).output();
    let output = output.context("cannot run go")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn await_line(consumer: &Daemon, text: &str) -> Result<()> {
    await_condition(&format!("{} prints `{text}`", consumer.name()), DEADLINE, async || {
        consumer.ensure_running()?;
        Ok(consumer.log().lines().any(|line| line.contains(text)).then_some(()))
    })
    .await
}
