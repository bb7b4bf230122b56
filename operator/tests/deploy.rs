//! The files in `deploy/` agree with the code.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::{Path, PathBuf};

use meshsync_crds::MeshSync;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Reads the document as `K` and serializes it again, which drops everything that `K` does not know.
fn round_trip<K: DeserializeOwned + serde::Serialize>(document: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<K>(document.clone()).unwrap()).unwrap()
}

#[test]
fn committed_definition_equals_the_generated_definition() {
    let path = deploy().join("crds/meshsyncs.yaml");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let generated = meshsync_operator::cli::crds_yaml().unwrap();
    assert!(committed == generated, "{} is out of date: run `just generate`", path.display());
}

#[test]
fn samples_contain_only_fields_of_the_api() {
    let mut samples = 0;
    for entry in std::fs::read_dir(deploy().join("samples")).unwrap() {
        let path = entry.unwrap().path();
        for document in documents(&path).iter().filter(|document| document["kind"] == "MeshSync") {
            samples += 1;
            assert_eq!(round_trip::<MeshSync>(document)["spec"], document["spec"], "{}", path.display());
        }
    }
    assert_eq!(samples, 3);
}

#[test]
fn manifest_contains_only_fields_of_kubernetes() {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::*, rbac::v1::*};
    for document in documents(&deploy().join("manifests/operator.yaml")) {
        let known = match document["kind"].as_str().unwrap() {
            "Namespace" => round_trip::<Namespace>(&document),
            "ServiceAccount" => round_trip::<ServiceAccount>(&document),
            "ClusterRole" => round_trip::<ClusterRole>(&document),
            "ClusterRoleBinding" => round_trip::<ClusterRoleBinding>(&document),
            "Deployment" => round_trip::<Deployment>(&document),
            other => panic!("unexpected kind {other}"),
        };
        assert_eq!(known, document);
    }
}

#[test]
fn operator_has_no_wildcard_verb_and_no_way_around_the_ceiling() {
    for document in documents(&deploy().join("manifests/operator.yaml")) {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let verbs: Vec<&str> = rule["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            for forbidden in ["*", "escalate", "bind", "impersonate"] {
                assert!(!verbs.contains(&forbidden), "{rule}");
            }
            let reads_only = verbs.iter().all(|verb| matches!(*verb, "list" | "watch"));
            assert!(reads_only || !rule["resources"].to_string().contains('*'), "{rule}");
        }
    }
}
