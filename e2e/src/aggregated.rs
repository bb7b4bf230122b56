//! Test API servers behind the aggregation layer, like those of metrics adapters and KubeVirt.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode, Uri, header};
use axum::serve::Listener;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cluster::Cluster;
use crate::lab::NODE_IP;

/// Version of every group that is served here.
const VERSION: &str = "v1";

/// The answer of such a server to everything except discovery.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Not found.
    NotFound,
    /// No answer, ever.
    Hangs,
    /// 200 with an HTML page.
    Lies,
}

/// A server of one API group. It ends with the runtime, or when this is dropped.
#[derive(Debug)]
pub struct AggregatedServer {
    task: tokio::task::JoinHandle<()>,
}

impl AggregatedServer {
    /// Serves `group` with `resources` (of an `APIResourceList`) on the node's address, and registers it in `cluster`, which
    /// needs `--enable-aggregator-routing=true`.
    ///
    /// # Errors
    /// When it cannot listen, or the API server refuses the registration.
    pub async fn start(cluster: &Cluster, group: &str, resources: Value, manner: Manner) -> Result<Self> {
        let tcp = TcpListener::bind((NODE_IP, 0)).await.context("no port on the node's address")?;
        let port = tcp.local_addr()?.port();
        let listener = TlsListener { tcp, acceptor: acceptor()? };
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{VERSION}"),
            "resources": resources});
        let (path, list) = (format!("/apis/{group}/{VERSION}"), list.to_string());
        let router = Router::new().fallback(async move |uri: Uri| {
            // The API server asks for `/apis` first, and for this where that is not found.
            if uri.path() == path {
                return answer(StatusCode::OK, "application/json", list);
            }
            match manner {
                Manner::Hangs if uri.path().starts_with(&path) => std::future::pending().await,
                Manner::Lies if uri.path().starts_with(&path) => {
                    answer(StatusCode::OK, "text/html", "<html><body>Welcome</body></html>".to_owned())
                }
                _ => answer(StatusCode::NOT_FOUND, "text/plain", "not found".to_owned()),
            }
        });
        let task = tokio::spawn(async move {
            // Its clients notice that it ended.
            let _ended = axum::serve(listener, router).await;
        });
        cluster.apply(registration(group, port)).await?;
        Ok(Self { task })
    }
}

impl Drop for AggregatedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(code: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// A Service without selector, its one endpoint, and the APIService.
fn registration(group: &str, port: u16) -> String {
    let name = group.replace('.', "-");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 443, "targetPort": port}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [NODE_IP.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]});
    let registered = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{VERSION}.{group}")},
        "spec": {"group": group, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"name": name, "namespace": "default", "port": 443}}});
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice, registered]}).to_string()
}

fn acceptor() -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(vec!["aggregated.test".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    Ok(TlsAcceptor::from(Arc::new(config.with_single_cert(vec![own.cert.der().clone()], key)?)))
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The client of a failed connection connects again.
            let Ok((connection, address)) = self.tcp.accept().await else { continue };
            if let Ok(secured) = self.acceptor.accept(connection).await {
                return (secured, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
