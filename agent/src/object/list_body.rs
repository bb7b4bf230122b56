//! A list response while it arrives: its objects are given as soon as they are complete, so a page need not fit in memory.

use std::ops::Range;

use super::error::ObjectError;
use super::list::ListPage;
use super::outline::Outline;
use super::scan::Scan;
use super::skip::{Skipper, name_in};

/// Bytes that arrive between two looks. An object that has not ended by then is read again, so much more than an object.
const BLOCK: usize = 256 * 1024;
/// Longest object that is held, as of a watch event. etcd refuses objects beyond 1.5 MB; an aggregated API may serve more.
const MAX_OBJECT: usize = 16 * 1024 * 1024;
/// Longest body that is held where it cannot be read in parts, because no API server writes it that way.
const MAX_WHOLE: usize = 64 * 1024 * 1024;

/// The body of one list response.
///
/// What is left when the body has ended is a list again, just without the objects that were given: [`ListPage::parse`] judges
/// it, and says of a broken body what it would have said of the whole.
#[derive(Debug)]
pub struct ListBody {
    buffer: Vec<u8>,
    /// Where the objects stand that were given.
    given: Range<usize>,
    /// Bytes in the buffer at which to look again.
    look_at: usize,
    /// Longest object that is held.
    max_object: usize,
    /// Looks for the end of an object that is too large.
    skipper: Option<Skipper>,
    /// Whether such an object has ended, and the comma behind it has not arrived.
    behind_skipped: bool,
    /// Objects that were too large.
    passed_over: Vec<ObjectError>,
    /// Whether the body cannot be read in parts, and is too large as a whole.
    is_too_large: bool,
}

impl Default for ListBody {
    fn default() -> Self {
        Self::new(MAX_OBJECT)
    }
}

impl ListBody {
    /// A body whose objects have at most `max_object` bytes; larger ones are passed over without being held.
    #[must_use]
    pub fn new(max_object: usize) -> Self {
        Self {
            buffer: Vec::new(),
            given: 0..0,
            look_at: BLOCK,
            max_object,
            skipper: None,
            behind_skipped: false,
            passed_over: Vec::new(),
            is_too_large: false,
        }
    }

    /// Forgets everything, for the next response.
    pub fn clear(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        *self = Self { buffer, ..Self::new(self.max_object) };
    }

    /// Adds what arrived; gives the objects that are complete, most often none. They will not be given again.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Outline<'_>> {
        self.forget_given();
        let chunk = self.skip(chunk);
        if self.is_too_large {
            return Vec::new();
        }
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() < self.look_at {
            return Vec::new();
        }
        self.pass_over_what_is_too_large();
        let Found { items, place, .. } = complete_items(valid_utf8(&self.buffer));
        let left = self.buffer.len() - place.len();
        self.given = place;
        self.is_too_large = left > MAX_WHOLE;
        // Twice as much where an object is larger than that, or where the body cannot be read in parts.
        self.look_at = BLOCK.max(2 * left);
        items
    }

    /// The body has ended: gives the list with the objects that were not given.
    ///
    /// # Errors
    /// As [`ListPage::parse`]; or the body is too large to be read as a whole, and cannot be read in parts.
    pub fn finish(&mut self) -> Result<ListPage<'_>, ObjectError> {
        self.forget_given();
        if self.is_too_large {
            return Err(ObjectError::TooLarge {
                what: "a list response of an unusual form".to_owned(),
                limit: MAX_WHOLE,
            });
        }
        ListPage::parse(&self.buffer)
    }

    /// Takes what there is to say of objects that were too large, and that were not given therefore.
    pub fn take_passed_over(&mut self) -> Vec<ObjectError> {
        std::mem::take(&mut self.passed_over)
    }

    fn forget_given(&mut self) {
        self.buffer.drain(std::mem::take(&mut self.given));
    }

    /// Where the last object has become too large without an end: forgets it, and looks only for its end from now on.
    fn pass_over_what_is_too_large(&mut self) {
        if self.buffer.len() <= self.max_object {
            return;
        }
        let text = valid_utf8(&self.buffer);
        let Some(open) = complete_items(text).open else { return };
        let object = self.buffer.get(open..).unwrap_or_default();
        let mut skipper = Skipper::default();
        if object.len() <= self.max_object || skipper.end_in(object).is_some() {
            return;
        }
        let name = name_in(text.get(open..).unwrap_or_default());
        let what = name.map_or_else(|| "an object of a list".to_owned(), |name| format!("the object {name}"));
        self.passed_over.push(ObjectError::TooLarge { what, limit: self.max_object });
        self.buffer.truncate(open);
        self.skipper = Some(skipper);
    }

    /// What is left of `chunk` behind an object that is passed over, and behind the comma that follows it.
    fn skip<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        let mut rest = chunk;
        if let Some(skipper) = &mut self.skipper {
            let Some(end) = skipper.end_in(rest) else { return &[] };
            rest = rest.get(end..).unwrap_or_default();
            self.skipper = None;
            self.behind_skipped = true;
        }
        if self.behind_skipped && !rest.is_empty() {
            self.behind_skipped = false;
            match rest.strip_prefix(b",") {
                Some(behind) => return behind,
                // It was the last: the comma before it is none any more.
                None if self.buffer.last() == Some(&b',') => {
                    self.buffer.pop();
                }
                None => {}
            }
        }
        rest
    }
}

/// The longest beginning that is UTF-8: a character may have arrived in part.
fn valid_utf8(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or(""),
    }
}

/// What stands in the text of a list that ends anywhere.
#[derive(Default)]
struct Found<'a> {
    /// The items, as far as each is followed by another complete one.
    items: Vec<Outline<'a>>,
    /// Where they stand, commas included: without them, the text is the list of the others.
    place: Range<usize>,
    /// Where the item begins that has no end.
    open: Option<usize>,
}

/// None is found in what may not be a list.
fn complete_items(text: &str) -> Found<'_> {
    let mut found = Found::default();
    // Custom resources come as apiVersion, items, kind, metadata: the kind, which tells a list, comes late, and judges then.
    // A Status has no items.
    let mut may_be_list = true;
    let mut last = None;
    // It hardly ever gets to the end, which is none of our business.
    let _end = Scan::new(text).object(|scan, key| match key {
        r#""kind""# => {
            may_be_list = scan.string()?.ends_with(r#"List""#);
            Some(())
        }
        r#""apiVersion""# | r#""metadata""# => scan.value().map(drop),
        r#""items""# if may_be_list => scan.array(|scan| {
            let from = scan.at();
            found.open = Some(from);
            let item = Outline::scan(scan)?;
            found.open = None;
            match last.replace(item) {
                Some(before) => {
                    found.items.push(before);
                    found.place.end = from;
                }
                None => found.place = from..from,
            }
            Some(())
        }),
        _ => None,
    });
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Debug output of what is read when `body` arrives in pieces of these sizes, with what would be read of it as a whole.
    fn read(body: &str, sizes: &[usize]) -> (Result<Vec<String>, ObjectError>, Result<Vec<String>, ObjectError>) {
        let whole =
            ListPage::parse(body.as_bytes()).map(|page| page.items.iter().map(|item| format!("{item:?}")).collect());
        let mut list = ListBody::default();
        let (mut items, mut rest) = (Vec::new(), body.as_bytes());
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            // Every time, not only after so many bytes.
            list.look_at = 0;
            items.extend(list.push(piece).iter().map(|item| format!("{item:?}")));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        let parts = list.finish().map(|page| {
            items.extend(page.items.iter().map(|item| format!("{item:?}")));
            items
        });
        (parts, whole)
    }

    proptest! {
        #[test]
        fn a_list_reads_the_same_in_parts(
            items in prop::collection::vec(r#"(\{"metadata":\{"name":"[aä€😀]{1,9}"\},"spec":\[\{\},[0-9]{1,9}\]\}|7|\{\}| \{\}|\{)"#, 0..6),
            head in prop::sample::select(vec![
                r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":["#,
                r#"{"metadata":{},"kind":"PodList","items":["#,
                r#"{"kind":"Status","items":["#,
                r#"{"items":["#,
                r#"{"apiVersion":"v1","items":["#,
                r#"{"kind":"PodList","odd":1,"items":["#,
                r#" {"kind":"PodList","items":["#,
            ]),
            tail in prop::sample::select(vec!["]}", r#"],"kind":"PodList"}"#, r#"],"kind":"PodList","metadata":{"continue":"c"}}"#, r#"],"kind":"Status"}"#, r#"],"metadata":{"resourceVersion":"8"}}"#, "]", "", ",]}"]),
            sizes in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let body = [head, &items.join(","), tail].concat();
            let (parts, whole) = read(&body, &sizes);
            match (parts, whole) {
                (Ok(parts), Ok(whole)) => prop_assert_eq!(parts, whole, "{}", body),
                // The place of a fault is told by what is left.
                (Err(_), Err(_)) => {}
                (parts, whole) => prop_assert!(false, "{body}: {parts:?} {whole:?}"),
            }
        }
    }

    #[test]
    fn no_more_than_a_block_and_an_object_is_held() {
        let item = format!(r#"{{"metadata":{{"name":"a"}},"spec":"{}"}},"#, "x".repeat(8_000));
        let mut list = ListBody::default();
        let mut given = list.push(br#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":["#).len();
        for _ in 0..1_000 {
            for piece in item.as_bytes().chunks(1_500) {
                given += list.push(piece).len();
                assert!(list.buffer.len() <= BLOCK + 2 * item.len(), "{} bytes are held", list.buffer.len());
            }
        }
        assert!(given > 950, "{given}");
        assert!(list.push(b"{}]}").is_empty());
        let page = list.finish().unwrap();
        assert_eq!((page.items.len() + given, page.resource_version.to_string()), (1_001, "7".to_owned()));
    }

    #[test]
    fn an_object_larger_than_a_block_is_not_read_again_and_again() {
        let mut list = ListBody::default();
        list.push(br#"{"kind":"PodList","items":[{"data":""#);
        let mut looks = Vec::new();
        for _ in 0..10_000 {
            list.push(&[b'x'; 1_000]);
            looks.push(list.look_at);
        }
        looks.dedup();
        assert!(looks.len() < 10, "{looks:?}");
        list.push(br#""}]}"#);
        assert_eq!(list.finish().unwrap().items.len(), 1);
    }

    /// So do custom resources, whose lists come as apiVersion, items, kind, metadata.
    #[test]
    fn objects_are_given_before_the_kind_of_the_list_is_known() {
        let item = format!(r#"{{"metadata":{{"name":"a"}},"spec":"{}"}}"#, "x".repeat(900_000));
        let mut list = ListBody::default();
        let mut given = list.push(br#"{"apiVersion":"example.com/v1","items":["#).len();
        for _ in 0..20 {
            for piece in [item.as_str(), ","].concat().as_bytes().chunks(8_000) {
                given += list.push(piece).len();
                assert!(list.buffer.len() <= 4 * item.len(), "{} bytes are held", list.buffer.len());
            }
        }
        list.push(br#"{}],"kind":"ReportList","metadata":{"continue":"c","resourceVersion":"7"}}"#);
        let page = list.finish().unwrap();
        assert_eq!((page.items.len() + given, page.continue_token.as_deref()), (21, Some("c")));
    }

    #[test]
    fn an_object_that_is_too_large_is_named_and_costs_neither_memory_nor_the_others() {
        let item = |name: &str, size| {
            format!(r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"x":"}}]{}"}}"#, "\\\"".repeat(size))
        };
        let small = |name| item(name, 10);
        let large = |name| item(name, 2 * BLOCK);
        for (objects, expected) in [
            (vec![small("a"), large("b"), small("c"), small("d")], vec!["n/b"]),
            (vec![large("a")], vec!["n/a"]),
            (vec![large("a"), large("b"), small("c")], vec!["n/a", "n/b"]),
            (vec![small("a"), large("b")], vec!["n/b"]),
        ] {
            let body =
                format!(r#"{{"kind":"PodList","items":[{}],"metadata":{{"resourceVersion":"7"}}}}"#, objects.join(","));
            let mut list = ListBody::new(BLOCK);
            let mut given = 0;
            for piece in body.as_bytes().chunks(10_007) {
                given += list.push(piece).len();
                assert!(list.buffer.len() < 3 * BLOCK, "{} bytes are held", list.buffer.len());
            }
            let passed_over: Vec<_> = list.take_passed_over().iter().map(ToString::to_string).collect();
            let page = list.finish().unwrap();
            assert_eq!(page.items.len() + given, objects.len() - expected.len(), "{expected:?}");
            assert_eq!(page.resource_version.to_string(), "7");
            assert_eq!(passed_over.len(), expected.len());
            assert!(passed_over.iter().zip(&expected).all(|(said, name)| said.contains(name)), "{passed_over:?}");
        }
    }

    #[test]
    fn a_body_that_cannot_be_read_in_parts_is_not_held_without_a_bound() {
        let mut list = ListBody::default();
        list.push(b"{ \"kind\": \"PodList\", \"items\": [");
        for _ in 0..200 {
            list.push(&[b' '; 1_000_000]);
            assert!(list.buffer.len() <= 2 * MAX_WHOLE + BLOCK);
        }
        assert!(matches!(list.finish(), Err(ObjectError::TooLarge { .. })));
    }
}
