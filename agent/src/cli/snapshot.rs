//! `snapshot`: every object once, with a kubeconfig alone.

mod read;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use meshsync_crds::agent_config::{SecretPolicy, SnapshotMode};
use meshsync_crds::informer_config::{EffectiveInformerConfig, NamespaceSelection, built_in_blacklist_beside};
use meshsync_crds::selection::{Field, Problem, select};
use meshsync_runtime::client::{ClientArgs, Connected, Retry, chain, connect};
use meshsync_runtime::discovery::{Discovered, discover};

use self::read::read_all;
use crate::BUILD;
use crate::dump::{self, NewFile};
use crate::plan::WatchSpec;
use crate::snapshot::Store;

/// Exit code when what could be read was written, but not all could be read.
const INCOMPLETE: i32 = 3;
/// Words that kubectl takes after `-o`.
const KUBECTL_FORMATS: [&str; 5] = ["yaml", "json", "ndjson", "wide", "name"];

/// What to write, and where.
#[derive(Args, Debug)]
pub(super) struct SnapshotArgs {
    /// File to write, or - for standard output. It is replaced once all is written
    #[arg(short, long, value_name = "FILE", default_value = "-", value_parser = output_file)]
    output: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Only these types, as one would type them after `kubectl get`; also such as are left out by default
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    include: Vec<String>,
    /// Not these types; "" to leave none out [default: events and leases]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    exclude: Option<Vec<String>>,
    /// Only objects in these namespaces, which must exist; of types that are in no namespace, those that --include names
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',', value_parser = namespace_name)]
    namespace: Vec<String>,
    /// Write the values of Secrets as they are; nobody else may read the file then (mode 0600)
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
        // First: nobody should wait for a whole cluster to learn of a typing error in a path.
        if !self.is_stdout() {
            NewFile::check(&self.output).with_context(|| self.cannot_write())?;
        }
        let Connected { client, server } = connect(client, &BUILD, Retry::Briefly).await?;
        let discovered = discover(&client).await.with_context(|| format!("cannot ask {server} what it serves"))?;
        let plan = self.plan(&discovered)?;
        check_namespaces(&client, &self.namespace).await?;
        let store = Store::new();
        let gaps = read_all(&client, &store, plan).await;
        let objects = match self.write(&store) {
            Ok(objects) => objects,
            // The reader had enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.is_stdout() => return Ok(()),
            Err(error) => return Err(error).with_context(|| self.cannot_write()),
        };
        // Who closed standard error does not want to know.
        let _ = writeln!(io::stderr().lock(), "{gaps}{objects} objects written, {}", gaps.summary());
        if !gaps.is_none() {
            std::process::exit(INCOMPLETE);
        }
        Ok(())
    }

    fn is_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    fn cannot_write(&self) -> String {
        match self.is_stdout() {
            true => "cannot write to standard output".to_owned(),
            false => format!("cannot write to {}; check --output", self.output.display()),
        }
    }

    /// Writes all objects; gives their number.
    fn write(&self, store: &Store) -> io::Result<usize> {
        let write = |mut out: &mut dyn Write| match self.format {
            Format::Ndjson => dump::write_ndjson(store, &mut out),
            Format::Yaml => dump::write_yaml(store, &mut out),
        };
        if self.is_stdout() {
            return write(&mut BufWriter::new(io::stdout().lock()));
        }
        let mut file = NewFile::create(&self.output, self.show_secrets)?;
        let count = write(&mut file)?;
        file.finish()?;
        Ok(count)
    }

    fn plan(&self, discovered: &Discovered) -> anyhow::Result<Vec<WatchSpec>> {
        for group in &discovered.failed {
            tracing::warn!(group = group.group, version = group.version, reason = group.reason, "cannot be discovered");
        }
        for entry in &discovered.left_out {
            tracing::warn!(
                name = entry.name(),
                reason = entry.reason,
                "a part of discovery cannot be used; all else holds"
            );
        }
        let config = self.selected();
        let selection = select(&config, &discovered.types);
        // On the command line an unknown type is a typing error, not something that may appear later.
        let problems: Vec<String> =
            selection.problems.iter().filter(|problem| self.is_mine(problem)).map(in_flags).collect();
        if !problems.is_empty() {
            bail!("{}", problems.join("; "));
        }
        let secrets = if self.show_secrets { SecretPolicy::Publish } else { SecretPolicy::Redact };
        let mode = SnapshotMode::Full;
        // As `kubectl get nodes -n shop` does: who names a type that is in no namespace means it.
        let types = selection
            .types
            .into_iter()
            .filter(|selected| selected.served.namespaced || self.namespace.is_empty() || !self.include.is_empty());
        Ok(types.map(|selected| WatchSpec { selected, mode, secrets, namespaces: config.namespaces.clone() }).collect())
    }

    fn selected(&self) -> EffectiveInformerConfig {
        let blacklist = match &self.exclude {
            Some(exclude) => exclude.iter().filter(|entry| !entry.trim().is_empty()).cloned().collect(),
            None => built_in_blacklist_beside(&self.include),
        };
        EffectiveInformerConfig {
            blacklist,
            whitelist: self.include.clone(),
            metadata_only: Vec::new(),
            namespaces: NamespaceSelection { include: self.namespace.clone(), exclude: Vec::new() },
        }
    }

    /// Whether a problem is one of what was written, and not of the default.
    fn is_mine(&self, problem: &Problem) -> bool {
        match problem {
            Problem::BadPattern { field, .. }
            | Problem::NoMatch { field, .. }
            | Problem::NotWatchable { field, .. } => *field != Field::Blacklist || self.exclude.is_some(),
            Problem::NothingSelected { .. } | Problem::NoNamespace | Problem::NarrowedAway { .. } => true,
        }
    }
}

/// A problem in the words of the command line.
fn in_flags(problem: &Problem) -> String {
    let text = problem.to_string();
    text.replace("informer_config.whitelist", "--include").replace("informer_config.blacklist", "--exclude")
}

/// The output. After `-o`, kubectl takes a format: a file of that name is most likely not meant.
fn output_file(text: &str) -> Result<PathBuf, String> {
    if KUBECTL_FORMATS.contains(&text) {
        return Err(format!(
            "-o takes a file here; for the format say --format yaml or --format ndjson, and for a file of that name ./{text}"
        ));
    }
    Ok(PathBuf::from(text))
}

fn namespace_name(text: &str) -> Result<String, String> {
    let is_label = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    match is_label {
        true => Ok(text.to_owned()),
        false => Err("a namespace is named in lower case letters, digits and `-`".to_owned()),
    }
}

/// A namespace that does not exist holds nothing, but nobody asks for that.
async fn check_namespaces(client: &Client, names: &[String]) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut missing = Vec::new();
    for name in names {
        match namespaces.get_opt(name).await {
            Ok(Some(_)) => {}
            Ok(None) => missing.push(format!("`{name}`")),
            // Who may not look at namespaces may well read what is in them.
            Err(error) => tracing::debug!(namespace = name, error = chain(&error), "cannot look at the namespace"),
        }
    }
    if !missing.is_empty() {
        bail!("there is no namespace {}; check --namespace", missing.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
