//! The Meshery format, byte for byte.

use serde_json::{Value, json};

use super::*;
use crate::encode::kubernetes;
use crate::object::{Body, TypeContext, prepare};

const CLUSTER: &str = "cccccccc-0000-0000-0000-000000000001";

fn body(api_version: &str, kind: &str, raw: &str) -> Body {
    let context = TypeContext {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        is_secret: kind == "Secret",
        redact: true,
        metadata_only: false,
    };
    prepare(raw.as_bytes(), &context).unwrap().body
}

/// The message, broken at its members: a comma before a quote ends one, since quotes inside of strings are escaped.
fn lines(message: &[u8]) -> String {
    serde_json::from_slice::<Value>(message).expect("a message is JSON");
    std::str::from_utf8(message).unwrap().replace(",\"", ",\n\"")
}

fn event(event: EventType, body: &Body, detail: Detail) -> String {
    let mut out = Vec::new();
    encode_event(event, body, CLUSTER, detail, &mut out).unwrap();
    lines(&out)
}

const DEPLOYMENT: &str = r#"{"metadata":{"name":"web","generateName":"gen-","namespace":"shop","selfLink":"/link",
    "uid":"11111111-2222-3333-4444-555555555555","resourceVersion":"4711","generation":3,
    "creationTimestamp":"2026-01-02T03:04:05Z","deletionTimestamp":"2026-06-07T08:09:10Z","deletionGracePeriodSeconds":0,
    "labels":{"zone":"z","app":"we\"b","design.meshery.io/id":"ABCDEF01-2345-6789-abcd-ef0123456789","empty":""},
    "annotations":{"b":"line\nbreak \\ ü","a":"1"},
    "ownerReferences":[{"kind":"App","name":"ow\"ner"}],"finalizers":["one","two"],
    "managedFields":[{"manager":"x"}]},
    "spec":{"text":"quo\"te","big":123456789012345678901234567890,"nested":{"a":[1,2]}},
    "status":{"replicas":2},"rules":["no field of the format"]}"#;

#[test]
fn a_full_object() {
    insta::assert_snapshot!(event(EventType::Added, &body("apps/v1", "Deployment", DEPLOYMENT), Detail::Full));
}

#[test]
fn metadata_alone() {
    insta::assert_snapshot!(event(
        EventType::Modified,
        &body("apps/v1", "Deployment", DEPLOYMENT),
        Detail::MetadataOnly
    ));
}

#[test]
fn the_smallest_object() {
    let raw = r#"{"metadata":{"name":"n","labels":null,"annotations":{},"generation":0},"spec":null,"data":null}"#;
    insta::assert_snapshot!(event(EventType::Modified, &body("v1", "Thing", raw), Detail::Full));
}

#[test]
fn a_secret() {
    let raw = r#"{"metadata":{"name":"s","namespace":"ns"},"immutable":true,"type":"Op\"aque",
        "data":{"password":"aHVudGVyMg=="},"stringData":{"token":"hunter2"}}"#;
    let message = event(EventType::Added, &body("v1", "Secret", raw), Detail::Full);
    assert!(!message.contains("hunter2") && !message.contains("aHVudGVyMg"));
    insta::assert_snapshot!(message);
}

#[test]
fn a_config_map() {
    let raw = r#"{"metadata":{"name":"c"},"data":{"k":"v"},"binaryData":{"b":"AAE="},"immutable":false}"#;
    insta::assert_snapshot!(event(EventType::Added, &body("v1", "ConfigMap", raw), Detail::Full));
}

#[test]
fn a_delete() {
    let deleted = Deleted {
        api_version: "apps/v1",
        kind: "Deployment",
        namespace: Some("shop"),
        name: "we\"b",
        uid: "11111111-2222-3333-4444-555555555555",
        resource_version: "4712",
    };
    let mut out = Vec::new();
    encode_deleted(&deleted, CLUSTER, &mut out);
    insta::assert_snapshot!(lines(&out));
    out.clear();
    encode_deleted(&Deleted { namespace: None, uid: "", resource_version: "", ..deleted }, CLUSTER, &mut out);
    let object = serde_json::from_slice::<Value>(&out).unwrap()["Object"].take();
    assert_eq!(object["metadata"], json!({"id": "", "name": "we\"b", "uid": "", "cluster_id": ""}));
}

/// What the consumer gets after its own decoding of the strings.
#[test]
fn strings_of_json_hold_the_value() {
    let mut out = Vec::new();
    encode_event(EventType::Added, &body("apps/v1", "Deployment", DEPLOYMENT), CLUSTER, Detail::Full, &mut out)
        .unwrap();
    let message: Value = serde_json::from_slice(&out).unwrap();
    let original: Value = serde_json::from_str(DEPLOYMENT).unwrap();
    let object = &message["Object"];
    let inner = |value: &Value| serde_json::from_str::<Value>(value.as_str().unwrap()).unwrap();
    assert_eq!(inner(&object["spec"]["attribute"]), original["spec"]);
    assert_eq!(inner(&object["status"]["attribute"]), original["status"]);
    assert_eq!(inner(&object["metadata"]["ownerReferences"]), original["metadata"]["ownerReferences"]);
    assert_eq!(inner(&object["metadata"]["finalizers"]), original["metadata"]["finalizers"]);
    assert!(object["spec"]["attribute"].as_str().unwrap().contains("123456789012345678901234567890"));
    assert_eq!(object["metadata"]["annotations"][1]["value"], original["metadata"]["annotations"]["b"]);
}

fn urls(api_version: &str, spec: Value, status: Value) -> Value {
    let raw = json!({"metadata": {"name": "s"}, "spec": spec, "status": status}).to_string();
    let mut out = Vec::new();
    encode_event(EventType::Added, &body(api_version, "Service", &raw), CLUSTER, Detail::Full, &mut out).unwrap();
    let message: Value = serde_json::from_slice(&out).unwrap();
    message["Object"]["component_metadata"].clone()
}

#[test]
fn services_tell_where_they_are_reached() {
    let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 443, "nodePort": 30443}]);
    let balancer = |ingress: Value| json!({"loadBalancer": {"ingress": ingress}});
    let plain = |address: &str, port: u16| json!({"clusterIP": address, "ports": [{"port": port}]});
    for (spec, status, expected) in [
        (plain("10.0.0.1", 8080), json!({}), json!(["http://10.0.0.1:8080"])),
        (plain("10.0.0.1", 443), json!(null), json!(["https://10.0.0.1:443"])),
        (plain("fd00::1", 80), json!({}), json!(["http://[fd00::1]:80"])),
        (plain("None", 80), json!({}), json!([])),
        (plain("", 80), json!({}), json!([])),
        (json!({"clusterIP": "10.0.0.1"}), json!({}), json!([])),
        (json!({"clusterIP": 7, "ports": [{"port": 80}]}), json!({}), json!([])),
        (
            json!({"clusterIP": "10.0.0.1", "ports": ports}),
            json!({}),
            json!(["http://localhost:30443", "https://10.0.0.1:443"]),
        ),
        (
            json!({"clusterIP": "10.0.0.1", "ports": ports}),
            balancer(json!([{"ip": "1.2.3.4"}, {"ip": "5.6.7.8"}])),
            json!(["https://1.2.3.4:443", "https://10.0.0.1:443"]),
        ),
        (
            plain("10.0.0.1", 80),
            balancer(json!([{"hostname": "lb.example.com"}])),
            json!(["http://lb.example.com:80", "http://10.0.0.1:80"]),
        ),
    ] {
        let wanted = json!({"capabilities": {"connection": true, "urls": expected}});
        assert_eq!(urls("v1", spec.clone(), status), wanted, "{spec}");
    }
    assert_eq!(urls("serving.knative.dev/v1", json!({"template": {}}), json!({})), Value::Null);
}

#[test]
fn a_number_that_the_server_cannot_hold_is_left_out() {
    let raw = r#"{"metadata":{"name":"n","generation":123456789012345678901,"deletionGracePeriodSeconds":1.5}}"#;
    let message = event(EventType::Added, &body("v1", "Thing", raw), Detail::Full);
    assert!(!message.contains("generation") && !message.contains("deletionGracePeriodSeconds"), "{message}");
}

#[test]
fn a_skeleton_is_what_a_delete_tells() {
    let object = body("apps/v1", "Deployment", DEPLOYMENT);
    let deleted = Deleted {
        api_version: "apps/v1",
        kind: "Deployment",
        namespace: Some("shop"),
        name: "web",
        uid: "11111111-2222-3333-4444-555555555555",
        resource_version: "4711",
    };
    let said = |message: &[u8]| serde_json::from_slice::<Value>(message).unwrap()["Object"].take();
    let (mut skeleton, mut gone) = (Vec::new(), Vec::new());
    encode_event(EventType::Added, &object, CLUSTER, Detail::Skeleton, &mut skeleton).unwrap();
    encode_deleted(&deleted, CLUSTER, &mut gone);
    assert_eq!(said(&skeleton), said(&gone));

    (skeleton, gone) = (Vec::new(), Vec::new());
    kubernetes::encode_event(EventType::Added, &object, Detail::Skeleton, &mut skeleton).unwrap();
    kubernetes::encode_deleted(&deleted, &mut gone);
    assert_eq!(said(&skeleton), said(&gone));
}

#[test]
fn an_answer_holds_at_least_who_an_object_is() {
    let labels: serde_json::Map<String, Value> = (0..100).map(|at| (format!("label-{at}"), json!("x"))).collect();
    let raw = json!({"metadata": {"name": "many", "labels": labels}}).to_string();
    let mut reply = StoreReply::new(CLUSTER, 600);
    assert_eq!(reply.push(&body("v1", "Thing", &raw)).unwrap(), (Pushed::Skeleton, None));
    let mut deleted =
        Deleted { api_version: "v1", kind: "Thing", namespace: None, name: "n", uid: "u", resource_version: "5" };
    assert_eq!(reply.push_identity(&deleted).0, Pushed::Skeleton);
    let long = "n".repeat(600);
    deleted.name = &long;
    assert_eq!(reply.push_identity(&deleted).0, Pushed::TooLarge);
    let messages = reply.finish().concat();
    assert!(String::from_utf8(messages).unwrap().contains(r#""name":"many""#));
}

#[test]
fn store_replies_hold_everything_and_stay_below_the_limit() {
    let bodies: Vec<_> = (0..50)
        .map(|index| {
            let raw = format!(r#"{{"metadata":{{"name":"n{index}"}},"spec":"{}"}}"#, "x".repeat(index * 40));
            body("v1", "Thing", &raw)
        })
        .collect();
    let limit = 1500;
    let mut reply = StoreReply::new(CLUSTER, limit);
    let mut messages = Vec::new();
    let mut outcomes = Vec::new();
    for body in &bodies {
        let (pushed, full) = reply.push(body).unwrap();
        outcomes.push(pushed);
        messages.extend(full);
    }
    messages.extend(reply.finish());

    let mut names = Vec::new();
    let empty = br#"{"ObjectType":"","EventType":"","Request":null,"Object":[]}"#.to_vec();
    assert_eq!(messages.last(), Some(&empty), "the end is told");
    assert_eq!(StoreReply::new(CLUSTER, limit).finish(), [empty], "also by those who hold nothing");
    for message in &messages {
        assert!(message.len() <= limit, "{}", message.len());
        let read: Value = serde_json::from_slice(message).unwrap();
        assert_eq!((&read["ObjectType"], &read["EventType"], &read["Request"]), (&json!(""), &json!(""), &json!(null)));
        let objects = read["Object"].as_array().unwrap();
        names.extend(objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()));
        assert!(objects.iter().all(|object| object["cluster_id"] == CLUSTER));
    }
    assert_eq!(names, (0..50).map(|index| format!("n{index}")).collect::<Vec<_>>());
    assert!(messages.len() < 40, "objects share messages");
    assert!(outcomes.contains(&Pushed::Full) && outcomes.contains(&Pushed::MetadataOnly));
    let (pushed, full) = StoreReply::new(CLUSTER, 60).push(&bodies[0]).unwrap();
    assert_eq!((pushed, full), (Pushed::TooLarge, None));
}

#[test]
fn the_kubernetes_format_is_the_object_itself() {
    let object = body("apps/v1", "Deployment", DEPLOYMENT);
    let mut out = Vec::new();
    kubernetes::encode_event(EventType::Modified, &object, Detail::Full, &mut out).unwrap();
    let expected =
        [br#"{"ObjectType":"meshsync-data","EventType":"MODIFIED","Request":null,"Object":"#, &object[..], b"}"];
    assert_eq!(out, expected.concat());

    out.clear();
    kubernetes::encode_event(EventType::Added, &object, Detail::MetadataOnly, &mut out).unwrap();
    insta::assert_snapshot!("kubernetes_metadata_alone", lines(&out));

    out.clear();
    let deleted =
        Deleted { api_version: "v1", kind: "Node", namespace: None, name: "n", uid: "u", resource_version: "5" };
    kubernetes::encode_deleted(&deleted, &mut out);
    insta::assert_snapshot!("kubernetes_delete", lines(&out));
}
