//! Where a Service can be reached, as far as its own fields tell. Nothing is dialled.

use std::borrow::Cow;

use serde::Deserialize;

use crate::encode::members::Members;
use crate::object::text::write_literal;

/// What node ports are reached at, as far as a cluster can tell.
const NODE_ADDRESS: &str = "localhost";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, rename = "clusterIP")]
    cluster_ip: Option<Cow<'a, str>>,
    ports: Option<Vec<Port>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    port: Option<u16>,
    node_port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    load_balancer: Option<LoadBalancer<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer<'a> {
    #[serde(borrow)]
    ingress: Option<Vec<Ingress<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ingress<'a> {
    #[serde(borrow)]
    ip: Option<Cow<'a, str>>,
    #[serde(borrow)]
    hostname: Option<Cow<'a, str>>,
}

/// Writes and closes `component_metadata`. A spec or status of an unforeseen shape has no addresses.
pub(super) fn write(spec: Option<&str>, status: Option<&str>, mut component: Members<'_>) {
    let spec: Spec<'_> = spec.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let status: Status<'_> = status.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let mut capabilities = component.object("capabilities");
    capabilities.raw("connection", "true");
    let out = capabilities.key("urls");
    out.push(b'[');
    for (index, url) in urls(&spec, &status).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_literal(url, out);
    }
    out.push(b']');
    capabilities.close();
    component.close();
}

/// External first, then internal. Of several ports the last counts, of several ingresses the first, as consumers know it.
fn urls(spec: &Spec<'_>, status: &Status<'_>) -> Vec<String> {
    let Some(port) = spec.ports.iter().flatten().last() else { return Vec::new() };
    let cluster_port = port.port.unwrap_or_default();
    let ingress = status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).next();
    let balancer = ingress.and_then(|own| own.ip.as_deref().filter(|ip| !ip.is_empty()).or(own.hostname.as_deref()));
    let external = match balancer.filter(|address| !address.is_empty()) {
        Some(address) => url(address, cluster_port),
        None => url(NODE_ADDRESS, port.node_port.unwrap_or_default()),
    };
    let internal = url(spec.cluster_ip.as_deref().unwrap_or_default(), cluster_port);
    external.into_iter().chain(internal).collect()
}

fn url(address: &str, port: u16) -> Option<String> {
    if port == 0 || address.is_empty() || address.eq_ignore_ascii_case("none") {
        return None;
    }
    let scheme = if port == 443 { "https" } else { "http" };
    Some(if address.contains(':') {
        format!("{scheme}://[{address}]:{port}")
    } else {
        format!("{scheme}://{address}:{port}")
    })
}
