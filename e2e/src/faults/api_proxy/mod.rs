//! An HTTP proxy in front of an API server, which answers some requests differently and counts all requests.
//!
//! It accepts plain HTTP/1.1 from clients that use its kubeconfig, and forwards with the administrator's rights.

mod answer;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use axum::serve::ListenerExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::sync::watch;

use crate::cluster::Cluster;

pub use answer::Answer;

/// Largest request body.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;

/// A request that the proxy received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its path, e.g. `/api/v1/configmaps`.
    pub path: String,
    /// Its query, without the question mark.
    pub query: String,
}

impl Asked {
    /// Whether it opens a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query.contains("watch=true") || self.query.contains("watch=1")
    }

    /// Whether it is for a page of a list that is not the first.
    #[must_use]
    pub fn is_later_page(&self) -> bool {
        self.query.split('&').any(|pair| pair.strip_prefix("continue=").is_some_and(|token| !token.is_empty()))
    }

    /// Whether it asks for a page of a list of the collection at `path`, and not only for how long the list is.
    #[must_use]
    pub fn lists(&self, path: &str) -> bool {
        let counts = self.query.split('&').any(|pair| pair == "limit=1");
        self.path == path && !self.is_watch() && !counts
    }

    /// Whether it asks for the first page of such a list.
    #[must_use]
    pub fn begins_list(&self, path: &str) -> bool {
        self.lists(path) && !self.is_later_page()
    }
}

type Matches = Box<dyn Fn(&Asked) -> bool + Send + Sync>;

/// Selects requests, and how to answer them.
pub struct Rule {
    matches: Matches,
    answer: Answer,
    times: usize,
}

impl Rule {
    /// For every request that `matches`.
    #[must_use]
    pub fn new(matches: impl Fn(&Asked) -> bool + Send + Sync + 'static, answer: Answer) -> Self {
        Self { matches: Box::new(matches), answer, times: usize::MAX }
    }

    /// For every list of the collection at `path`.
    #[must_use]
    pub fn lists(path: &'static str, answer: Answer) -> Self {
        Self::new(move |asked| asked.lists(path), answer)
    }

    /// For every watch of the collection at `path`.
    #[must_use]
    pub fn watches(path: &'static str, answer: Answer) -> Self {
        Self::new(move |asked| asked.path == path && asked.is_watch(), answer)
    }

    /// For every request at `path`.
    #[must_use]
    pub fn at(path: &'static str, answer: Answer) -> Self {
        Self::new(move |asked| asked.path == path, answer)
    }

    /// Limits the rule to this many requests.
    #[must_use]
    pub const fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

struct ProxyState {
    server: kube::Client,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
    cuts: watch::Sender<u64>,
}

/// See the module. It listens until it is dropped.
pub struct ApiProxy {
    state: Arc<ProxyState>,
    kubeconfig: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl ApiProxy {
    /// Starts before `cluster`; its kubeconfig is written into `dir`.
    ///
    /// # Errors
    /// When there is no port, or the file cannot be written.
    pub async fn start(cluster: &Cluster, dir: &Path) -> Result<Self> {
        Self::before(cluster.client().await?, dir).await
    }

    async fn before(server: kube::Client, dir: &Path) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the proxy")?;
        let kubeconfig = dir.join("proxy.kubeconfig");
        write_kubeconfig(&kubeconfig, &format!("http://{}", listener.local_addr()?))?;
        let listener = listener.tap_io(|connection| {
            // Without this, an event waits for the acknowledgement of the previous event. A closed connection does not
            // need it.
            let _ = connection.set_nodelay(true);
        });
        let (rules, asked, cuts) = (Mutex::default(), Mutex::default(), watch::Sender::new(0));
        let state = Arc::new(ProxyState { server, rules, asked, cuts });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let task = tokio::spawn(async move {
            // It ends with the runtime at the latest, and its clients notice.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { state, kubeconfig, task })
    }

    /// Kubeconfig for clients that connect through the proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Replaces the rules; the first rule that matches applies. Answers that have begun continue.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        *lock(&self.state.rules) = rules.into_iter().collect();
    }

    /// Ends every answer that has begun, such as watches, so that clients request them again.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Number of requests so far that `matches` accepts.
    #[must_use]
    pub fn count(&self, matches: impl Fn(&Asked) -> bool) -> usize {
        lock(&self.state.asked).iter().filter(|asked| matches(asked)).count()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.state.asked).clear();
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn answer(State(state): State<Arc<ProxyState>>, request: Request<Body>) -> Response<Body> {
    let uri = request.uri();
    let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
    let asked = Asked { method: request.method().clone(), path, query };
    lock(&state.asked).push(asked.clone());
    let answer = state.rule_for(&asked);
    if matches!(answer, Some(Answer::Silence)) {
        return std::future::pending().await;
    }
    if let Some(response) = answer.and_then(Answer::alone) {
        return response;
    }
    // The client's ETag does not identify the changed answer.
    let is_changed = matches!(answer, Some(Answer::Changed(_)));
    let mut right = match state.forward(request, is_changed).await {
        Ok(right) => right,
        Err(error) => {
            let mut response = Response::new(Body::from(format!("the test's proxy: {error:#}")));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    };
    if is_changed {
        right.headers_mut().remove(header::ETAG);
    }
    match answer {
        Some(answer) => answer.of(right).await,
        None => right,
    }
}

impl ProxyState {
    fn rule_for(&self, asked: &Asked) -> Option<Answer> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.matches)(asked))?;
        rule.times -= 1;
        Some(rule.answer)
    }

    async fn forward(&self, request: Request<Body>, afresh: bool) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, LARGEST_REQUEST).await.context("the request's body")?;
        head.headers = kept(&head.headers, &[header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT]);
        if afresh {
            head.headers.remove(header::IF_NONE_MATCH);
        }
        let request = Request::from_parts(head, kube::client::Body::from(body));
        let mut cuts = self.cuts.subscribe();
        let (mut head, body) = self.server.send(request).await?.into_parts();
        head.headers = kept(&head.headers, &[header::CONTENT_TYPE, header::ETAG, header::RETRY_AFTER]);
        let cut = async move { cuts.changed().await.is_ok() };
        let chunks = Body::new(body).into_data_stream().map_err(std::io::Error::other);
        let until_cut = chunks.map(Some).chain(futures::stream::iter([None])).boxed();
        let cut =
            futures::stream::once(cut).map(|_| Some(Err(std::io::Error::other("cut by the test's proxy")))).boxed();
        // Either of the two ends the answer.
        let both = futures::stream::select(until_cut, cut);
        let body = both.take_while(|chunk| std::future::ready(chunk.is_some())).filter_map(std::future::ready);
        Ok(Response::from_parts(head, Body::from_stream(body)))
    }
}

/// Headers that are valid on another connection.
fn kept(headers: &HeaderMap, names: &[header::HeaderName]) -> HeaderMap {
    let of_request = [header::IF_NONE_MATCH];
    let names = names.iter().chain(&of_request);
    names.filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

fn write_kubeconfig(file: &Path, server: &str) -> Result<()> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    std::fs::write(file, kubeconfig.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
