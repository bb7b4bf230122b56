//! `verify`: is what the broker holds the cluster?

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use meshsync_crds::agent_config::AgentConfig;
use meshsync_crds::names::CLUSTER_ID_NAMESPACE;
use meshsync_runtime::client::{ClientArgs, Connected, Retry, connect};
use meshsync_runtime::discovery::discover;
use serde_json::json;

use super::broker::BrokerArgs;
use super::narrow::NarrowArgs;
use super::source::SourceArgs;
use super::{BUILD, progress};
use crate::config::read_once;
use crate::stream::{Subjects, open};
use crate::verify::{Difference, Found, State, compare, strangers};
use crate::watch::WatchSpec;

/// How long the configuration may take to be read.
const CONFIG_WITHIN: Duration = Duration::from_secs(10);
/// Exit code when something differs.
const DIFFERS: i32 = 1;
/// Exit code when nothing differs of what could be read, which is not all.
const INCOMPLETE: i32 = 3;

/// What to compare.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    narrow: NarrowArgs,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Seconds after which what differs is looked at again: it may have been changing
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    settle: u64,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line for each object that differs, and one at the end.
    Text,
    /// One JSON document.
    Json,
}

impl VerifyArgs {
    /// Compares; ends the process with exit code 1 if anything differs, 3 if not all could be compared.
    ///
    /// # Errors
    /// When one of the sides cannot be read.
    pub(super) async fn execute(self, client: &ClientArgs) -> anyhow::Result<()> {
        let Connected { client, server } = connect(client, &BUILD, Retry::Briefly).await?;
        let discovered = discover(&client).await.with_context(|| format!("cannot ask {server} what it serves"))?;
        let (source, narrowing) = (self.narrow.source(&self.source), self.narrow.narrowing());
        let config = read_once(source, &narrowing, client.clone(), CONFIG_WITHIN).await;
        let config = config.map_err(anyhow::Error::msg)?;
        let selection = narrowing.select(&config.informer_config, &discovered.types);
        if !selection.is_valid() {
            let problems: Vec<String> = selection.problems.iter().map(ToString::to_string).collect();
            bail!("the configuration selects nothing that can be compared: {}", problems.join("; "));
        }
        let plan: Vec<WatchSpec> =
            selection.types.into_iter().map(|selected| WatchSpec::new(selected, &config)).collect();

        let subjects = Subjects::new(&cluster_id(&client, &config).await?);
        let nats = self.broker.connect().await?;
        let stream = open(&nats, &subjects).await.context("the broker does not hold the cluster's state")?;
        let state = State { stream: &stream, subjects: &subjects };

        let Look { objects, mut differences, only } = look(&client, &plan, state).await?;
        differences.extend(strangers(state, &plan).await?);
        if !differences.is_empty() && self.settle > 0 {
            tokio::time::sleep(Duration::from_secs(self.settle)).await;
            let types: BTreeSet<&str> = differences.iter().map(|difference| difference.r#type.as_str()).collect();
            let again: Vec<WatchSpec> =
                plan.iter().filter(|spec| types.contains(spec.selected.served.name().as_str())).cloned().collect();
            let mut still = look(&client, &again, state).await?.differences;
            still.retain(|difference| differences.contains(difference));
            // Types that are not watched were not looked at again: nobody changes them.
            let unwatched =
                |difference: &&Difference| !plan.iter().any(|spec| spec.selected.served.name() == difference.r#type);
            still.extend(differences.iter().filter(unwatched).cloned());
            differences = still;
        }
        self.report(plan.len(), objects, &differences)?;
        // What the configuration leaves out anyway is not missing.
        let is_partial = config.informer_config.namespaces.include.is_empty() && !only.is_empty();
        if is_partial {
            let types: Vec<&str> = only.iter().map(String::as_str).collect();
            let _ = writeln!(
                io::stderr().lock(),
                "compared in namespace {} only, since listing all namespaces is forbidden: {}",
                client.default_namespace(),
                types.join(", ")
            );
        }
        if !differences.is_empty() {
            std::process::exit(DIFFERS);
        }
        if is_partial {
            std::process::exit(INCOMPLETE);
        }
        Ok(())
    }

    fn report(&self, types: usize, objects: usize, differences: &BTreeSet<Difference>) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let written = match self.output {
            Format::Json => {
                writeln!(out, "{}", json!({"types": types, "objects": objects, "differences": differences}))
            }
            Format::Text => {
                let lines = differences.iter().try_for_each(|difference| writeln!(out, "{difference}"));
                lines.and_then(|()| match differences.len() {
                    0 => writeln!(out, "{types} types, {objects} objects: the broker holds the cluster"),
                    count => writeln!(out, "{types} types, {objects} objects, {count} differ"),
                })
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to standard output"),
        }
    }
}

/// What was found about all types.
#[derive(Default)]
struct Look {
    objects: usize,
    differences: BTreeSet<Difference>,
    /// Types that were not compared in all namespaces.
    only: BTreeSet<String>,
}

/// Compares all types of `plan`.
async fn look(client: &Client, plan: &[WatchSpec], state: State<'_>) -> anyhow::Result<Look> {
    let bar = progress(plan.len());
    let mut all = Look::default();
    for spec in plan {
        let name = spec.selected.served.name();
        bar.set_message(name.clone());
        let found = compare(client, spec, state).await;
        let Found { objects, differences, only } = found.with_context(|| format!("cannot compare {name}"))?;
        all.objects += objects;
        all.differences.extend(differences);
        all.only.extend(only.map(|_| name));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(all)
}

async fn cluster_id(client: &Client, config: &Arc<AgentConfig>) -> anyhow::Result<String> {
    if let Some(id) = &config.cluster_id {
        return Ok(id.clone());
    }
    let namespace = Api::<Namespace>::all(client.clone()).get(CLUSTER_ID_NAMESPACE).await;
    let namespace = namespace.with_context(|| {
        format!(
            "cannot read the namespace {CLUSTER_ID_NAMESPACE}, whose uid is the cluster's id; an account without that right \
             needs a configuration that tells it: `clusterId`, with --config or --config-map"
        )
    })?;
    namespace.metadata.uid.with_context(|| format!("the namespace {CLUSTER_ID_NAMESPACE} has no uid"))
}
