//! `snapshot`: every object once, with a kubeconfig alone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use futures::{StreamExt, stream};
use kube::Client;
use meshsync_crds::agent_config::{SecretPolicy, SnapshotMode};
use meshsync_crds::informer_config::{EffectiveInformerConfig, InformerConfig, NamespaceSelection};
use meshsync_crds::selection::select;
use meshsync_runtime::client::{ClientArgs, Connected, Retry, connect};
use meshsync_runtime::discovery::{Discovered, discover};

use super::{BUILD, progress};
use crate::dump;
use crate::publish::queue::Queue;
use crate::snapshot::Store;
use crate::watch::{Board, RequestError, WatchSpec, list_once};

/// Types that are listed at the same time.
const CONCURRENCY: usize = 4;
/// Exit code when everything was written but some types could not be read.
const INCOMPLETE: i32 = 3;

/// What to write, and where.
#[derive(Args, Debug)]
pub(super) struct SnapshotArgs {
    /// File to write, or - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Only these types, as one would type them after `kubectl get`
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    include: Vec<String>,
    /// Not these types [default: events and leases]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    exclude: Option<Vec<String>>,
    /// Only these namespaces
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Write the values of Secrets as they are
    #[arg(long)]
    show_secrets: bool,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line.
    Ndjson,
    /// YAML documents separated by `---`.
    Yaml,
}

impl SnapshotArgs {
    /// Writes the snapshot.
    ///
    /// # Errors
    /// When nothing can be read, the selection is wrong, or the output cannot be written.
    pub(super) async fn execute(self, client: &ClientArgs) -> anyhow::Result<()> {
        // Opened first: nobody should wait for a whole cluster to learn of a typing error in a path.
        let mut out = self.open()?;
        let Connected { client, server } = connect(client, &BUILD, Retry::Briefly).await?;
        let discovered = discover(&client).await.with_context(|| format!("cannot ask {server} what it serves"))?;
        let plan = self.plan(&discovered)?;
        let store = Store::new();
        let missing = list_all(&client, &store, plan).await;
        let written = match self.format {
            Format::Ndjson => dump::write_ndjson(&store, &mut out),
            Format::Yaml => dump::write_yaml(&store, &mut out),
        };
        let objects = match written {
            Ok(objects) => objects,
            // The reader had enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context(format!("cannot write to {}", self.output.display())),
        };
        let mut err = io::stderr().lock();
        for (name, error) in &missing {
            writeln!(err, "missing: {name}: {error}")?;
        }
        writeln!(err, "{objects} objects written, {} types missing", missing.len())?;
        if !missing.is_empty() {
            std::process::exit(INCOMPLETE);
        }
        Ok(())
    }

    fn open(&self) -> anyhow::Result<Box<dyn Write>> {
        if self.output.as_os_str() == "-" {
            return Ok(Box::new(BufWriter::new(io::stdout())));
        }
        let file = File::create(&self.output)
            .with_context(|| format!("cannot write to {}; check --output", self.output.display()))?;
        Ok(Box::new(BufWriter::new(file)))
    }

    fn plan(&self, discovered: &Discovered) -> anyhow::Result<Vec<WatchSpec>> {
        for group in &discovered.failed {
            tracing::warn!(group = group.group, version = group.version, reason = group.reason, "cannot be discovered");
        }
        let default = InformerConfig::built_in().into_effective().blacklist;
        let config = EffectiveInformerConfig {
            blacklist: self.exclude.clone().unwrap_or(default),
            whitelist: self.include.clone(),
            metadata_only: Vec::new(),
            namespaces: NamespaceSelection { include: self.namespace.clone(), exclude: Vec::new() },
        };
        let selection = select(&config, &discovered.types);
        // On the command line an unknown type is a typing error, not something that may appear later.
        if !selection.is_valid()
            || (!selection.problems.is_empty() && self.exclude.is_some() | !self.include.is_empty())
        {
            let problems: Vec<String> = selection
                .problems
                .iter()
                .map(|problem| {
                    let text = problem.to_string();
                    text.replace("informer_config.whitelist", "--include")
                        .replace("informer_config.blacklist", "--exclude")
                })
                .collect();
            bail!("{}", problems.join("; "));
        }
        let secrets = if self.show_secrets { SecretPolicy::Publish } else { SecretPolicy::Redact };
        let mode = SnapshotMode::Full;
        let spec = |selected| WatchSpec { selected, mode, secrets, namespaces: config.namespaces.clone() };
        Ok(selection.types.into_iter().map(spec).collect())
    }
}

/// Lists every type; gives those that could not be read.
async fn list_all(client: &Client, store: &Arc<Store>, plan: Vec<WatchSpec>) -> Vec<(String, RequestError)> {
    let queue = Arc::new(Queue::default());
    let board = Arc::new(Board::default());
    let bar = progress(plan.len());
    let mut missing: Vec<(String, RequestError)> = stream::iter(plan)
        .map(|spec| {
            let (queue, board, bar) = (queue.clone(), board.clone(), bar.clone());
            async move {
                let name = spec.selected.served.name();
                bar.set_message(name.clone());
                let listed = list_once(client, &spec, store, &queue, &board).await;
                bar.inc(1);
                listed.err().map(|error| (name, error))
            }
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await;
    bar.finish_and_clear();
    missing.sort_by(|a, b| a.0.cmp(&b.0));
    missing
}
