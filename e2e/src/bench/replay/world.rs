//! A cluster that exists only as templates and numbers: a million objects take no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::record::Recording;
use super::template::{Copy, Template};
use crate::bench::dataset::Kind;

/// Events that wait for one watcher before it is ended: the API server keeps 100 to 1,000, by the size of the collection.
const WATCHER_BUFFER: usize = 1_000;

/// All objects of one kind.
struct Collection {
    plural: String,
    templates: Vec<Template>,
    count: usize,
}

/// A watch that is open.
struct Watcher {
    path: String,
    events: mpsc::Sender<Bytes>,
}

/// See the module.
pub struct World {
    fixed: std::collections::BTreeMap<String, String>,
    collections: HashMap<String, Collection>,
    /// Version and number of the last change of each object that was changed.
    changes: Mutex<HashMap<(String, usize), (u64, u64)>>,
    watchers: Mutex<Vec<Watcher>>,
    version: AtomicU64,
    changed: AtomicU64,
    /// Watches that were ended because they were not read.
    pub terminated: AtomicU64,
    /// Bytes of lists that were sent.
    pub listed: AtomicU64,
}

impl World {
    /// A cluster with `objects` objects in the mix of the data set.
    #[must_use]
    pub fn new(recording: Recording, objects: usize) -> Self {
        let Recording { fixed, templates } = recording;
        let collection = |(kind, templates): (Kind, Vec<Template>)| {
            let path = kind.everywhere();
            let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
            (path, Collection { plural, templates, count: objects * kind.percent() / 100 })
        };
        Self {
            fixed,
            collections: templates.into_iter().map(collection).collect(),
            changes: Mutex::default(),
            watchers: Mutex::default(),
            version: AtomicU64::new(1_000),
            changed: AtomicU64::new(0),
            terminated: AtomicU64::new(0),
            listed: AtomicU64::new(0),
        }
    }

    /// An answer that is always the same.
    #[must_use]
    pub fn fixed(&self, path: &str) -> Option<&str> {
        self.fixed.get(path).map(String::as_str)
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.collections.values().map(|collection| collection.count).sum()
    }

    /// A page of a list: `limit` objects from `from` on.
    #[must_use]
    pub fn page(&self, path: &str, from: usize, limit: usize) -> String {
        let version = self.version.load(Ordering::SeqCst);
        let Some(collection) = self.collections.get(path) else {
            return format!(r#"{{"kind":"List","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#);
        };
        let to = (from + limit).min(collection.count);
        let mut out = format!(r#"{{"kind":"List","metadata":{{"resourceVersion":"{version}""#);
        if to < collection.count {
            out.push_str(&format!(r#","continue":"{to}","remainingItemCount":{}"#, collection.count - to));
        }
        out.push_str("},\"items\":[");
        for number in from..to {
            if number > from {
                out.push(',');
            }
            let (version, change) = lock(&self.changes).get(&(path.to_owned(), number)).copied().unwrap_or((1_000, 0));
            collection.write(Copy { plural: &collection.plural, number, version, change }, &mut out);
        }
        out.push_str("]}");
        self.listed.fetch_add(out.len() as u64, Ordering::Relaxed);
        out
    }

    /// Opens a watch; none when `version` is not the newest, since nothing of the past is kept.
    #[must_use]
    pub fn watch(&self, path: &str, version: &str) -> Option<mpsc::Receiver<Bytes>> {
        let mut watchers = lock(&self.watchers);
        let is_idle = !self.collections.contains_key(path);
        if !is_idle && version.parse() != Ok(self.version.load(Ordering::SeqCst)) {
            return None;
        }
        let (events, receiver) = mpsc::channel(WATCHER_BUFFER);
        watchers.push(Watcher { path: path.to_owned(), events });
        Some(receiver)
    }

    /// Watches that are open on collections with objects.
    #[must_use]
    pub fn watched(&self) -> usize {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|watcher| !watcher.events.is_closed());
        watchers.iter().filter(|watcher| self.collections.contains_key(&watcher.path)).count()
    }

    /// Changes an object of `kind`; gives the number of the change. Where `patient`, a watcher that does not read is waited
    /// for; else it is ended, as an API server does.
    pub async fn change(&self, kind: Kind, number: usize, patient: bool) -> u64 {
        let path = kind.everywhere();
        let Some(collection) = self.collections.get(&path) else { return 0 };
        let number = number % collection.count.max(1);
        let (change, event, senders) = {
            let watchers = lock(&self.watchers);
            let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
            let change = self.changed.fetch_add(1, Ordering::SeqCst) + 1;
            lock(&self.changes).insert((path.clone(), number), (version, change));
            let mut event = String::from(r#"{"type":"MODIFIED","object":"#);
            collection.write(Copy { plural: &collection.plural, number, version, change }, &mut event);
            event.push_str("}\n");
            let of_path = watchers.iter().filter(|watcher| watcher.path == path);
            (change, Bytes::from(event), of_path.map(|watcher| watcher.events.clone()).collect::<Vec<_>>())
        };
        for sender in senders {
            if patient {
                let _gone = sender.send(event.clone()).await;
            } else if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event.clone()) {
                self.terminated.fetch_add(1, Ordering::Relaxed);
                lock(&self.watchers).retain(|watcher| !watcher.events.same_channel(&sender));
            }
        }
        change
    }

    /// The number of the last change of every object that was changed, by name.
    #[must_use]
    pub fn last_changes(&self) -> HashMap<String, u64> {
        let name = |((path, number), (_, change)): (&(String, usize), &(u64, u64))| {
            Some((format!("{}-{number:07}", self.collections.get(path)?.plural), *change))
        };
        lock(&self.changes).iter().filter_map(name).collect()
    }
}

impl Collection {
    fn write(&self, copy: Copy<'_>, out: &mut String) {
        if let Some(template) = self.templates.get(copy.number % self.templates.len().max(1)) {
            template.write(copy, out);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
