use std::time::{Duration, Instant};

use axum::routing::get;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A proxy before a server with a document, and one with an answer that never ends; and a client of the proxy.
async fn proxy(name: &str) -> (ApiProxy, kube::Client) {
    // Another test may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endless = || async {
        let first = futures::stream::iter([Ok::<_, std::convert::Infallible>("{\"first\":1}\n")]);
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let router = Router::new().route("/document", get(|| async { "{\"number\":1}" })).route("/watch", get(endless));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let server = kube::Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let dir = std::env::temp_dir().join(format!("meshsync-proxy-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let proxy = ApiProxy::before(server, &dir).await.unwrap();
    let kubeconfig = Kubeconfig::read_from(proxy.kubeconfig()).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    (proxy, kube::Client::try_from(config).unwrap())
}

async fn ask(client: &kube::Client, path: &str) -> kube::Result<String> {
    let request = Request::get(path).body(Vec::new()).unwrap();
    tokio::time::timeout(SOON, client.request_text(request)).await.unwrap()
}

fn increased(document: &mut Value) {
    *document = json!({"number": 2});
}

#[tokio::test]
async fn proxy_counts_requests_and_passes_those_without_a_rule() {
    let (proxy, client) = proxy("rules").await;
    assert_eq!(ask(&client, "/document").await.unwrap(), "{\"number\":1}");
    proxy.set([
        Rule::at("/document", Answer::Busy(1)).times(1),
        Rule::at("/document", Answer::Refused).times(1),
        Rule::at("/document", Answer::Changed(increased)).times(1),
        Rule::at("/document", Answer::Instead("text/html", "<html>")),
    ]);
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    assert_eq!(code(ask(&client, "/document").await.unwrap_err()), 429);
    assert_eq!(code(ask(&client, "/document?limit=5").await.unwrap_err()), 403);
    assert_eq!(ask(&client, "/document?continue=x").await.unwrap(), "{\"number\":2}");
    assert_eq!(ask(&client, "/document").await.unwrap(), "<html>");
    assert_eq!(proxy.count(|asked| asked.path == "/document"), 5);
    assert_eq!(proxy.count(|asked| asked.begins_list("/document")), 4);
}

#[tokio::test]
async fn proxy_breaks_off_shortens_and_slows_bodies() {
    let (proxy, client) = proxy("bodies").await;
    proxy.set([Rule::at("/document", Answer::EndAfter(5))]);
    assert_eq!(ask(&client, "/document").await.unwrap(), "{\"num");
    proxy.set([Rule::at("/document", Answer::CutAfter(5))]);
    assert!(ask(&client, "/document").await.is_err(), "a body that breaks off looks whole");
    proxy.set([Rule::at("/document", Answer::Dribble(Duration::from_millis(200)))]);
    let began = Instant::now();
    assert_eq!(ask(&client, "/document").await.unwrap(), "{\"number\":1}");
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    let (silence, half, error) = (Answer::Silence, Answer::FrozenAfter(5), Answer::FrozenError);
    for answer in [silence, half, error] {
        proxy.set([Rule::at("/document", answer)]);
        let request = Request::get("/document").body(Vec::new()).unwrap();
        let asked = tokio::time::timeout(Duration::from_millis(300), client.request_text(request)).await;
        assert!(asked.is_err(), "{answer:?} ends");
    }
}

#[tokio::test]
async fn proxy_cuts_an_answer_that_has_begun() {
    let (proxy, client) = proxy("cut").await;
    let request = Request::get("/watch").body(Vec::new()).unwrap();
    let watch = tokio::spawn(async move { client.request_text(request).await });
    while proxy.count(|asked| asked.path == "/watch") == 0 {
        tokio::task::yield_now().await;
    }
    let end = Instant::now() + SOON;
    while !watch.is_finished() {
        // The answer may not have begun at the first.
        proxy.cut();
        assert!(Instant::now() < end, "the answer continues");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(watch.await.unwrap().is_err(), "it ended as if it were whole");
}
