//! Opens connections: TCP, the proxy if there is one, TLS, and the negotiation of the protocol.

use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use kube::client::ConfigExt;
use kube::config::Config;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use super::proxy::Proxy;

/// Limit for opening a connection, including proxy and TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which the kernel probes whether the peer still exists. HTTP/2 sends pings of its own; this finds dead
/// HTTP/1.1 connections.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
const TCP_KEEPALIVE_AGAIN: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_TIMES: u32 = 3;

/// An open connection of any kind.
pub(super) trait Stream: Read + Write + Connection + Send + Unpin {}
impl<T: Read + Write + Connection + Send + Unpin> Stream for T {}

/// An open connection.
pub(super) type BoxStream = Box<dyn Stream>;

impl Connection for BoxStream {
    fn connected(&self) -> Connected {
        (**self).connected()
    }
}

/// Opens connections.
pub(super) type Connector = BoxCloneSyncService<Uri, BoxStream, BoxError>;

/// The ways to open a connection to one server.
#[derive(Clone, Debug)]
pub(super) struct Connectors {
    /// The protocol that the server prefers.
    pub(super) either: Connector,
    /// HTTP/1.1, even if the server also speaks HTTP/2.
    pub(super) http1: Connector,
}

impl Connectors {
    /// Creates a connector for the server and the credentials in `config`, through `proxy`.
    pub(super) fn new(config: &Config, proxy: Option<&Proxy>) -> Result<Self, kube::Error> {
        let tls = config.rustls_client_config()?;
        let name = config.tls_server_name.as_deref().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let tls = Tls { config: tls, name };
        let tcp = tcp();
        Ok(match proxy {
            None => tls.over(tcp),
            Some(Proxy::Socks { uri, login }) => {
                let socks = SocksV5::new(uri.clone(), tcp);
                tls.over(match login.clone() {
                    Some((user, password)) => socks.with_auth(user, password),
                    None => socks,
                })
            }
            Some(Proxy::Http { uri, authorization }) => {
                // TLS to the proxy itself uses the proxy's name and negotiates no protocol.
                let to_proxy = Tls { name: None, ..tls.clone() }.builder().enable_http1().wrap_connector(tcp);
                let tunnel = Tunnel::new(uri.clone(), to_proxy);
                tls.over(match authorization.clone() {
                    Some(authorization) => tunnel.with_auth(authorization),
                    None => tunnel,
                })
            }
        })
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.set_keepalive_interval(Some(TCP_KEEPALIVE_AGAIN));
    tcp.set_keepalive_retries(Some(TCP_KEEPALIVE_TIMES));
    tcp
}

#[derive(Clone)]
struct Tls {
    config: ClientConfig,
    /// Name that the server's certificate must have, if it is not the host of the address.
    name: Option<ServerName<'static>>,
}

impl Tls {
    fn builder(&self) -> HttpsConnectorBuilder<hyper_rustls::builderstates::WantsProtocols1> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.config.clone()).https_or_http();
        match self.name.clone() {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => builder,
        }
    }

    fn over<C>(&self, connector: C) -> Connectors
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Read + Write + Connection + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        Connectors {
            either: boxed(self.builder().enable_all_versions().wrap_connector(connector.clone())),
            http1: boxed(self.builder().enable_http1().wrap_connector(connector)),
        }
    }
}

/// Adds the limit [`CONNECT_WITHIN`] to `connector`.
fn boxed<C>(connector: HttpsConnector<C>) -> Connector
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    BoxCloneSyncService::new(tower::service_fn(move |uri: Uri| {
        let opening = connector.clone().oneshot(uri);
        async move {
            match tokio::time::timeout(CONNECT_WITHIN, opening).await {
                Ok(opened) => opened.map(|stream| Box::new(stream) as BoxStream),
                Err(_) => Err(format!("no connection within {} s", CONNECT_WITHIN.as_secs()).into()),
            }
        }
    }))
}
