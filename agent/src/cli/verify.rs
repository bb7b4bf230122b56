//! `verify`: is what the broker holds the cluster?

use std::collections::{BTreeMap, BTreeSet};
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
use super::progress::progress;
use super::source::SourceArgs;
use crate::BUILD;
use crate::config::read_once;
use crate::plan::WatchSpec;
use crate::stream::{Subjects, open};
use crate::verify::{Difference, Found, State, VerifyError, compare, strangers};

/// How long the configuration may take to be read.
const CONFIG_WITHIN: Duration = Duration::from_secs(10);
/// Exit code when something differs.
const DIFFERS: i32 = 1;
/// Exit code when nothing differs of what could be read, which is not all; that of `snapshot` for the same.
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

        let mut looked = look(&client, &plan, state).await?;
        if looked.not_compared.len() == plan.len()
            && let Some((name, why)) = looked.not_compared.first_key_value()
        {
            bail!("the API server lists none of {} types; of {name} it says: {why}", plan.len());
        }
        looked.differences.extend(strangers(state, &plan).await?);
        if !looked.differences.is_empty() && self.settle > 0 {
            tokio::time::sleep(Duration::from_secs(self.settle)).await;
            looked.keep_what_still_differs(&client, &plan, state).await?;
        }
        self.report(plan.len(), &looked)?;
        // What the configuration leaves out anyway is not missing.
        let is_partial = config.informer_config.namespaces.include.is_empty() && !looked.only.is_empty();
        if is_partial {
            let types: Vec<&str> = looked.only.iter().map(String::as_str).collect();
            let _ = writeln!(
                io::stderr().lock(),
                "compared in namespace {} only, since listing all namespaces is forbidden: {}",
                client.default_namespace(),
                types.join(", ")
            );
        }
        match looked.exit_code() {
            0 if is_partial => std::process::exit(INCOMPLETE),
            0 => Ok(()),
            code => std::process::exit(code),
        }
    }

    fn report(&self, types: usize, looked: &Looked) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let written = match self.output {
            Format::Json => writeln!(out, "{}", looked.json(types)),
            Format::Text => write!(out, "{}", looked.text(types)),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to standard output"),
        }
    }
}

/// What was found about all types.
#[derive(Debug, Default)]
struct Looked {
    objects: usize,
    differences: BTreeSet<Difference>,
    /// Types that the API server did not list, with its reason: nothing is known about them.
    not_compared: BTreeMap<String, String>,
    /// Types that were not compared in all namespaces.
    only: BTreeSet<String>,
}

impl Looked {
    fn exit_code(&self) -> i32 {
        match () {
            () if !self.differences.is_empty() => DIFFERS,
            () if !self.not_compared.is_empty() => INCOMPLETE,
            () => 0,
        }
    }

    fn json(&self, types: usize) -> serde_json::Value {
        let Self { objects, differences, not_compared, only: _ } = self;
        json!({"types": types, "objects": objects, "differences": differences, "notCompared": not_compared})
    }

    fn text(&self, types: usize) -> String {
        let Self { objects, differences, not_compared, only: _ } = self;
        let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
        lines.extend(not_compared.iter().map(|(name, why)| format!("cannot compare {name}: {why}")));
        let rest = match not_compared.len() {
            0 => String::new(),
            count => format!(", {count} of the types could not be compared"),
        };
        lines.push(match differences.len() {
            0 if rest.is_empty() => format!("{types} types, {objects} objects: the broker holds the cluster"),
            0 => format!("{types} types, {objects} objects, none differs{rest}"),
            count => format!("{types} types, {objects} objects, {count} differ{rest}"),
        });
        lines.push(String::new());
        lines.join("\n")
    }

    /// Looks at the types again of which something differed. Of a type that cannot be read this time, what was found before
    /// stays.
    async fn keep_what_still_differs(
        &mut self,
        client: &Client,
        plan: &[WatchSpec],
        state: State<'_>,
    ) -> anyhow::Result<()> {
        let types: BTreeSet<&str> = self.differences.iter().map(|difference| difference.r#type.as_str()).collect();
        let again: Vec<WatchSpec> =
            plan.iter().filter(|spec| types.contains(spec.selected.served.name().as_str())).cloned().collect();
        let still = look(client, &again, state).await?;
        let looked_at: BTreeSet<String> = again.iter().map(|spec| spec.selected.served.name()).collect();
        // Types that are not watched were not looked at again: nobody changes them.
        self.differences.retain(|difference| {
            let name = &difference.r#type;
            !looked_at.contains(name) || still.not_compared.contains_key(name) || still.differences.contains(difference)
        });
        self.not_compared.extend(still.not_compared);
        Ok(())
    }
}

/// Compares all types of `plan`. One that the API server does not list, for example because the webhook that converts it is
/// dead, is named and does not keep the rest from being compared.
async fn look(client: &Client, plan: &[WatchSpec], state: State<'_>) -> anyhow::Result<Looked> {
    let bar = progress(plan.len());
    let mut looked = Looked::default();
    for spec in plan {
        let name = spec.selected.served.name();
        bar.set_message(name.clone());
        match compare(client, spec, state).await {
            Ok(Found { objects, differences, only }) => {
                looked.objects += objects;
                looked.differences.extend(differences);
                looked.only.extend(only.map(|_| name));
            }
            Err(VerifyError::Cluster(error)) => {
                looked.not_compared.insert(name, error.to_string());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot compare {name}")),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(looked)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Kind;

    fn looked(differs: bool, fails: bool) -> Looked {
        let difference =
            Difference { difference: Kind::Missing, r#type: "pods".to_owned(), name: "shop/web".to_owned() };
        let failing = ("widgets.example.com".to_owned(), "status 500: no webhook".to_owned());
        Looked {
            objects: 7,
            only: BTreeSet::new(),
            differences: differs.then_some(difference).into_iter().collect(),
            not_compared: fails.then_some(failing).into_iter().collect(),
        }
    }

    #[test]
    fn a_type_that_cannot_be_compared_is_named_at_the_end_and_differs_from_a_difference() {
        let outcome = |differs, fails| (looked(differs, fails).exit_code(), looked(differs, fails).text(3));
        assert_eq!(outcome(false, false), (0, "3 types, 7 objects: the broker holds the cluster\n".to_owned()));
        let failing = "cannot compare widgets.example.com: status 500: no webhook\n";
        let said = format!("{failing}3 types, 7 objects, none differs, 1 of the types could not be compared\n");
        assert_eq!(outcome(false, true), (3, said));
        let (code, said) = outcome(true, true);
        assert_eq!(code, 1, "a difference is what is known for sure");
        assert!(said.starts_with(&format!("missing    pods shop/web\n{failing}")), "{said}");
        assert_eq!(looked(false, true).json(3)["notCompared"]["widgets.example.com"], "status 500: no webhook");
    }
}
