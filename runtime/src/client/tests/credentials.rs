//! Kubeconfigs that kubectl accepts, and credentials that cannot be used.

use serde_json::{Value, json};

use super::super::kubeconfig::Files;
use super::server::base64;
use super::*;

/// The result of connecting with this user of a kubeconfig.
async fn connected_as(name: &str, user: Value) -> Result<Client, ConnectError> {
    crate::tls::install_provider();
    let mut file: Value = serde_json::from_str(&for_server("https://localhost:1")).unwrap();
    file["users"][0]["user"] = user;
    connected(name, &file, None).await
}

async fn connected(name: &str, file: &Value, context: Option<&str>) -> Result<Client, ConnectError> {
    crate::tls::install_provider();
    let path = kubeconfig(name, &file.to_string());
    let args = ClientArgs { kubeconfig: Some(path.clone()), context: context.map(str::to_owned) };
    let connected = connect(&args, &BUILD, Retry::Caller).await;
    std::fs::remove_file(path).unwrap();
    connected.map(|connected| connected.client)
}

#[tokio::test]
async fn token_may_end_in_a_newline() {
    assert!(connected_as("newline", json!({"token": " secret\r\n"})).await.is_ok());
    let error = connected_as("inner-newline", json!({"token": "sec\nret"})).await.err().unwrap().to_string();
    assert!(error.contains("token") && !error.contains("ret\n"), "{error}");
}

fn exec(command: &str, args: &[&str]) -> Value {
    json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": args,
        "installHint": "get it from https://tool.example\n", "interactiveMode": "Never",
    }})
}

#[tokio::test]
async fn error_about_a_missing_exec_plugin_includes_its_install_hint() {
    let error = connected_as("no-plugin", exec("no-such-plugin", &[])).await.err().unwrap().to_string();
    assert!(
        error.contains("no-such-plugin") && error.ends_with("install it: get it from https://tool.example"),
        "{error}"
    );
}

#[tokio::test]
async fn exec_plugin_with_an_invalid_token_does_not_crash_the_client() {
    let answer = |token: &str| {
        let status = json!({"token": token});
        json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}).to_string()
    };
    assert!(connected_as("plugin", exec("echo", &[&answer("secret")])).await.is_ok());
    let error = connected_as("bad-plugin", exec("echo", &[&answer("sec\nret")])).await.err().unwrap();
    assert!(matches!(error, ConnectError::Token), "{error}");
}

/// Created with `openssl x509 -req`, which creates version 1 unless extensions are given. Valid until 2126.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBGTCBvwIUcQgZmCxlNY61O++3QP1rdwZIG/EwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyODA1MTQxMFoYDzIxMjYxMTA0MDUxNDEwWjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQVIzsrKbE/arMe
aJJw/ybaxD1rz4NjMbALkrdKgpOB3+PAzpnNNzu4LpDK+iwP630c+FRtQxifs83R
xtcGlKFWMAoGCCqGSM49BAMCA0kAMEYCIQDQ/67ffp0UbJAYBpNxyFK0XY0KKbD5
y2CvVMaUfXb0PgIhAOQ8BjxKaZ0iZuK5fRCuieuEO7qRHWlzCp7yUsEDc7EK
-----END CERTIFICATE-----
";

#[tokio::test]
async fn client_certificate_of_x509_version_1_is_named_in_the_error() {
    let key = rcgen::generate_simple_self_signed(vec![]).unwrap();
    let user = |certificate: &str| {
        let key = key.signing_key.serialize_pem();
        json!({"client-certificate-data": base64(certificate.as_bytes()), "client-key-data": base64(key.as_bytes())})
    };
    assert!(connected_as("version-3", user(&key.cert.pem())).await.is_ok());
    let error = connected_as("version-1", user(VERSION_1)).await.err().unwrap().to_string();
    assert!(error.contains("X.509 version 1"), "{error}");
}

#[tokio::test]
async fn error_about_a_missing_context_lists_the_existing_contexts() {
    let mut file: Value = serde_json::from_str(&for_server("https://localhost:1")).unwrap();
    for nothing in [json!(""), Value::Null] {
        file["current-context"] = nothing;
        let error = connected("no-context", &file, None).await.err().unwrap().to_string();
        assert!(error.contains("no current context") && error.ends_with("--context: c"), "{error}");
    }
    assert!(connected("with-context", &file, Some("c")).await.is_ok());
    let error = connected("other-context", &file, Some("d")).await.err().unwrap().to_string();
    assert!(error.contains("no context d") && error.ends_with("--context: c"), "{error}");
}

#[test]
fn missing_files_in_a_list_of_kubeconfigs_are_ignored() {
    let one = kubeconfig("list-one", &for_server("https://one").replace("\"c\"", "\"first\""));
    let two = kubeconfig("list-two", &for_server("https://two"));
    let list = std::env::join_paths(["/no/such/file".as_ref(), one.as_path(), two.as_path()]).unwrap();
    let merged = Files::found(Some(&list), None).read().unwrap().unwrap();
    let contexts: Vec<_> = merged.contexts.iter().map(|context| context.name.as_str()).collect();
    assert_eq!((contexts, merged.current_context.as_deref()), (vec!["first", "c"], Some("first")));
    std::fs::write(&two, "clusters: [").unwrap();
    let error = Files::found(Some(&list), None).read().unwrap_err().to_string();
    assert!(error.contains(two.to_str().unwrap()), "{error}");
    for file in [one, two] {
        std::fs::remove_file(file).unwrap();
    }
    assert!(Files::found(Some("/no/such/file".as_ref()), None).read().unwrap().is_none());
    assert!(Files::found(None, Some("/no/such/home".as_ref())).read().unwrap().is_none());
}
