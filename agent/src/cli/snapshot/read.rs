//! Reads every type, and remembers what could not be read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::Client;

use crate::apiserver::RequestError;
use crate::cli::progress::progress;
use crate::outbox::Outbox;
use crate::plan::WatchSpec;
use crate::snapshot::Store;
use crate::watch::{Board, Reach, list_once};

/// Types that are listed at the same time.
const CONCURRENCY: usize = 4;

/// What a snapshot lacks.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Types that could not be read at all.
    types: BTreeMap<String, String>,
    /// Types and namespaces that could not be read, though others could.
    namespaces: BTreeMap<(String, String), String>,
    /// Types by the one namespace that they could be read in.
    only: BTreeMap<String, Vec<String>>,
}

impl Gaps {
    pub(super) fn is_none(&self) -> bool {
        self.types.is_empty() && self.namespaces.is_empty() && self.only.is_empty()
    }

    /// The end of the line that says how much was written.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{} types missing", self.types.len());
        if !self.namespaces.is_empty() {
            text.push_str(&format!(", {} not read in some namespaces", self.namespaces.len()));
        }
        for (namespace, types) in &self.only {
            text.push_str(&format!(", {} read in namespace {namespace} only", types.len()));
        }
        text
    }

    fn note(&mut self, name: String, read: Result<Reach, RequestError>) {
        match read {
            Err(error) => drop(self.types.insert(name, error.to_string())),
            Ok(Reach { only, unread }) => {
                for (namespace, error) in unread {
                    self.namespaces.insert((name.clone(), namespace), error.to_string());
                }
                if let Some(namespace) = only {
                    self.only.entry(namespace).or_default().push(name);
                }
            }
        }
    }
}

/// One line for each gap.
impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, error) in &self.types {
            writeln!(f, "missing: {name}: {error}")?;
        }
        for ((name, namespace), error) in &self.namespaces {
            writeln!(f, "missing: {name} in namespace {namespace}: {error}")?;
        }
        for (namespace, types) in &self.only {
            let mut types = types.clone();
            types.sort();
            writeln!(
                f,
                "only in namespace {namespace}, since reading all namespaces is forbidden (others: --namespace): {}",
                types.join(", ")
            )?;
        }
        Ok(())
    }
}

/// Lists every type of `plan` into `store`; gives what is missing.
pub(super) async fn read_all(client: &Client, store: &Arc<Store>, plan: Vec<WatchSpec>) -> Gaps {
    let queue = Arc::new(Outbox::default());
    let board = Arc::new(Board::default());
    let bar = progress(plan.len());
    let reads = stream::iter(plan).map(|spec| {
        let (queue, board, bar) = (queue.clone(), board.clone(), bar.clone());
        async move {
            let name = spec.selected.served.name();
            bar.set_message(name.clone());
            let read = list_once(client, &spec, store, &queue, &board).await;
            bar.inc(1);
            (name, read)
        }
    });
    let mut gaps = Gaps::default();
    let mut reads = reads.buffer_unordered(CONCURRENCY);
    while let Some((name, read)) = reads.next().await {
        gaps.note(name, read);
    }
    bar.finish_and_clear();
    gaps
}
