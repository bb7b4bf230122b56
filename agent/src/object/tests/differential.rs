//! The stripper against a parser: the same value, minus what must go.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::*;
use super::{pod_context, text_of};

/// JSON text of `value` with whitespace and escapes sprinkled in, steered by `noise`.
fn spell(value: &Value, noise: &mut impl FnMut() -> u8, out: &mut String) {
    let gap = |noise: &mut dyn FnMut() -> u8, out: &mut String| {
        out.push_str(match noise() % 16 {
            0 => " ",
            1 => "\n\t",
            2 => "\r\n  ",
            _ => "",
        });
    };
    gap(noise, out);
    match value {
        Value::String(text) => spell_text(text, noise, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                spell(item, noise, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                gap(noise, out);
                spell_text(key, noise, out);
                gap(noise, out);
                out.push(':');
                spell(member, noise, out);
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
    gap(noise, out);
}

fn spell_text(text: &str, noise: &mut impl FnMut() -> u8, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        if noise().is_multiple_of(24) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        } else {
            out.push_str(serde_json::to_string(&letter).unwrap().trim_matches('"'));
            if letter == '"' {
                out.push('"');
            }
        }
    }
    out.push('"');
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000_i32..1000).prop_map(|number| Value::from(f64::from(number) / 8.0)),
        r#"[a-z"\\ ,:{}\[\]\n/é😀]{0,12}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            members(inner, 5).prop_map(Value::from),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>, up_to: usize) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((r#"[a-z"\\ /]{0,8}"#, value), 0..up_to).prop_map(|list| list.into_iter().collect())
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

proptest! {
    #[test]
    fn the_body_is_the_object_minus_what_must_go(
        top in members(json(), 40),
        metadata in members(json(), 40),
        annotations in prop::option::of(members(json(), 40)),
        (managed, applied, version) in any::<(bool, bool, bool)>(),
        noise in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut metadata = metadata;
        metadata.insert("name".into(), "n".into());
        if managed {
            metadata.insert("managedFields".into(), Value::Array(vec![Value::Null]));
        }
        if version {
            metadata.insert("resourceVersion".into(), "12".into());
        }
        if let Some(mut annotations) = annotations {
            if applied {
                annotations.insert(LAST_APPLIED.into(), "copy".into());
            }
            metadata.insert("annotations".into(), annotations.into());
        }
        let mut object = top;
        object.insert("metadata".into(), metadata.into());
        let object = Value::Object(object);

        let mut turns = noise.iter().cycle();
        let mut raw = String::new();
        spell(&object, &mut || *turns.next().unwrap(), &mut raw);
        let prepared = prepare(raw.as_bytes(), &pod_context()).unwrap();
        let read: Value = serde_json::from_slice(&prepared.body).unwrap();

        let mut expected: Value = serde_json::from_str(&raw).unwrap();
        expected["apiVersion"] = "v1".into();
        expected["kind"] = "Pod".into();
        let metadata = expected["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
        }
        prop_assert_eq!(&read, &expected, "{}", raw);

        // Compact: as long as the escapes it came with allow, and the same after another pass.
        let again = prepare(&prepared.body, &pod_context()).unwrap();
        prop_assert_eq!(text_of(&again.body), text_of(&prepared.body));
        // By the lengths, the members are found where they are found without.
        let by_lengths = Outline::by_lengths(text_of(&prepared.body), prepared.body.lengths()).map(|outline| format!("{outline:?}"));
        prop_assert_eq!(by_lengths, Some(format!("{:?}", Outline::parse(text_of(&prepared.body)).unwrap())));
        prop_assert_eq!(again.hash, prepared.hash);
    }

    #[test]
    fn no_input_is_too_odd(raw in prop::collection::vec(any::<u8>(), 0..80), text in r#"[{}\[\]",:\\u0a-z \n]{0,60}"#) {
        let _ = prepare(&raw, &pod_context());
        let _ = prepare(format!(r#"{{"metadata":{{"name":"n",{text}}}}}"#).as_bytes(), &pod_context());
        let _ = WatchEvent::parse(text.as_bytes()).map(|event| event.kind);
        let _ = ListPage::parse(text.as_bytes()).map(|page| page.items.len());
    }
}
