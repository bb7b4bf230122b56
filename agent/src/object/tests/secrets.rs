//! No value of a Secret passes, whatever the object looks like.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::body;

fn secret_context() -> TypeContext {
    TypeContext {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        is_secret: true,
        redact: true,
        metadata_only: false,
    }
}

#[test]
fn keys_stay_and_values_do_not() {
    let raw = r#"{"type":"Opaque","immutable":true,"metadata":{"name":"n"},"data":{"pass\u0077ord":"aHVudGVyMg==","empty":"","odd":{"a":"hunter2"}},"stringData":{"token":"hunter2"}}"#;
    assert_eq!(
        body(raw, &secret_context()),
        r#"{"apiVersion":"v1","kind":"Secret","type":"Opaque","immutable":true,"metadata":{"name":"n"},"data":{"pass\u0077ord":"UkVEQUNURUQ=","empty":"UkVEQUNURUQ=","odd":"UkVEQUNURUQ="},"stringData":{"token":"REDACTED"}}"#
    );
    assert_eq!(STANDARD.decode(DATA_PLACEHOLDER).unwrap(), TEXT_PLACEHOLDER.as_bytes());
}

/// Its values are not read, so none of them can be looked for in an annotation.
#[test]
fn without_its_values_a_secret_keeps_only_annotations_that_never_hold_one() {
    let context = TypeContext { metadata_only: true, ..secret_context() };
    let served_elsewhere = TypeContext { is_secret: false, ..context.clone() };
    let raw = r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"n","annotations":{"note":"the password is hunter2","meta.helm.sh/release-name":"web","argocd.argoproj.io/applied":"hunter2"}}}"#;
    for context in [context, served_elsewhere] {
        assert_eq!(
            body(raw, &context),
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"n","annotations":{"note":"REDACTED","meta.helm.sh/release-name":"web","argocd.argoproj.io/applied":"REDACTED"}}}"#
        );
        let asked_for = body(raw, &TypeContext { redact: false, ..context });
        assert!(asked_for.contains("hunter2"), "{asked_for}");
    }
}

#[test]
fn values_do_pass_where_that_was_asked_for() {
    let context = TypeContext { redact: false, ..secret_context() };
    let raw = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"n"},"data":{"p":"aHVudGVyMg=="}}"#;
    assert_eq!(body(raw, &context), raw);
}

#[test]
fn no_place_of_a_secret_leaks_its_value() {
    let value = "hunter2-hunter2";
    let packed = STANDARD.encode(value);
    let copy = json!({"data": {"p": packed}}).to_string();
    let wrapped = STANDARD.encode(&copy);
    let secret = |annotations: Value| json!({"metadata": {"name": "n", "annotations": annotations}, "data": {"p": packed}, "stringData": {"q": value}});
    for (what, object) in [
        ("kubectl", secret(json!({"kubectl.kubernetes.io/last-applied-configuration": copy}))),
        ("other tool, JSON", secret(json!({"example.com/state": copy}))),
        ("other tool, packed", secret(json!({"objectset.example.com/applied": wrapped}))),
        ("other tool, packed and long", secret(json!({"example.com/x": wrapped.repeat(9)}))),
        ("other tool, YAML", secret(json!({"example.com/state": format!("data:\n  p: {packed}")}))),
        ("bare value", secret(json!({"example.com/hint": value}))),
        ("packed value", secret(json!({"example.com/hint": format!("was {packed}")}))),
        ("annotations are text", secret(json!(value))),
        ("unknown member", json!({"metadata": {"name": "n"}, "Data": {"p": packed}, "spec": {"p": value}})),
        ("data is text", json!({"metadata": {"name": "n"}, "data": packed, "stringData": [value]})),
        ("managed fields", json!({"metadata": {"name": "n", "managedFields": [value, packed]}})),
    ] {
        let published = body(&object.to_string(), &secret_context());
        for trace in [value, packed.as_str(), wrapped.as_str()] {
            assert!(!published.contains(trace), "{what}: {published}");
        }
    }
}

#[test]
fn plain_annotations_of_a_secret_stay() {
    let raw = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"n","annotations":{"kubernetes.io/service-account.name":"builder","a":"b"}},"data":{"p":"aHVudGVyMg=="}}"#;
    assert!(body(raw, &secret_context()).contains(r#"{"kubernetes.io/service-account.name":"builder","a":"b"}"#));
}

#[test]
fn a_secret_served_under_another_type_is_still_one() {
    let context = TypeContext { is_secret: false, ..secret_context() };
    let raw = r#"{"kind":"S\u0065cret","apiVersion":"v1","metadata":{"name":"n"},"data":{"p":"aHVudGVyMg=="}}"#;
    assert!(!body(raw, &context).contains("aHVudGVyMg"));
}

#[test]
fn a_repeated_member_does_not_smuggle_a_value() {
    let raw =
        r#"{"metadata":{"name":"n"},"data":{"p":"aHVudGVyMg=="},"d\u0061ta":{"p":"aHVudGVyMw==","p":"aHVudGVyNA=="}}"#;
    assert!(!body(raw, &secret_context()).contains("aHVudGVy"));
}

#[test]
fn a_changed_value_does_not_change_the_hash() {
    let hash = |value: &str| {
        let raw = format!(r#"{{"metadata":{{"name":"n"}},"data":{{"p":"{value}"}}}}"#);
        prepare(raw.as_bytes(), &secret_context()).unwrap().hash
    };
    assert_eq!(hash("aHVudGVyMg=="), hash("aHVudGVyMw=="));
}

proptest! {
    #[test]
    fn no_value_is_in_the_body(
        values in prop::collection::vec("[A-Za-z0-9+/]{24,64}", 1..6),
        prefix in "[ -~]{0,20}",
        key in "[a-z./]{1,20}",
    ) {
        let data: serde_json::Map<_, _> =
            values.iter().enumerate().map(|(index, value)| (format!("k{index}"), json!(STANDARD.encode(value)))).collect();
        let annotations: serde_json::Map<_, _> = values
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("{key}{index}"), json!(format!("{prefix}{value}"))))
            .collect();
        let raw = json!({"metadata": {"name": "n", "annotations": annotations}, "data": data}).to_string();
        let published = body(&raw, &secret_context());
        for value in &values {
            prop_assert!(!published.contains(value.as_str()), "{}", published);
            prop_assert!(!published.contains(&STANDARD.encode(value)), "{}", published);
        }
        let read: Value = serde_json::from_str(&published).unwrap();
        prop_assert_eq!(read["data"].as_object().unwrap().len(), values.len());
    }
}
