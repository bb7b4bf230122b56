//! Selects the proxy of a connection, by the same rules as kubectl.
//!
//! The kubeconfig's `proxy-url` applies to its cluster without exceptions. Without it, `HTTPS_PROXY` or `HTTP_PROXY`
//! applies, depending on the scheme of the API server's address, unless `NO_PROXY` lists the server or it is on this
//! machine.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Proxy {
    /// A proxy that takes CONNECT, over TCP or TLS.
    Http {
        /// Where it is.
        uri: Uri,
        /// Value of the header `Proxy-Authorization`.
        authorization: Option<HeaderValue>,
    },
    /// SOCKS version 5; the proxy also resolves names.
    Socks {
        /// Where it is.
        uri: Uri,
        /// Name and password.
        login: Option<(String, String)>,
    },
}

impl std::fmt::Debug for Proxy {
    /// Without the password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Http { uri, .. } | Self::Socks { uri, .. }) = self;
        uri.fmt(formatter)
    }
}

/// A setting that is not a usable proxy. The message omits its value, which may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the proxy in {0}: it must be a URL that begins with http://, https:// or socks5://")]
pub struct ProxyError(pub(super) String);

/// Returns the proxy for `server`: that of its kubeconfig, otherwise that of the environment.
pub(super) fn choose(
    of_cluster: Option<&str>,
    server: &Uri,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, ProxyError> {
    if let Some(url) = of_cluster.filter(|url| !url.is_empty()) {
        return parse(url, "the kubeconfig's proxy-url").map(Some);
    }
    let either = |name: &str| {
        let set = |name: String| environment(&name).filter(|value| !value.is_empty()).map(|value| (name, value));
        set(name.to_owned()).or_else(|| set(name.to_lowercase()))
    };
    let name = if server.scheme_str() == Some("http") { "HTTP_PROXY" } else { "HTTPS_PROXY" };
    let Some((name, url)) = either(name) else { return Ok(None) };
    let exempt = either("NO_PROXY").map(|(_, list)| list).unwrap_or_default();
    if is_this_machine(server) || is_exempt(server, &exempt) {
        return Ok(None);
    }
    parse(&url, &format!("${name}")).map(Some)
}

fn parse(url: &str, setting: &str) -> Result<Proxy, ProxyError> {
    let wrong = || ProxyError(setting.to_owned());
    let proxy = Matcher::builder().all(url.trim()).build();
    let proxy: Intercept = proxy.intercept(&Uri::from_static("https://server.invalid")).ok_or_else(wrong)?;
    let uri = proxy.uri().clone();
    // The text after the colon is not a number.
    if uri.port_u16().is_none() && uri.authority().is_some_and(|authority| authority.as_str() != authority.host()) {
        return Err(wrong());
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(Proxy::Http { authorization: proxy.basic_auth().cloned(), uri: with_port(uri)? }),
        Some("socks5" | "socks5h") => {
            let login = proxy.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned()));
            Ok(Proxy::Socks { login, uri: with_port(uri)? })
        }
        _ => Err(wrong()),
    }
}

/// The connector knows only the default ports of http and https.
fn with_port(uri: Uri) -> Result<Uri, ProxyError> {
    let socks = uri.scheme_str().is_some_and(|scheme| scheme.starts_with("socks"));
    if uri.port().is_some() || !socks {
        return Ok(uri);
    }
    let text = format!("{}://{}:1080/", uri.scheme_str().unwrap_or("socks5"), uri.host().unwrap_or_default());
    text.parse().map_err(|_| ProxyError("a SOCKS URL without a port".to_owned()))
}

fn host(server: &Uri) -> &str {
    server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

fn is_this_machine(server: &Uri) -> bool {
    let host = host(server);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the list contains `server`. An entry is `*`, a host (which includes its subdomains), an address or a
/// network; each may have a port.
fn is_exempt(server: &Uri, list: &str) -> bool {
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let for_port = entries.filter_map(|entry| match split_port(entry) {
        (entry, Some(wanted)) => (wanted == port).then_some(entry),
        (entry, None) => Some(entry),
    });
    let list: Vec<_> =
        for_port.map(|entry| entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry)).collect();
    let exempt = Matcher::builder().all("http://proxy.invalid").no(list.join(",")).build();
    exempt.intercept(server).is_none()
}

/// Splits an entry from its port. In an IPv6 address only a colon after brackets begins a port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    let split = entry.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match split {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (bare(host), Some(port)),
        _ => (bare(entry), None),
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
