//! An API server of ConfigMaps, as far as lists, watches and rights go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};

use super::*;

/// Rights in all namespaces.
pub(super) const EVERYWHERE: &str = "*";

/// See the module. Clones are the same.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    /// Namespaces that may be listed and watched.
    rights: BTreeSet<String>,
    /// Those of them that may not be watched.
    unwatchable: BTreeSet<String>,
    /// Namespaces whose next watch is too old.
    expired: BTreeSet<String>,
    /// Versions, namespaces and events.
    history: Vec<(u64, String, String)>,
    is_silent: bool,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
    asked: Vec<String>,
    lists_at_once: usize,
    most_lists_at_once: usize,
}

impl Server {
    /// Gives rights in these namespaces.
    pub(super) fn new(rights: &[&str]) -> Self {
        // A version of 0 would mean "any".
        let this = Self(Arc::new(Mutex::new(State { version: 1, ..State::default() })));
        rights.iter().for_each(|namespace| this.allow(namespace));
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn client(&self) -> Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Answer>>();
        let this = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (this, uri) = (this.clone(), request.uri().clone());
                tokio::spawn(async move {
                    let answer = this.answer(&uri).await;
                    send.send_response(answer);
                });
            }
        });
        Client::new(service, "own")
    }

    async fn answer(&self, uri: &http::Uri) -> Response<Answer> {
        let query = uri.query().unwrap_or_default();
        let namespace = uri.path().strip_prefix("/api/v1/namespaces/").and_then(|rest| rest.split('/').next());
        let namespace = namespace.unwrap_or(EVERYWHERE);
        let from = query.split("&resourceVersion=").nth(1).and_then(|version| version.parse().ok());
        if let Some(answer) = self.at_once(namespace, from) {
            return answer;
        }
        // A while, in which others may ask.
        time_passes(Duration::from_millis(100)).await;
        let mut state = self.lock();
        state.lists_at_once -= 1;
        let is_in = |(place, _): &(String, String)| namespace == EVERYWHERE || place == namespace;
        let items: Vec<Value> =
            state.objects.iter().filter(|(key, _)| is_in(key)).map(|(_, object)| object.clone()).collect();
        Response::new(whole(page(state.version, "", &items).1))
    }

    /// What does not take a while: refusals, and watches, which begin `from` a version.
    fn at_once(&self, namespace: &str, from: Option<u64>) -> Option<Response<Answer>> {
        let mut state = self.lock();
        state.asked.push(format!("{} {namespace}", if from.is_some() { "watch" } else { "list" }));
        let may = state.rights.contains(namespace) && !(from.is_some() && state.unwatchable.contains(namespace));
        if !may {
            let place = match namespace {
                EVERYWHERE => "at the cluster scope".to_owned(),
                name => format!("in the namespace {name}"),
            };
            return Some(status(403, &format!("configmaps is forbidden: you cannot list them {place}")));
        }
        let Some(from) = from else {
            state.lists_at_once += 1;
            state.most_lists_at_once = state.most_lists_at_once.max(state.lists_at_once);
            return None;
        };
        if state.expired.remove(namespace) {
            return Some(status(410, "too old"));
        }
        Some(Response::new(state.watch(namespace, from)))
    }

    pub(super) fn create(&self, names: &[(&str, &str)]) {
        for (namespace, name) in names {
            let mut state = self.lock();
            state.version += 1;
            let created = object(namespace, name, state.version);
            state.objects.insert(((*namespace).to_owned(), (*name).to_owned()), created.clone());
            state.tell(namespace, &event("ADDED", created));
        }
    }

    pub(super) fn delete(&self, namespace: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut last = state.objects.remove(&(namespace.to_owned(), name.to_owned())).unwrap();
        last["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.tell(namespace, &event("DELETED", last));
    }

    /// No watch tells of what is done in it.
    pub(super) fn silently(&self, change: impl FnOnce(&Self)) {
        self.lock().is_silent = true;
        change(self);
        self.lock().is_silent = false;
    }

    pub(super) fn allow(&self, namespace: &str) {
        self.lock().rights.insert(namespace.to_owned());
    }

    /// What is open already stays open.
    pub(super) fn forbid(&self, namespace: &str) {
        self.lock().rights.remove(namespace);
    }

    pub(super) fn forbid_watches(&self, namespace: &str) {
        self.lock().unwatchable.insert(namespace.to_owned());
    }

    /// Ends the watches of a namespace; from where they were, none can go on.
    pub(super) fn expire(&self, namespace: &str) {
        let mut state = self.lock();
        state.expired.insert(namespace.to_owned());
        state.watches.retain(|(watched, _)| watched != namespace);
    }

    /// Ends all watches.
    pub(super) fn cut(&self) {
        self.lock().watches.clear();
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    /// How many lists there were at the same time.
    pub(super) fn most_lists_at_once(&self) -> usize {
        self.lock().most_lists_at_once
    }
}

impl State {
    fn watch(&mut self, namespace: &str, from: u64) -> Answer {
        let (send, receive) = unbounded();
        let is_meant = |version: u64, place: &str| version > from && (namespace == EVERYWHERE || place == namespace);
        for (_, _, event) in self.history.iter().filter(|(version, place, _)| is_meant(*version, place)) {
            send.unbounded_send(Bytes::from(event.clone())).unwrap();
        }
        self.watches.push((namespace.to_owned(), send));
        let body = axum::body::Body::from_stream(receive.map(Ok::<_, Infallible>));
        body.map_err(|error| panic!("{error}")).boxed_unsync()
    }

    fn tell(&mut self, namespace: &str, event: &str) {
        if self.is_silent {
            return;
        }
        self.history.push((self.version, namespace.to_owned(), event.to_owned()));
        let concerned = self.watches.iter().filter(|(watched, _)| watched == namespace || watched == EVERYWHERE);
        concerned.for_each(|(_, watch)| drop(watch.unbounded_send(Bytes::from(event.to_owned()))));
    }
}

fn status(code: u16, message: &str) -> Response<Answer> {
    let body = json!({"kind": "Status", "code": code, "message": message}).to_string();
    Response::builder().status(code).body(whole(body)).unwrap()
}
