//! Stripping and redaction, by table and against `serde_json`.

mod deep;
mod differential;
mod scan;
mod secrets;

use super::*;

fn pod_context() -> TypeContext {
    TypeContext {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        is_secret: false,
        redact: true,
        metadata_only: false,
    }
}

fn body(raw: &str, context: &TypeContext) -> String {
    text_of(&prepare(raw.as_bytes(), context).unwrap().body).to_owned()
}

fn text_of(body: &Body) -> &str {
    std::str::from_utf8(body).unwrap()
}

const POD: &str = r#"{"metadata":{"name":"web-0","generateName":"web-","namespace":"shop","uid":"11111111-2222-3333-4444-555555555555","resourceVersion":"4711","labels":{"app":"web"},"annotations":{"note":"a, b","kubectl.kubernetes.io/last-applied-configuration":"{\"copy\":1}"},"managedFields":[{"manager":"kubectl"}]},"spec":{"replicas":18446744073709551616,"ratio":1.50e1},"status":null}"#;

#[test]
fn a_pod_from_a_list_is_identified_and_stripped_in_place() {
    let pod = prepare(POD.as_bytes(), &pod_context()).unwrap();
    assert_eq!(pod.uid, Uid::new("11111111-2222-3333-4444-555555555555"));
    assert_eq!(pod.name, ObjectName::new(Some("shop"), "web-0"));
    assert_eq!(pod.resource_version, ResourceVersion::Number(4711));
    assert!(!pod.deleting);
    assert_eq!(
        text_of(&pod.body),
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","generateName":"web-","namespace":"shop","uid":"11111111-2222-3333-4444-555555555555","resourceVersion":"4711","labels":{"app":"web"},"annotations":{"note":"a, b"}},"spec":{"replicas":18446744073709551616,"ratio":1.50e1},"status":null}"#
    );
}

#[test]
fn the_hash_tells_content_and_nothing_else() {
    let hash = |raw: &str| prepare(raw.as_bytes(), &pod_context()).unwrap().hash;
    let own = hash(POD);
    assert_eq!(own, hash(&POD.replace("4711", "99999")), "resourceVersion");
    assert_eq!(own, hash(&POD.replace("\"manager\":\"kubectl\"", "\"manager\":\"other\"")), "managedFields");
    assert_eq!(own, hash(&POD.replace("\\\"copy\\\":1", "\\\"copy\\\":2")), "last-applied");
    assert_eq!(own, hash(&POD.replace("\":{", "\" : {").replace("},\"", "} ,\n\"")), "whitespace");
    for (from, to) in [("web-0", "web-1"), ("a, b", "a,b"), ("1.50e1", "1.5e1"), ("null", "{}"), ("shop", "shot")] {
        assert_ne!(own, hash(&POD.replace(from, to)), "{from}");
    }
}

/// A list item of a built-in type carries neither kind nor apiVersion, a watch event begins with the kind, a custom resource
/// has both where the alphabet puts them (kubernetes#98925).
#[test]
fn an_object_is_the_same_from_a_list_and_from_a_watch() {
    let members =
        [r#""metadata":{"name":"n","uid":"u","labels":{"a":"b"}}"#, r#""spec":{"a":1}"#, r#""status":{"b":2}"#];
    let [metadata, spec, status] = members;
    let types = r#""kind":"Pod","apiVersion":"v1""#;
    let reordered = r#""metadata":{"labels":{"a":"b"},"resourceVersion":"7","uid":"u","name":"n"}"#;
    let listed = prepare(format!("{{{metadata},{spec},{status}}}").as_bytes(), &pod_context()).unwrap();
    for raw in [
        format!("{{{types},{metadata},{spec},{status}}}"),
        format!(r#"{{"apiVersion":"v1",{metadata},"kind":"Pod",{spec},{status}}}"#),
        format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",{metadata},{spec},{status}}}"#),
    ] {
        assert_eq!(prepare(raw.as_bytes(), &pod_context()).unwrap(), listed, "{raw}");
    }
    let elsewhere = format!("{{{status},{types},{reordered},{spec}}}");
    assert_eq!(prepare(elsewhere.as_bytes(), &pod_context()).unwrap().hash, listed.hash);
    // The same words in another place are another object.
    for (from, to) in
        [("spec", "status2"), (r#""spec":{"a":1}"#, r#""metadata2":{"a":1}"#), (r#""uid":"u""#, r#""uid":"v""#)]
    {
        let other = format!("{{{metadata},{spec},{status}}}").replace(from, to);
        assert_ne!(prepare(other.as_bytes(), &pod_context()).unwrap().hash, listed.hash, "{other}");
    }
    let moved = r#"{"metadata":{"name":"n","uid":"u","labels":{"a":"b"},"spec":{"a":1}},"status":{"b":2}}"#;
    assert_ne!(prepare(moved.as_bytes(), &pod_context()).unwrap().hash, listed.hash);
}

#[test]
fn the_type_that_was_asked_for_is_what_the_object_says() {
    let odd = r#"{"kind":null,"metadata":{"name":"n"},"apiVersion":"v0"}"#;
    assert_eq!(body(odd, &pod_context()), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"n"}}"#);
}

#[test]
fn an_object_without_uid_is_known_by_its_name() {
    let raw = r#"{"metadata":{"name":"etcd-0","namespace":"","uid":"","deletionTimestamp":"2026-01-02T03:04:05Z"}}"#;
    let prepared = prepare(raw.as_bytes(), &pod_context()).unwrap();
    assert!(prepared.uid.is_named() && prepared.deleting);
    assert_eq!(prepared.uid, Uid::named(&ObjectName::new(None, "etcd-0")));
    assert_eq!(prepared.resource_version, ResourceVersion::None);
}

#[test]
fn metadata_only_leaves_the_rest_out() {
    let context = TypeContext { metadata_only: true, ..pod_context() };
    let raw = r#"{"metadata":{"name":"n","managedFields":[]},"spec":{"a":1},"data":{"b":"2"}}"#;
    assert_eq!(body(raw, &context), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"n"}}"#);
}

#[test]
fn escapes_in_keys_and_repeated_keys_hide_nothing() {
    let raw = r#"{"spec":1,"metadata":{"name":"first"},"m\u0065tadata":{"name":"l\u0061st","managed\u0046ields":[1],
        "annotations":{"x":"1","kubectl.kubernetes.io\/last-applied-configuration":"copy","x":"2"}},"spec":{"a" : 2}}"#;
    assert_eq!(
        body(raw, &pod_context()),
        r#"{"apiVersion":"v1","kind":"Pod","spec":{"a":2},"metadata":{"name":"l\u0061st","annotations":{"x":"2"}}}"#
    );
    assert_eq!(prepare(raw.as_bytes(), &pod_context()).unwrap().name.name(), "last");
}

#[test]
fn what_cannot_be_an_object_is_refused_in_words() {
    for (raw, words) in [
        (&b"{\"metadata\":{\"name\":\"a\xff\"}}"[..], "invalid UTF-8 at byte 22"),
        (b"", "object must be a JSON object"),
        (b"[{}]", "object must be a JSON object"),
        (b"{\"metadata\":{\"name\":\"a\"}", "object is not valid JSON"),
        (b"{\"metadata\":{\"name\":\"a\"}}{}", "object is not valid JSON"),
        (b"{\"spec\":{}}", "metadata is missing"),
        (b"{\"metadata\":null}", "metadata is missing"),
        (b"{\"metadata\":[]}", "metadata must be a JSON object"),
        (b"{\"metadata\":{\"namespace\":\"a\"}}", "metadata.name is missing"),
        (b"{\"metadata\":{\"name\":\"\"}}", "metadata.name is missing"),
        (b"{\"metadata\":{\"name\":17}}", "metadata.name is missing"),
    ] {
        let message = prepare(raw, &pod_context()).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn hostile_sizes_are_handled_in_linear_time_without_recursion() {
    let deep = format!(r#"{{"metadata":{{"name":"n"}},"spec":{}{}}}"#, "[".repeat(700_000), "]".repeat(700_000));
    assert!(body(&deep, &pod_context()).len() > 1_400_000);
    let many: Vec<_> = (0..150_000).map(|index| format!("\"k{index}\":\"\\u0041\"")).collect();
    let wide = format!(r#"{{"metadata":{{"name":"n","annotations":{{{}}}}}}}"#, many.join(","));
    assert!(body(&wide, &pod_context()).ends_with("\"k149999\":\"\\u0041\"}}}"));
}
