//! One page of a list response, its items borrowed.

use std::borrow::Cow;

use serde::Deserialize;

use super::error::{ObjectError, utf8};
use super::identity::ResourceVersion;
use super::outline::Outline;
use super::scan::Scan;
use super::text;

const WHAT: &str = "list response";

/// One page of a list.
#[derive(Clone, Debug)]
pub struct ListPage<'a> {
    /// Version of the collection; a watch may begin here after the last page.
    pub resource_version: ResourceVersion,
    /// Token for the next page; `None` on the last.
    pub continue_token: Option<Cow<'a, str>>,
    /// Items after this page, where the server says so. It leaves the field out on the last page and with selectors.
    pub remaining_item_count: Option<u64>,
    /// The objects. Items of built-in types carry no apiVersion and kind.
    pub items: Vec<Outline<'a>>,
}

#[derive(Default, Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    items: Option<Vec<Outline<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#continue: Option<Cow<'a, str>>,
    remaining_item_count: Option<i64>,
}

impl<'a> Page<'a> {
    /// Reads a page, if it is one of those that [`Scan`] reads.
    fn scan(body: &'a str) -> Option<Self> {
        let mut scan = Scan::new(body);
        let mut page = Self::default();
        scan.object(|scan, key| match key {
            r#""kind""# if page.kind.is_none() => {
                // Of an odd escape, the two parsers may think differently.
                page.kind = text::decode(scan.string()?).filter(|kind| matches!(kind, Cow::Borrowed(_)));
                page.kind.as_ref()?;
                Some(())
            }
            r#""metadata""# if page.metadata.is_none() => {
                page.metadata = Some(serde_json::from_str(scan.value()?).ok()?);
                Some(())
            }
            r#""items""# if page.items.is_none() => {
                let mut items = Vec::new();
                scan.array(|scan| {
                    items.push(Outline::scan(scan)?);
                    Some(())
                })?;
                page.items = Some(items);
                Some(())
            }
            r#""apiVersion""# => scan.value().map(drop),
            // Among these are second ones of those above, and odd spellings of them.
            _ => None,
        })?;
        scan.is_at_end().then_some(page)
    }
}

impl<'a> ListPage<'a> {
    /// Reads a list response. `items` may be `null` or absent: then the page is empty.
    ///
    /// # Errors
    /// Not UTF-8, not JSON, or not a list. A `Status` and an empty object are refused rather than read as an empty list,
    /// which would make every known object look deleted.
    pub fn parse(body: &'a [u8]) -> Result<Self, ObjectError> {
        let body = utf8(body)?;
        let page = match Page::scan(body) {
            Some(page) => page,
            None => serde_json::from_str(body).map_err(|source| ObjectError::syntax(WHAT, &source))?,
        };
        let is_list = match page.kind.as_deref() {
            Some("Status") => false,
            Some(kind) if kind.ends_with("List") => true,
            _ => page.items.is_some(),
        };
        if !is_list {
            return Err(ObjectError::WrongType { what: WHAT, expected: "a list (kind ...List, or with items)" });
        }
        let metadata = page.metadata.unwrap_or_default();
        Ok(Self {
            resource_version: ResourceVersion::new(metadata.resource_version.as_deref().unwrap_or_default()),
            continue_token: metadata.r#continue.filter(|token| !token.is_empty()),
            remaining_item_count: metadata.remaining_item_count.and_then(|count| u64::try_from(count).ok()),
            items: page.items.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Field;
    use super::*;

    #[test]
    fn a_page_is_read_without_changing_its_items() {
        let body = br#"{"kind":"PodList","apiVersion":"v1",
            "metadata":{"resourceVersion":"71","continue":"to\u006ben","remainingItemCount":5},
            "items":[{"metadata" : {"name":"a"}},{"metadata":{"name":"b"},"big":123456789012345678901234567890}]}"#;
        let page = ListPage::parse(body).unwrap();
        assert_eq!(page.resource_version, ResourceVersion::Number(71));
        assert_eq!(page.continue_token.as_deref(), Some("token"));
        assert_eq!(page.remaining_item_count, Some(5));
        let values = |fields: &[Field<'_>]| fields.iter().map(|field| field.value.to_owned()).collect::<Vec<_>>();
        let metadata: Vec<_> = page.items.iter().map(|item| values(item.metadata().unwrap())).collect();
        assert_eq!(metadata, [[r#""a""#], [r#""b""#]]);
        assert_eq!(values(page.items[1].top().unwrap()), ["", "123456789012345678901234567890"]);
    }

    #[test]
    fn a_list_may_lack_its_items() {
        for body in [
            r#"{"kind":"PodList","metadata":{"resourceVersion":"8"},"items":null}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"8"}}"#,
            r#"{"metadata":{"resourceVersion":"8","continue":""},"items":[]}"#,
        ] {
            let page = ListPage::parse(body.as_bytes()).unwrap();
            assert!(page.items.is_empty() && page.continue_token.is_none(), "{body}");
            assert_eq!(page.resource_version, ResourceVersion::Number(8), "{body}");
        }
    }

    #[test]
    fn what_is_no_list_does_not_read_as_an_empty_one() {
        for body in [
            r#"{"kind":"Status","status":"Failure","items":[]}"#,
            "{}",
            r#"{"kind":"Pod","metadata":{}}"#,
            "[]",
            "",
            r#"{"kind":"PodList","items":[{}"#,
            r#"{"kind":"PodList","items":[]} trailing"#,
        ] {
            assert!(ListPage::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
