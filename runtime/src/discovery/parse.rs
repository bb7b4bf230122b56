//! Turns discovery documents into [`ServedType`]s. Pure.
//!
//! The parser reads entry by entry: real servers send `null` for lists (kubernetes#116603, #119840), and an aggregated
//! API server may send anything. It leaves out and reports an unusable entry, and keeps all others.

use std::collections::HashSet;

use meshsync_crds::discovery::{ServedType, group_resource};
use serde_json::value::RawValue;

use super::entry::{Members, Raw, list, name, show, text, words};
use super::{Discovered, FailedGroup, LeftOut};

/// `freshness` of a group version whose server could not be reached (k8s.io/api/apidiscovery/v2).
const STALE: &str = "Stale";

/// The answers that a server may give at `/api` or `/apis`.
pub(super) enum Document {
    Aggregated(Discovered),
    /// The older documents: group and version, with the preferred version of each group first; and unusable entries.
    Versions(Vec<(String, String)>, Discovered),
}

/// Reads the document at `/api` if `is_core`, otherwise the document at `/apis`.
pub(super) fn document(text: &str, is_core: bool) -> Result<Document, String> {
    let members = Members::parse(text)?;
    let kind = self::text(members.kind, "kind")?;
    let in_kind = |error| format!("{kind}: {error}");
    match kind.as_str() {
        "APIGroupDiscoveryList" => aggregated(members.items, is_core).map(Document::Aggregated).map_err(in_kind),
        "APIVersions" if is_core => core_versions(members.versions).map_err(in_kind),
        "APIGroupList" if !is_core => groups(members.groups).map_err(in_kind),
        other => Err(format!("the document is of kind {}", show(other))),
    }
}

fn aggregated(items: Raw<'_>, is_core: bool) -> Result<Discovered, String> {
    let mut found = Discovered::default();
    for item in list(items, "items")? {
        if let Err(reason) = aggregated_group(item, is_core, &mut found) {
            found.leave_out(LeftOut { reason, ..LeftOut::default() });
        }
    }
    settle(&mut found);
    Ok(found)
}

fn aggregated_group(item: &RawValue, is_core: bool, found: &mut Discovered) -> Result<(), String> {
    let members = Members::parse(item.get())?;
    let group = Members::of(members.metadata)?.name;
    let group = match is_core {
        true if text(group, "name")?.is_empty() => String::new(),
        true => return Err(format!("a group in the wrong document: {}", show(&text(group, "name")?))),
        false => name(group, "name")?,
    };
    let left_out = |version: &str, reason| LeftOut {
        group: group.clone(),
        version: version.to_owned(),
        reason,
        ..LeftOut::default()
    };
    let versions = match list(members.versions, "versions") {
        Ok(versions) => versions,
        Err(reason) => {
            found.leave_out(left_out("", reason));
            return Ok(());
        }
    };
    for item in versions {
        let read = Members::parse(item.get()).and_then(|members| Ok((name(members.version, "version")?, members)));
        let (version, members) = match read {
            Ok(read) => read,
            Err(reason) => {
                found.leave_out(left_out("", reason));
                continue;
            }
        };
        if text(members.freshness, "freshness").is_ok_and(|freshness| freshness == STALE) {
            let reason = "its API server cannot be reached; its last known types are used".to_owned();
            found.failed.push(FailedGroup { group: group.clone(), version: version.clone(), reason });
        }
        if let Err(reason) = resources(&group, &version, members.resources, served, found) {
            found.leave_out(left_out(&version, reason));
        }
    }
    Ok(())
}

/// The result of reading one entry of a list of resources.
enum Entry {
    Type(ServedType),
    /// An entry that is valid but not a type, such as a subresource.
    None,
}

/// Adds the result of `read` for each entry.
fn resources(
    group: &str,
    version: &str,
    raw: Raw<'_>,
    read: impl Fn(&str, &str, &Members<'_>) -> Result<Entry, String>,
    found: &mut Discovered,
) -> Result<(), String> {
    for item in list(raw, "resources")? {
        let left_out =
            |resource, reason| LeftOut { group: group.to_owned(), version: version.to_owned(), resource, reason };
        let members = match Members::parse(item.get()) {
            Ok(members) => members,
            Err(reason) => {
                found.leave_out(left_out(String::new(), reason));
                continue;
            }
        };
        let resource = text(members.resource.or(members.name), "name").map(|name| name.chars().take(253).collect());
        match read(group, version, &members) {
            Ok(Entry::Type(served)) => {
                if let Some(reason) = no_verbs(&members) {
                    found.leave_out(left_out(served.plural.clone(), reason));
                }
                found.types.push(served);
            }
            Ok(Entry::None) => {
                if let Some(reason) = no_verbs(&members) {
                    found.leave_out(left_out(resource.unwrap_or_default(), reason));
                }
            }
            Err(reason) => found.leave_out(left_out(resource.unwrap_or_default(), reason)),
        }
    }
    Ok(())
}

/// Reason for a type whose server does not list its verbs.
fn no_verbs(members: &Members<'_>) -> Option<String> {
    match members.verbs {
        None => Some("its verbs are null, so it can be neither listed nor watched".to_owned()),
        Some(_) => list(members.verbs, "verbs").err(),
    }
}

fn served(group: &str, version: &str, members: &Members<'_>) -> Result<Entry, String> {
    let plural = name(members.resource, "resource")?;
    let kind = Members::of(members.response_kind)?.kind;
    if text(kind, "kind")?.is_empty() {
        // An entry that only groups subresources, which the server lists without a response kind.
        return Ok(Entry::None);
    }
    let namespaced = text(members.scope, "scope")? == "Namespaced";
    let singular = text(members.singular_resource, "singular name").unwrap_or_default();
    of_entry(group, version, (plural, name(kind, "kind")?, singular, namespaced), members)
}

/// Reads an entry of the older form; subresources (`pods/log`) are not types.
fn served_of_old(group: &str, version: &str, members: &Members<'_>) -> Result<Entry, String> {
    let parts = text(members.name, "name")?;
    if let Some((parent, _)) = parts.split_once('/')
        && !parent.is_empty()
        && parent != ".."
    {
        return Ok(Entry::None);
    }
    let plural = name(members.name, "name")?;
    let namespaced = match members.namespaced {
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| "its scope is neither true nor false".to_owned())?,
        None => false,
    };
    let singular = text(members.singular_name, "singular name").unwrap_or_default();
    of_entry(group, version, (plural, name(members.kind, "kind")?, singular, namespaced), members)
}

fn of_entry(
    group: &str,
    version: &str,
    (plural, kind, singular, namespaced): (String, String, String, bool),
    members: &Members<'_>,
) -> Result<Entry, String> {
    Ok(Entry::Type(ServedType {
        group: group.to_owned(),
        version: version.to_owned(),
        preferred: false,
        kind,
        plural,
        singular: singular.chars().take(253).collect(),
        short_names: words(members.short_names),
        categories: words(members.categories),
        namespaced,
        verbs: words(members.verbs),
    }))
}

fn core_versions(versions: Raw<'_>) -> Result<Document, String> {
    let (mut all, mut unusable) = (Vec::new(), Discovered::default());
    for item in list(versions, "versions")? {
        match name(Some(item), "version") {
            Ok(version) => all.push((String::new(), version)),
            Err(reason) => unusable.leave_out(LeftOut { reason, ..LeftOut::default() }),
        }
    }
    Ok(Document::Versions(all, unusable))
}

fn groups(groups: Raw<'_>) -> Result<Document, String> {
    let (mut all, mut unusable) = (Vec::new(), Discovered::default());
    let mut seen = HashSet::new();
    for item in list(groups, "groups")? {
        match group_of_old(item, &mut unusable) {
            Ok(versions) => all.extend(versions.into_iter().filter(|version| seen.insert(version.clone()))),
            Err(reason) => unusable.leave_out(LeftOut { reason, ..LeftOut::default() }),
        }
    }
    Ok(Document::Versions(all, unusable))
}

fn group_of_old(item: &RawValue, unusable: &mut Discovered) -> Result<Vec<(String, String)>, String> {
    let members = Members::parse(item.get())?;
    let group = name(members.name, "name")?;
    let version_of = |raw| Members::of(raw).and_then(|version| name(version.version, "version"));
    let preferred = version_of(members.preferred_version).ok();
    let mut versions = Vec::new();
    for item in list(members.versions, "versions")? {
        match version_of(Some(item)) {
            Ok(version) => versions.push((group.clone(), version)),
            Err(reason) => {
                unusable.leave_out(LeftOut { group: group.clone(), reason, ..LeftOut::default() });
            }
        }
    }
    versions.sort_by_key(|(_, version)| Some(version) != preferred.as_ref());
    Ok(versions)
}

/// Adds the types of one document of the older form to `found`.
pub(super) fn resource_list(group: &str, version: &str, text: &str, found: &mut Discovered) -> Result<(), String> {
    let members = Members::parse(text)?;
    let kind = self::text(members.kind, "kind")?;
    if kind != "APIResourceList" {
        return Err(format!("the document is of kind {}", show(&kind)));
    }
    let expected = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let is = self::text(members.group_version, "groupVersion")?;
    if !is.is_empty() && is != expected {
        return Err(format!("the document is of {}", show(&is)));
    }
    resources(group, version, members.resources, served_of_old, found)
}

/// Removes repeated types and marks the preferred versions.
pub(super) fn settle(found: &mut Discovered) {
    let mut seen = HashSet::new();
    let types = std::mem::take(&mut found.types);
    for t in types {
        if seen.insert((t.group.clone(), t.version.clone(), t.plural.clone())) {
            found.types.push(t);
        } else {
            let reason = "it is listed twice; the first entry is used".to_owned();
            found.leave_out(LeftOut { group: t.group, version: t.version, resource: t.plural, reason });
        }
    }
    mark_preferred(&mut found.types);
}

/// Versions are in order of preference: the preferred version of a resource is the first that has it.
fn mark_preferred(types: &mut [ServedType]) {
    let mut seen = HashSet::new();
    for t in types {
        t.preferred = seen.insert(group_resource(&t.plural, &t.group));
    }
}
