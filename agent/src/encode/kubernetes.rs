//! The `kubernetes` format: the stripped object as it is, inside the same envelope as the Meshery format.

use super::envelope::{Deleted, Detail, EncodeError, EventType, data_message};
use super::members::Members;
use crate::object::fields::{Field, find};
use crate::object::split::split;
use crate::object::utf8;

/// Appends the message for an object that exists. `body` comes from [`crate::object::prepare`].
///
/// # Errors
/// `body` is not a JSON object (not looked at for [`Detail::Full`]).
pub fn encode_event(event: EventType, body: &[u8], detail: Detail, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    data_message(event, out, |out| match detail {
        Detail::Full => {
            out.extend_from_slice(body);
            Ok(())
        }
        Detail::MetadataOnly => metadata_only(body, |field| !field.is("annotations"), out),
        Detail::Skeleton => metadata_only(body, |field| IDENTITY.iter().any(|name| field.is(name)), out),
    })
}

/// Appends the message for an object that is gone: a skeleton with what identifies it.
pub fn encode_deleted(deleted: &Deleted<'_>, out: &mut Vec<u8>) {
    let Deleted { api_version, kind, namespace, name, uid, resource_version } = *deleted;
    data_message(EventType::Deleted, out, |out| {
        let mut object = Members::open(out);
        object.string("apiVersion", api_version);
        object.string("kind", kind);
        let mut metadata = object.object("metadata");
        metadata.string("name", name);
        metadata.string_unless_empty("namespace", namespace.unwrap_or_default());
        metadata.string_unless_empty("uid", uid);
        metadata.string_unless_empty("resourceVersion", resource_version);
        metadata.close();
        object.close();
    });
}

/// Members of the metadata that a skeleton has.
const IDENTITY: [&str; 4] = ["name", "namespace", "uid", "resourceVersion"];

/// apiVersion, kind, and those members of the metadata that are `wanted`.
fn metadata_only(body: &[u8], wanted: impl Fn(&Field<'_>) -> bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let top = split(utf8(body)?, "object")?;
    let mut object = Members::open(out);
    for field in top.iter().filter(|field| field.is("apiVersion") || field.is("kind")) {
        object.verbatim(field);
    }
    if let Some(json) = find(&top, "metadata") {
        let mut metadata = object.object("metadata");
        for field in split(json, "metadata")?.iter().filter(|field| wanted(field)) {
            metadata.verbatim(field);
        }
        metadata.close();
    }
    object.close();
    Ok(())
}
