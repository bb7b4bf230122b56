//! Number and kind of connections, and the fate of requests when a connection is lost.

use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use kube::client::Body;

use super::proxies::Relay;
use super::server::{Protocols, Server};
use super::*;

/// Longer than anything in these tests takes.
const SOON: Duration = Duration::from_secs(60);

fn plain(_: &mut serde_json::Value) {}

/// Opens watches concurrently.
async fn watches(client: &Client, count: usize) -> Vec<Response<Body>> {
    let opened: FuturesUnordered<_> =
        (0..count).map(|_| client.send(Request::get("/api/v1/pods?watch=true").body(Body::empty()).unwrap())).collect();
    let opened = tokio::time::timeout(SOON, opened.try_collect::<Vec<_>>()).await;
    opened.expect("no watch waits for another").unwrap()
}

#[tokio::test]
async fn watches_share_connections_and_none_waits_for_a_stream() {
    let server = Server::start(Protocols::Http2(100)).await;
    let client = server.client(Limits::default(), plain).await.unwrap();
    client.apiserver_version().await.unwrap();
    let open = watches(&client, 120).await;
    client.apiserver_version().await.unwrap();
    assert_eq!(server.seen.watches(), [50, 50, 20]);
    assert_eq!(server.seen.connections(), 4, "one for everything else");
    assert_eq!(server.seen.versions(), [Version::HTTP_2]);
    // Watches that end free their places.
    drop(open);
    let again = watches(&client, 50).await;
    assert_eq!(server.seen.watches().iter().sum::<usize>(), 170);
    assert_eq!(server.seen.connections(), 4);
    drop(again);
}

#[tokio::test]
async fn client_opens_more_connections_to_a_server_with_few_streams() {
    let server = Server::start(Protocols::Http2(7)).await;
    let client = server.client(Limits::default(), plain).await.unwrap();
    let open = watches(&client, 20).await;
    assert_eq!(server.seen.watches().iter().sum::<usize>(), 20);
    assert!(server.seen.watches().iter().all(|count| *count <= 7), "{:?}", server.seen.watches());
    drop(open);
}

#[tokio::test]
async fn client_speaks_http1_to_a_server_without_http2() {
    for protocols in [Protocols::Http1, Protocols::Unsaid] {
        let server = Server::start(protocols).await;
        let client = server.client(Limits::default(), plain).await.unwrap();
        client.apiserver_version().await.unwrap();
        let open = watches(&client, 5).await;
        client.apiserver_version().await.unwrap();
        assert_eq!(server.seen.versions(), [Version::HTTP_11]);
        // The first connection found out the protocol; each of the next carries one request at a time, and is reused.
        assert_eq!(server.seen.connections(), 1 + 1 + 5, "{protocols:?}");
        drop(open);
    }
}

#[tokio::test]
async fn frozen_connection_fails_its_requests_and_is_replaced() {
    let server = Server::start(Protocols::Http2(100)).await;
    let relay = Relay::start(server.address).await;
    let limits = Limits { word: Duration::from_millis(200), ..Limits::default() };
    let through = |cluster: &mut serde_json::Value| cluster["server"] = format!("https://{}", relay.address).into();
    let client = server.client(limits, through).await.unwrap();
    client.apiserver_version().await.unwrap();
    let mut open: Vec<_> =
        watches(&client, 3).await.into_iter().map(|watch| watch.into_body().into_data_stream()).collect();
    for watch in &mut open {
        assert!(watch.next().await.unwrap().is_ok());
    }
    // The connection is silent but alive.
    let quiet = tokio::time::timeout(limits.word * 5, open[0].next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    relay.freeze();
    for mut watch in open {
        let lost = tokio::time::timeout(SOON, watch.next()).await.expect("the client notices the loss");
        assert!(lost.unwrap().is_err());
    }
    let asked = tokio::time::timeout(SOON, client.apiserver_version()).await;
    asked.expect("an answer or an error").or_else(|_| Ok::<_, kube::Error>(Default::default())).unwrap();
    client.apiserver_version().await.unwrap();
    watches(&client, 3).await;
}

#[tokio::test]
async fn client_reconnects_after_the_server_closes_a_connection() {
    let server = Server::start(Protocols::Http2(100)).await;
    let relay = Relay::start(server.address).await;
    let through = |cluster: &mut serde_json::Value| cluster["server"] = format!("https://{}", relay.address).into();
    let client = server.client(Limits::default(), through).await.unwrap();
    client.apiserver_version().await.unwrap();
    let mut watch = watches(&client, 1).await.remove(0).into_body().into_data_stream();
    assert!(watch.next().await.unwrap().is_ok());
    relay.cut();
    let lost = tokio::time::timeout(SOON, watch.next()).await.expect("the client notices the loss");
    assert!(lost.unwrap().is_err());
    client.apiserver_version().await.unwrap();
    watches(&client, 1).await;
}

#[tokio::test]
async fn unreachable_server_fails_every_request_at_once() {
    let server = Server::start(Protocols::Http2(100)).await;
    let nobody = |cluster: &mut serde_json::Value| cluster["server"] = "https://127.0.0.1:1".into();
    let client = server.client(Limits::default(), nobody).await.unwrap();
    for _ in 0..2 {
        let error = chain(&client.apiserver_version().await.unwrap_err());
        assert!(
            error.contains("cannot connect to https://127.0.0.1:1") && error.to_lowercase().contains("refused"),
            "{error}"
        );
    }
    // The certificate does not have this name.
    let other = |cluster: &mut serde_json::Value| cluster["tls-server-name"] = "other.example".into();
    let error = chain(&server.client(Limits::default(), other).await.unwrap().apiserver_version().await.unwrap_err());
    assert!(error.contains("certificate"), "{error}");
    let careless = |cluster: &mut serde_json::Value| {
        cluster["tls-server-name"] = "other.example".into();
        cluster["insecure-skip-tls-verify"] = true.into();
        cluster.as_object_mut().unwrap().remove("certificate-authority-data");
    };
    server.client(Limits::default(), careless).await.unwrap().apiserver_version().await.unwrap();
}
