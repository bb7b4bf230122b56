//! A server that answers never, partly, or one byte at a time.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tokio::time::Instant;
use tower_test::mock;

use super::super::deadline::DeadlineLayer;
use super::*;

const SERVER: &str = "https://server.example";
const LONG: Duration = Duration::from_secs(100 * 3600);

type Parts = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A body whose parts each follow a pause.
fn parts(parts: impl Iterator<Item = Duration> + Send + 'static) -> Parts {
    let parts = stream::iter(parts).then(async |pause| {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(Bytes::from_static(b"x")))
    });
    StreamBody::new(parts.boxed())
}

/// A client whose server answers each request with `status` and a body, or never.
fn client(answer: impl Fn() -> Option<(u16, Parts)> + Send + 'static) -> Client {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Parts>>();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((_, send)) = handle.next_request().await {
            match answer() {
                Some((status, body)) => send.send_response(Response::builder().status(status).body(body).unwrap()),
                None => unanswered.push(send),
            }
        }
    });
    ClientBuilder::new(service, "default").with_layer(&DeadlineLayer::new(Limits::default(), SERVER)).build()
}

/// The result of a request and its duration, at most [`LONG`].
async fn outcome(client: &Client, request: http::request::Builder) -> (Result<usize, String>, Duration) {
    let began = Instant::now();
    let asked = async {
        let answer = client.send(request.body(Body::empty()).unwrap()).await.map_err(|error| chain(&error))?;
        let body = answer.into_body().into_data_stream().map_err(|error| chain(&error));
        body.try_fold(0, async |sum, part| Ok(sum + part.len())).await
    };
    let end = tokio::time::timeout(LONG, asked).await.unwrap_or(Err("the request never ended".to_owned()));
    (end, began.elapsed())
}

async fn fails(client: &Client, request: http::request::Builder, message: &str, after_seconds: u64) {
    let (end, took) = outcome(client, request).await;
    let error = end.unwrap_err();
    assert!(error.contains(message) && error.contains(SERVER), "{error}");
    assert_eq!(took.as_secs(), after_seconds, "{error}");
}

#[tokio::test(start_paused = true)]
async fn request_fails_when_its_head_never_arrives() {
    let client = client(|| None);
    let message = "the head of the answer did not arrive from https://server.example within 30 s: GET /apis";
    fails(&client, Request::get("/apis"), message, 30).await;
    fails(&client, Request::get("/api/v1/pods?watch=true&resourceVersion=1"), "the head", 30).await;
    fails(&client, Request::get("/api/v1/pods?limit=500"), "the head", 65).await;
    fails(&client, Request::patch("/api/v1/pods/a"), "PATCH /api/v1/pods/a", 65).await;
}

#[tokio::test(start_paused = true)]
async fn request_fails_when_its_body_stalls() {
    let half = || parts([Duration::ZERO].into_iter().chain([LONG * 2]));
    let found = client(move || Some((200, half())));
    let message = "the next part of the answer did not arrive from https://server.example within 30 s: GET /apis";
    fails(&found, Request::get("/apis"), message, 30).await;
    for watch in ["/api/v1/pods?watch=true", "/api/v1/pods?limit=1", "/log?follow=true"] {
        let busy = client(move || Some((429, half())));
        fails(&busy, Request::get(watch), "the next part", 30).await;
    }
}

#[tokio::test(start_paused = true)]
async fn request_fails_when_its_body_arrives_byte_by_byte() {
    let slow = client(|| Some((200, parts(std::iter::repeat(Duration::from_secs(29))))));
    fails(&slow, Request::get("/apis"), "the end of the answer", 300).await;
    let fast = client(|| Some((200, parts(std::iter::repeat(Duration::from_secs(1))))));
    fails(&fast, Request::get("/apis"), "the end of the answer", 300).await;
}

#[tokio::test(start_paused = true)]
async fn answer_within_the_limits_arrives_whole() {
    let client = client(|| Some((200, parts([Duration::from_secs(29); 10].into_iter()))));
    let (end, _) = outcome(&client, Request::get("/apis")).await;
    assert_eq!(end, Ok(10));
}

#[tokio::test(start_paused = true)]
async fn watch_may_be_silent() {
    let pauses = || parts([LONG / 4, LONG / 4].into_iter());
    let client = client(move || Some((200, pauses())));
    for watch in ["/api/v1/pods?watch=true&resourceVersion=1", "/log?follow=true"] {
        let (end, took) = outcome(&client, Request::get(watch)).await;
        assert_eq!((end, took.as_secs()), (Ok(2), LONG.as_secs() / 2));
    }
}

/// A slow reader does not make a silent server.
#[tokio::test(start_paused = true)]
async fn slow_reader_does_not_count_as_a_silent_server() {
    let client = client(|| Some((200, parts([Duration::from_secs(20); 3].into_iter()))));
    let answer = client.send(Request::get("/apis").body(Body::empty()).unwrap()).await.unwrap();
    let mut body = answer.into_body().into_data_stream();
    while let Some(part) = body.try_next().await.unwrap() {
        assert_eq!(part, "x");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Uses all layers that `connect` builds.
#[tokio::test]
async fn both_kinds_of_client_abandon_a_silent_server() {
    crate::tls::install_provider();
    let listener = crate::probes::bind("127.0.0.1:0".parse().unwrap(), "test").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
        }
    });
    let short = Duration::from_millis(50);
    let limits = Limits { head: short, head_of_work: short, silence: short, whole: short, word: short };
    for retry in [Retry::Caller, Retry::Briefly] {
        let path = kubeconfig(&format!("silent-{retry:?}"), &for_server(&server));
        let args = ClientArgs { kubeconfig: Some(path.clone()), context: None };
        let Connected { client, .. } = connect_within(&args, &BUILD, retry, limits).await.unwrap();
        let asked = tokio::time::timeout(Duration::from_secs(30), client.apiserver_version()).await;
        let error = chain(&asked.expect("an end").unwrap_err());
        assert!(error.contains("within 0.05 s: GET /version") && error.contains(&server), "{error}");
        std::fs::remove_file(path).unwrap();
    }
    accepting.abort();
}
