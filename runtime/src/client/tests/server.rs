//! A real TLS server and its kubeconfig.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Name in the certificate, which no resolver knows.
pub(super) const NAME: &str = "server.example";

type Parts = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::convert::Infallible>>>;

/// Observations of a server.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicUsize,
    /// Requests per connection.
    pub(super) requests: Mutex<BTreeMap<usize, Vec<(Version, String)>>>,
}

impl Seen {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Number of watches on each connection that has some.
    pub(super) fn watches(&self) -> Vec<usize> {
        let requests = self.requests.lock().unwrap();
        let watches = requests.values().map(|of_one| of_one.iter().filter(|(_, uri)| uri.contains("watch")).count());
        watches.filter(|count| *count > 0).collect()
    }

    pub(super) fn versions(&self) -> Vec<Version> {
        let requests = self.requests.lock().unwrap();
        let mut versions: Vec<_> = requests.values().flatten().map(|(version, _)| *version).collect();
        versions.dedup();
        versions
    }
}

/// Starts a server that speaks HTTP/2 if the client offers it, unless `protocols` is [`Protocols::Http1`].
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    certificate: String,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocols {
    /// Limits the streams of a connection.
    Http2(u32),
    Http1,
    /// Negotiates no protocol, like old servers.
    Unsaid,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(protocols: Protocols) -> Self {
        crate::tls::install_provider();
        let key = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        tls.alpn_protocols = match protocols {
            Protocols::Http2(_) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocols::Http1 => vec![b"http/1.1".to_vec()],
            Protocols::Unsaid => vec![],
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), protocols, seen.clone()));
        Self { address, seen, certificate: key.cert.pem(), task }
    }

    /// A client for a kubeconfig that `change` may modify.
    pub(super) async fn client(&self, limits: Limits, change: impl FnOnce(&mut Value)) -> Result<Client, ConnectError> {
        let mut cluster = json!({
            "server": format!("https://{}", self.address), "tls-server-name": NAME,
            "certificate-authority-data": base64(self.certificate.as_bytes()),
        });
        change(&mut cluster);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": cluster}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        });
        let path = kubeconfig(&format!("server-{}", self.address.port()), &text.to_string());
        let args = ClientArgs { kubeconfig: Some(path.clone()), context: None };
        let connected = connect_within(&args, &BUILD, Retry::Caller, limits).await;
        std::fs::remove_file(path).unwrap();
        connected.map(|connected| connected.client)
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    use k8s_openapi::ByteString;
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, protocols: Protocols, seen: Arc<Seen>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = seen.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, seen) = (tls.clone(), seen.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request: Request<Incoming>| {
                let said = (request.version(), request.uri().to_string());
                seen.requests.lock().unwrap().entry(number).or_default().push(said);
                let answer = answer(&request);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let stream = TokioIo::new(stream);
            // Either future ends when the client disconnects.
            let _left = match (http2, protocols) {
                (true, Protocols::Http2(streams)) => {
                    let mut settings = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    settings.timer(TokioTimer::new()).max_concurrent_streams(streams);
                    settings.serve_connection(stream, service).await
                }
                _ => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
            };
        });
    }
}

/// A watch sends one event and does not end. Everything else returns the version, if the token is right.
fn answer(request: &Request<Incoming>) -> Response<Parts> {
    let known = request.headers().get("authorization").is_some_and(|value| value == "Bearer secret");
    let version = json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "",
    });
    let first = stream::iter([Ok(Frame::data(Bytes::from(version.to_string())))]);
    let body = match request.uri().query() {
        Some("watch=true") => first.chain(stream::pending()).boxed(),
        _ => first.boxed(),
    };
    Response::builder().status(if known { 200 } else { 401 }).body(StreamBody::new(body)).unwrap()
}
