//! What is written of objects that YAML's writer, or the reader before it, does not take.

use meshsync_crds::discovery::ServedType;

use super::*;
use crate::object::{TypeContext, prepare};
use crate::snapshot::tests::served;

fn store(specs: &[&str]) -> std::sync::Arc<Store> {
    let store = Store::new();
    let served: ServedType = served("things", &["list"]);
    let context = TypeContext::new(&served, meshsync_crds::agent_config::SecretPolicy::Redact);
    let (_, table) = store.open(&served);
    for (index, spec) in specs.iter().enumerate() {
        let raw = format!(r#"{{"metadata":{{"name":"o{index}","uid":"u{index}"}},"spec":{spec}}}"#);
        table.upsert(&prepare(raw.as_bytes(), &context).unwrap());
    }
    store
}

fn yaml(store: &Store) -> (usize, String) {
    let mut out = Vec::new();
    let count = write_yaml(store, &mut out).unwrap();
    (count, String::from_utf8(out).unwrap())
}

#[test]
fn one_odd_object_does_not_cut_the_file_off() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let odd = [nested(129), nested(100_000), "1e400".to_owned(), r#""\ud800""#.to_owned()];
    for odd in odd {
        let store = store(&["{\"a\":1}", &odd, "{\"b\":2}"]);
        let (count, text) = yaml(&store);
        let documents: Vec<&str> = text.split("---\n").skip(1).collect();
        assert_eq!((count, documents.len()), (3, 3));
        // JSON is YAML, too.
        let body = format!(
            r#"{{"apiVersion":"example.com/v1","kind":"Thing","metadata":{{"name":"o1","uid":"u1"}},"spec":{odd}}}"#
        );
        assert!(documents.contains(&format!("{body}\n").as_str()));
        assert!(text.contains("a: 1") && text.contains("b: 2"));
    }
}

#[test]
fn what_yaml_can_say_reads_back_as_it_is() {
    let specs = [r#"{"a":"yes","b":"1","c":"- x","d":"","e":[],"f":{},"g":null,"h":"x\ny"}"#, "{\"a\":[[[1]],[2]]}"];
    let (_, text) = yaml(&store(&specs));
    for (document, spec) in text.split("---\n").skip(1).zip(specs) {
        let read: serde_json::Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(read["spec"], serde_json::from_str::<serde_json::Value>(spec).unwrap());
    }
}
