//! Listeners of a process: for probes and metrics, and for whatever else a binary serves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};

use crate::readiness::Readiness;
use crate::shutdown::Shutdown;

/// Content type of the OpenMetrics text format, version 1.0.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Time for open requests to finish after shutdown began.
const LINGER: Duration = Duration::from_secs(2);

/// A listener could not be opened, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The process cannot listen on the address.
    #[error("cannot listen on {address} for {purpose}: {source}; if another process uses it, choose another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Purpose of the listener.
        purpose: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The listener failed later.
    #[error("the listener for {purpose} failed: {source}")]
    Serve {
        /// Purpose of the listener.
        purpose: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Default address of probes: all addresses of both families. A kubelet uses the pod's first address, whose family
/// depends on the cluster.
pub const PROBES_EVERYWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 11000);

/// Opens `address`, so that a conflict is found before anything else starts. `[::]` also serves IPv4, and serves only
/// IPv4 if IPv6 is off.
///
/// # Errors
/// [`ListenError::Bind`], which names the address.
pub async fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ListenError> {
    let bound = match address.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => match both_families(address) {
            Err(error) if is_off(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await,
            bound => bound,
        },
        _ => TcpListener::bind(address).await,
    };
    bound.map_err(|source| ListenError::Bind { address, purpose, source })
}

fn both_families(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    // The system's default may differ.
    setsockopt(&socket, Ipv6V6Only, &false)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether the error means that this machine has no IPv6: no support in the kernel, or no address.
fn is_off(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT))
}

/// Serves `router` until shutdown; open requests then have two seconds to finish.
///
/// # Errors
/// [`ListenError::Serve`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    purpose: &'static str,
    shutdown: Shutdown,
) -> Result<(), ListenError> {
    let token = shutdown.token().clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(token.cancelled_owned());
    tokio::select! {
        ended = server.into_future() => ended.map_err(|source| ListenError::Serve { purpose, source }),
        // Anyone can open a connection here and stay silent, which must not delay an orderly end.
        () = async { shutdown.requested().await; tokio::time::sleep(LINGER).await } => Ok(()),
    }
}

#[derive(Clone)]
struct Probes {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// `/healthz`, `/readyz` and `/metrics`.
///
/// * `/healthz`: 200 while the process runs: a stuck agent is not ready, but a restart would not help.
/// * `/readyz`: 200 when every gate is open, else 503; the body is [`crate::readiness::Report`] as JSON.
/// * `/metrics`: OpenMetrics text.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Probes { readiness, registry })
}

async fn readyz(State(probes): State<Probes>) -> Response {
    let report = probes.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(report)).into_response()
}

async fn metrics(State(probes): State<Probes>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &probes.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn readyz_follows_the_gates() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "probes").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let gate = readiness.gate("broker", "not connected");
        let shutdown = Shutdown::new();
        let router = router(readiness, Arc::new(Registry::default()));
        let server = tokio::spawn(serve(listener, router, "probes", shutdown.clone()));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let closed = get(address, "/readyz").await;
        assert!(closed.starts_with("HTTP/1.1 503") && closed.contains("\"reason\":\"not connected\""), "{closed}");
        gate.open();
        let open = get(address, "/readyz").await;
        assert!(open.starts_with("HTTP/1.1 200") && open.contains("\"ready\":true"), "{open}");
        assert!(get(address, "/metrics").await.ends_with("# EOF\n"));

        shutdown.begin();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn client_that_never_finishes_does_not_delay_the_shutdown() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "probes").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let router = router(Readiness::default(), Arc::new(Registry::default()));
        let server = tokio::spawn(serve(listener, router, "probes", shutdown.clone()));
        let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
        // Connections are accepted in order: the slow one is in the server's hands now.
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        shutdown.begin();
        tokio::time::timeout(LINGER * 3, server).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn error_names_an_address_in_use() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "probes").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "probes").await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[tokio::test]
    async fn default_address_is_reachable_over_ipv4_and_ipv6() {
        let listener = bind(SocketAddr::new(PROBES_EVERYWHERE.ip(), 0), "test").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut reached = vec![tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap()];
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            reached.push(tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap());
        }
        for _ in reached {
            listener.accept().await.unwrap();
        }
    }

    #[test]
    fn missing_ipv6_is_distinguished_from_an_address_in_use() {
        assert!(is_off(&Errno::EAFNOSUPPORT.into()) && is_off(&Errno::EADDRNOTAVAIL.into()));
        assert!(!is_off(&Errno::EADDRINUSE.into()) && !is_off(&Errno::EACCES.into()));
    }
}
