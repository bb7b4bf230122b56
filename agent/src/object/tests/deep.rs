//! Objects that are nested deeper than any parser that recurses would bear: an API server takes 10,000 levels.

use super::*;
use crate::encode::{Detail, EventType, kubernetes, meshery};

const DEPTHS: [usize; 4] = [100, 129, 10_000, 100_000];

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn raw(spec: &str) -> String {
    format!(r#"{{"metadata":{{"name":"deep","managedFields":{spec},"annotations":{{"odd":{spec}}}}},"spec":{spec}}}"#)
}

#[test]
fn an_object_of_any_depth_is_prepared_and_encoded() {
    for depth in DEPTHS {
        let spec = nested(depth);
        let expected = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"deep","annotations":{{"odd":{spec}}}}},"spec":{spec}}}"#
        );
        // A blank in front is nothing for the quick reader.
        for raw in [raw(&spec), format!(" {}", raw(&spec))] {
            assert!(body(&raw, &pod_context()) == expected, "{depth}");
            let frame = format!(r#"{{"type":"ADDED","object":{raw}}}"#);
            let event = WatchEvent::parse(frame.as_bytes()).unwrap();
            assert!(event.prepare(&pod_context()).unwrap().body[..] == *expected.as_bytes(), "{depth}");
        }
        let mut out = Vec::new();
        kubernetes::encode_event(EventType::Added, expected.as_bytes(), Detail::Full, &mut out).unwrap();
        meshery::encode_event(EventType::Added, &expected.into_bytes().into(), "c", Detail::Full, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().matches(&spec).count() >= 3, "{depth}");
    }
}

#[test]
fn a_secret_of_any_depth_is_redacted() {
    let context = TypeContext { is_secret: true, ..pod_context() };
    for depth in DEPTHS {
        let odd = nested(depth);
        let raw =
            format!(r#"{{"metadata":{{"name":"s","annotations":{{"a":{odd}}}}},"data":{{"d":{odd}}},"other":{odd}}}"#);
        let body = body(&raw, &context);
        assert!(!body.contains("[[") && body.contains(DATA_PLACEHOLDER) && body.contains(TEXT_PLACEHOLDER), "{depth}");
    }
}

#[test]
fn a_deep_object_does_not_keep_a_list_from_being_read_in_parts() {
    let item = |name: &str, spec: &str| {
        format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec},"text":"{}"}}"#, "x".repeat(100_000))
    };
    for depth in DEPTHS {
        let mut items = vec![item("deep", &nested(depth))];
        items.extend((0..39).map(|index| item(&format!("flat-{index}"), "{}")));
        let text = format!(r#"{{"kind":"PodList","items":[{}],"metadata":{{}}}}"#, items.join(","));
        let mut list = ListBody::default();
        let given: usize = text.as_bytes().chunks(8_000).map(|chunk| list.push(chunk).len()).sum();
        assert!(given >= 30, "{given} of 40 came before the end at depth {depth}");
        assert_eq!(list.finish().unwrap().items.len() + given, 40);
    }
}
