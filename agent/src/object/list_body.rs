//! A list response while it arrives: its objects are given as soon as they are complete, so a page need not fit in memory.

use std::ops::Range;

use super::error::ObjectError;
use super::list::ListPage;
use super::outline::Outline;
use super::scan::Scan;

/// Bytes that arrive between two looks. An object that has not ended by then is read again, so much more than an object.
const BLOCK: usize = 256 * 1024;

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
}

impl Default for ListBody {
    fn default() -> Self {
        Self { buffer: Vec::new(), given: 0..0, look_at: BLOCK }
    }
}

impl ListBody {
    /// Forgets everything, for the next response.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.given = 0..0;
        self.look_at = BLOCK;
    }

    /// Adds what arrived; gives the objects that are complete, most often none. They will not be given again.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Outline<'_>> {
        self.forget_given();
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() < self.look_at {
            return Vec::new();
        }
        let (items, given) = complete_items(valid_utf8(&self.buffer));
        let left = self.buffer.len() - given.len();
        self.given = given;
        // Twice as much where an object is larger than that, or where the body cannot be read in parts.
        self.look_at = BLOCK.max(2 * left);
        items
    }

    /// The body has ended: gives the list with the objects that were not given.
    ///
    /// # Errors
    /// As [`ListPage::parse`].
    pub fn finish(&mut self) -> Result<ListPage<'_>, ObjectError> {
        self.forget_given();
        ListPage::parse(&self.buffer)
    }

    fn forget_given(&mut self) {
        self.buffer.drain(std::mem::take(&mut self.given));
    }
}

/// The longest beginning that is UTF-8: a character may have arrived in part.
fn valid_utf8(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or(""),
    }
}

/// The items of a list that ends anywhere, as far as each is followed by another complete one, and where they stand: without
/// them, commas included, the text is the list of the others. None of what may not be a list.
fn complete_items(text: &str) -> (Vec<Outline<'_>>, Range<usize>) {
    let mut items = Vec::new();
    let mut place = 0..0;
    let mut is_list = false;
    let mut last = None;
    // It hardly ever gets to the end, which is none of our business.
    let _end = Scan::new(text).object(|scan, key| match key {
        r#""kind""# => {
            is_list = scan.string()?.ends_with(r#"List""#);
            Some(())
        }
        r#""apiVersion""# | r#""metadata""# => scan.value().map(drop),
        r#""items""# if is_list => scan.array(|scan| {
            let from = scan.at();
            match last.replace(Outline::scan(scan)?) {
                Some(before) => {
                    items.push(before);
                    place.end = from;
                }
                None => place = from..from,
            }
            Some(())
        }),
        _ => None,
    });
    (items, place)
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
                r#"{"kind":"PodList","odd":1,"items":["#,
                r#" {"kind":"PodList","items":["#,
            ]),
            tail in prop::sample::select(vec!["]}", r#"],"kind":"PodList"}"#, r#"],"metadata":{"resourceVersion":"8"}}"#, "]", "", ",]}"]),
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
}
