//! The choice of a proxy, and connections through real proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::super::proxy::{Proxy, choose};
use super::server::{NAME, Protocols, Server};
use super::*;

/// A relay between client and server.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    /// The target and the credentials that the client sent.
    said: Arc<Mutex<Vec<String>>>,
    /// Tells open connections to forward nothing any more.
    frozen: CancellationToken,
    /// Tells open connections to close.
    cut: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Silent,
    Connect,
    Socks,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    pub(super) async fn start(server: SocketAddr) -> Self {
        Self::with(Manner::Silent, server).await
    }

    /// Stops forwarding on open connections without closing them. Later connections are not affected.
    pub(super) fn freeze(&self) {
        self.frozen.cancel();
    }

    /// Closes all open connections.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    async fn with(manner: Manner, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (frozen, cut) = (CancellationToken::new(), CancellationToken::new());
        let (told, freeze, close) = (said.clone(), frozen.clone(), cut.clone());
        let task = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let told = told.clone();
                let (freeze, close) = (later(&freeze), later(&close));
                links.spawn(async move {
                    let asked = match manner {
                        Manner::Silent => None,
                        Manner::Connect => Some(connect_request(&mut client).await),
                        Manner::Socks => Some(socks_request(&mut client).await),
                    };
                    told.lock().unwrap().extend(asked);
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = close.cancelled() => {}
                        () = freeze.cancelled() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, said, frozen, cut, task }
    }
}

/// A token for connections that begin later.
fn later(token: &CancellationToken) -> CancellationToken {
    if token.is_cancelled() { CancellationToken::new() } else { token.clone() }
}

async fn connect_request(client: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(client.read_u8().await.unwrap());
    }
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    String::from_utf8(request).unwrap()
}

/// RFC 1928 and 1929, for names.
async fn socks_request(client: &mut TcpStream) -> String {
    async fn text(client: &mut TcpStream) -> String {
        let mut text = vec![0; client.read_u8().await.unwrap().into()];
        client.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }
    assert_eq!(client.read_u8().await.unwrap(), 5);
    let methods = text(client).await;
    let mut said = String::new();
    if methods.contains('\u{2}') {
        client.write_all(&[5, 2]).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 1);
        said = format!("{}:{}@", text(client).await, text(client).await);
        client.write_all(&[1, 0]).await.unwrap();
    } else {
        client.write_all(&[5, 0]).await.unwrap();
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [5, 1, 0, 3], "a connection by name");
    said.push_str(&text(client).await);
    let port = client.read_u16().await.unwrap();
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    format!("{said}:{port}")
}

/// Connects through a proxy with this protocol and `url` to a server that only the proxy can resolve; returns what the
/// proxy received.
async fn through(manner: Manner, url: impl Fn(SocketAddr) -> String) -> Vec<String> {
    let server = Server::start(Protocols::Http2(100)).await;
    let proxy = Relay::with(manner, server.address).await;
    let change = |cluster: &mut serde_json::Value| {
        cluster["server"] = format!("https://{NAME}:6443").into();
        cluster["proxy-url"] = url(proxy.address).into();
    };
    let client = server.client(Limits::default(), change).await.unwrap();
    client.apiserver_version().await.unwrap();
    assert_eq!(server.seen.versions(), [Version::HTTP_2]);
    std::mem::take(&mut *proxy.said.lock().unwrap())
}

#[tokio::test]
async fn client_connects_through_the_kubeconfigs_http_proxy() {
    let said = through(Manner::Connect, |proxy| format!("http://{proxy}")).await;
    assert!(said[0].starts_with("CONNECT server.example:6443 HTTP/1.1\r\n") && said.len() == 1, "{said:?}");
    assert!(!said[0].contains("Authorization"), "{said:?}");
    let said = through(Manner::Connect, |proxy| format!("http://user:pa%40ss@{proxy}/")).await;
    assert!(said[0].contains("Proxy-Authorization: Basic dXNlcjpwYUBzcw==\r\n"), "{said:?}");
}

#[tokio::test]
async fn client_connects_through_the_kubeconfigs_socks_proxy() {
    assert_eq!(through(Manner::Socks, |proxy| format!("socks5://{proxy}")).await, ["server.example:6443"]);
    let with_login = through(Manner::Socks, |proxy| format!("socks5://user:pa%40ss@{proxy}")).await;
    assert_eq!(with_login, ["user:pa@ss@server.example:6443"]);
}

fn chosen(server: &str, environment: &[(&str, &str)]) -> Option<String> {
    let value = |name: &str| environment.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
    let proxy = choose(None, &server.parse().unwrap(), value).unwrap();
    proxy.map(|proxy| format!("{proxy:?}"))
}

#[test]
fn proxy_of_the_environment_depends_on_the_scheme() {
    let both = [("HTTPS_PROXY", "http://one:1"), ("HTTP_PROXY", "http://two:2")];
    assert_eq!(chosen("https://a.example", &both).unwrap(), "http://one:1/");
    assert_eq!(chosen("http://a.example", &both).unwrap(), "http://two:2/");
    assert_eq!(chosen("https://a.example", &[("https_proxy", "small:3128")]).unwrap(), "http://small:3128/");
    assert_eq!(chosen("https://a.example", &[("HTTPS_PROXY", "socks5://s")]).unwrap(), "socks5://s:1080/");
    assert_eq!(chosen("https://a.example", &[("HTTPS_PROXY", "")]), None);
    assert_eq!(chosen("https://a.example", &[]), None);
}

#[test]
fn no_proxy_exempts_hosts_networks_and_ports() {
    let exempt =
        |server: &str, list: &str| chosen(server, &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)]).is_none();
    for list in ["*", "a.example", ".example", "*.example", "example", "b, a.example,", "a.example:6443"] {
        assert!(exempt("https://a.example:6443", list), "{list}");
    }
    for list in ["", "b.example", "a.example:443", "10.0.0.0/8", "ample"] {
        assert!(!exempt("https://a.example:6443", list), "{list}");
    }
    for list in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:443"] {
        assert!(exempt("https://10.1.2.3", list), "{list}");
    }
    for list in ["fd00::/8", "fd00::1", "[fd00::1]:443", "[fd00::1]"] {
        assert!(exempt("https://[fd00::1]", list), "{list}");
    }
    for this_machine in ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443"] {
        assert!(exempt(this_machine, ""), "{this_machine}");
    }
}

#[test]
fn proxy_of_the_kubeconfig_overrides_that_of_the_environment() {
    let value = |name: &str| (name == "HTTPS_PROXY" || name == "NO_PROXY").then(|| "localhost".to_owned());
    let proxy = choose(Some("http://user:word@p:1"), &"https://localhost".parse().unwrap(), value).unwrap();
    assert!(matches!(&proxy, Some(Proxy::Http { authorization: Some(_), .. })));
    assert!(!format!("{proxy:?}").contains("word"), "{proxy:?}");
}

#[test]
fn error_about_an_invalid_proxy_omits_the_password() {
    for url in ["ftp://user:word@p", "http://", "user:word@p:x"] {
        let error = choose(Some(url), &"https://a".parse().unwrap(), |_| None).unwrap_err().to_string();
        assert!(error.contains("proxy-url") && !error.contains("word"), "{error}");
    }
}
