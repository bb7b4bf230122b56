//! The format that Meshery Server reads: envelope, metadata as columns, spec and status as JSON text inside of strings.
//!
//! Names and their order are facts of that consumer. Everything is written straight from slices of the stored body.

mod metadata;
mod service;
mod store_reply;

pub use store_reply::{Pushed, StoreReply};

use super::envelope::{Deleted, Detail, EncodeError, EventType, data_message};
use super::members::Members;
use crate::object::fields::find;
use crate::object::{Body, ObjectError, Outline, text};

/// Top-level members that become strings of JSON text, in the order of the format.
const TEXT_MEMBERS: [&str; 5] = ["immutable", "data", "binaryData", "stringData", "type"];

/// Appends the message for an object that exists. `body` comes from [`crate::object::prepare`]; `cluster_id` is the UID of
/// the namespace `kube-system`, without which the server shows nothing.
///
/// # Errors
/// `body` is not the JSON of an object.
pub fn encode_event(
    event: EventType,
    body: &Body,
    cluster_id: &str,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let object = Outline::of(body)?;
    data_message(event, out, |out| write_resource(&object, cluster_id, detail, out))
}

/// Appends the message for an object that is gone: the parts of the server's row key, and the uid.
pub fn encode_deleted(deleted: &Deleted<'_>, cluster_id: &str, out: &mut Vec<u8>) {
    data_message(EventType::Deleted, out, |out| write_identity(deleted, cluster_id, out));
}

/// Appends one resource object without envelope, of which there is only what identifies it.
fn write_identity(identity: &Deleted<'_>, cluster_id: &str, out: &mut Vec<u8>) {
    let Deleted { api_version, kind, namespace, name, uid, resource_version } = *identity;
    let mut resource = Members::open(out);
    resource.string("id", "");
    resource.string("apiVersion", api_version);
    resource.string("kind", kind);
    resource.string("model", "");
    let mut columns = resource.object("metadata");
    columns.string("id", "");
    columns.string("name", name);
    columns.string_unless_empty("namespace", namespace.unwrap_or_default());
    columns.string("uid", uid);
    columns.string_unless_empty("resourceVersion", resource_version);
    columns.string("cluster_id", "");
    columns.close();
    resource.string("cluster_id", cluster_id);
    resource.raw("pattern_resource", "null");
    resource.raw("component_metadata", "null");
    resource.close();
}

/// Appends one resource object without envelope.
fn write_resource(
    outline: &Outline<'_>,
    cluster_id: &str,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let top = outline.top()?;
    let present = |name| find(top, name).filter(|value| *value != "null");
    let text_of = |name| present(name).and_then(text::decode).unwrap_or_default();
    let metadata = match outline.metadata() {
        Err(ObjectError::Missing { .. }) => &[],
        other => other?,
    };
    let is_full = detail == Detail::Full;

    let mut resource = Members::open(out);
    resource.string("id", "");
    resource.string("apiVersion", &text_of("apiVersion"));
    resource.string("kind", &text_of("kind"));
    resource.string("model", "");
    let design = metadata::write(metadata, detail, resource.object("metadata"))?;
    for name in ["spec", "status"] {
        if let Some(json) = present(name).filter(|_| is_full) {
            let mut wrapped = resource.object(name);
            wrapped.string("id", "");
            wrapped.string("attribute", json);
            wrapped.close();
        }
    }
    resource.string("cluster_id", cluster_id);
    match design {
        Some(id) => resource.string("pattern_resource", &id),
        None => resource.raw("pattern_resource", "null"),
    }
    if is_full && text_of("kind") == "Service" && text_of("apiVersion") == "v1" {
        service::write(present("spec"), present("status"), resource.object("component_metadata"));
    } else {
        resource.raw("component_metadata", "null");
    }
    for name in TEXT_MEMBERS {
        if let Some(json) = present(name).filter(|_| is_full) {
            resource.text_unless_empty(name, json);
        }
    }
    resource.close();
    Ok(())
}

#[cfg(test)]
mod tests;
