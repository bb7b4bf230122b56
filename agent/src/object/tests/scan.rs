//! The quick reader against `serde_json`.

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::scan::Scan;
use super::super::*;

/// The value that `text` is as a whole, by the quick reader.
fn read(text: &str) -> Option<&str> {
    let mut scan = Scan::new(text);
    scan.value().filter(|_| scan.is_at_end())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        r#"[ -~\n\u{7f}-\u{a1}é😀]{0,20}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key = r#"kind|items|metadata|type|object|[a-z"\\]{0,9}"#;
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|list| Value::from(list.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Pieces of which JSON is made, and some of which it is not.
const PIECES: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "{\"a\":",
    "\"b\":",
    "\"\"",
    "\"é\"",
    r#""\u00e4\n""#,
    r#""\ud800""#,
    r#""\x""#,
    r#""\u00g0""#,
    "\"\t\"",
    "\"",
    "\\",
    "0",
    "-0",
    "01",
    "1.5",
    "1.",
    "-",
    "2e+7",
    "2e",
    "true",
    "nul",
    "null",
    " ",
    "\n",
];

/// What `text` is read as, in debug output: all entries at once.
fn readings(text: &str) -> String {
    let bytes = text.as_bytes();
    let event = WatchEvent::parse(bytes).map(|event| (format!("{:?}", event.kind), event.object.to_owned()));
    format!("{:?} {:?} {:?} {event:?}", ListPage::parse(bytes), Outline::parse(text), split::split(text, "test"))
}

fn agree(text: &str) -> Result<(), TestCaseError> {
    if let Some(value) = read(text) {
        let same = serde_json::from_str::<&RawValue>(text);
        prop_assert!(same.as_ref().is_ok_and(|same| same.get() == value), "{} {:?}", text, same);
    }
    // A blank in front is nothing for the quick reader, and moves the column of an error.
    let column = |text: &str| text.find("column").is_some();
    let (quick, slow) = (readings(text), readings(&format!(" {text}")));
    prop_assert!(quick == slow || (column(&quick) && column(&slow)), "{} {} {}", text, quick, slow);
    Ok(())
}

proptest! {
    #[test]
    fn compact_json_is_read_as_it_is(value in json()) {
        let text = value.to_string();
        prop_assert_eq!(read(&text), Some(text.as_str()));
        agree(&text)?;
        agree(&format!(r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7"}},"items":[{text},{text}]}}"#))?;
        agree(&format!(r#"{{"type":"ADDED","object":{text}}}"#))?;
    }

    #[test]
    fn broken_json_is_left_to_the_other(value in json(), place in any::<prop::sample::Index>(), byte in 0_u8..128) {
        let mut bytes = value.to_string().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(text) = String::from_utf8(bytes) {
            agree(&text)?;
        }
    }

    #[test]
    fn pieces_of_json_read_the_same(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12)) {
        agree(&pieces.concat())?;
    }
}

#[test]
fn nesting_of_any_depth_is_read() {
    for depth in [63, 64, 65, 66, 127, 128, 129, 130, 1_000, 100_000] {
        let arrays = "[".repeat(depth) + &"]".repeat(depth);
        let mixed = r#"{"a":["#.repeat(depth) + "1" + &r#"],"b":0}"#.repeat(depth);
        for text in [arrays, mixed] {
            assert_eq!(read(&text), Some(text.as_str()), "{depth}");
            assert!(serde_json::from_str::<&RawValue>(&text).is_ok());
            let wrong = text.replacen("]]", "]}", 1).replacen("0}]", "0}}", 1);
            assert_eq!(read(&wrong), None, "{depth}");
            assert_eq!(read(&text[..text.len() - 1]), None, "{depth}");
        }
    }
}
