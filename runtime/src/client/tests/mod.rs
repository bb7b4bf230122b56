//! Errors in kubeconfigs, and what a server sees of a client.

mod connections;
mod credentials;
mod deadline;
mod proxies;
mod server;

use std::path::PathBuf;

use super::*;

const BUILD: BuildInfo = BuildInfo { name: "test", version: "0", revision: None };

#[tokio::test]
async fn error_names_an_unreadable_kubeconfig() {
    crate::tls::install_provider();
    let args = ClientArgs { kubeconfig: Some("no/such/file".into()), context: None };
    let error = connect(&args, &BUILD, Retry::Caller).await.err().unwrap().to_string();
    assert!(error.contains("no/such/file") && error.contains("--kubeconfig"), "{error}");
}

fn kubeconfig(name: &str, content: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("meshsync-{name}-{}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

fn for_server(url: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    })
    .to_string()
}

#[tokio::test]
async fn error_says_what_is_wrong_with_a_kubeconfig() {
    crate::tls::install_provider();
    let cases = [("broken", "clusters: [", None), ("context", &for_server("http://localhost"), Some("elsewhere"))];
    for (name, content, context) in cases {
        let path = kubeconfig(name, content);
        let args = ClientArgs { kubeconfig: Some(path.clone()), context: context.map(str::to_owned) };
        let error = connect(&args, &BUILD, Retry::Caller).await.err().unwrap().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(context.unwrap_or("parse")), "{error}");
    }
}

/// The User-Agents of the requests that a permanently busy server received.
async fn asked(retry: Retry) -> Vec<String> {
    crate::tls::install_provider();
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let busy = axum::Router::new().fallback(async move |headers: http::HeaderMap| {
        seen.lock().unwrap().push(headers.get(USER_AGENT).unwrap().to_str().unwrap().to_owned());
        http::StatusCode::SERVICE_UNAVAILABLE
    });
    let listener = crate::probes::bind("127.0.0.1:0".parse().unwrap(), "test").await.unwrap();
    let path =
        kubeconfig(&format!("busy-{retry:?}"), &for_server(&format!("http://{}", listener.local_addr().unwrap())));
    let shutdown = crate::shutdown::Shutdown::new();
    let server = tokio::spawn(crate::probes::serve(listener, busy, "test", shutdown.clone()));
    let args = ClientArgs { kubeconfig: Some(path.clone()), context: None };
    let Connected { client, .. } = connect(&args, &BUILD, retry).await.unwrap();
    assert!(client.apiserver_version().await.is_err());
    drop(client);
    shutdown.begin();
    server.await.unwrap().unwrap();
    std::fs::remove_file(path).unwrap();
    std::mem::take(&mut *asked.lock().unwrap())
}

#[tokio::test]
async fn client_retries_a_busy_server_as_configured_and_sends_its_user_agent() {
    assert_eq!(asked(Retry::Caller).await, ["test/0"]);
    assert_eq!(asked(Retry::Briefly).await, ["test/0"; 4]);
}
