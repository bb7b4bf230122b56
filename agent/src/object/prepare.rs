//! One object on its way into the snapshot: identified, stripped, redacted, hashed, in one pass over its text.

use meshsync_crds::agent_config::SecretPolicy;
use meshsync_crds::discovery::ServedType;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::body::{Body, Lengths};
use super::compact::write_compact;
use super::error::{ObjectError, utf8};
use super::fields::{Field, find};
use super::identity::{ObjectName, ResourceVersion, Uid};
use super::outline::Outline;
use super::redact::{DATA_PLACEHOLDER, SECRET_FIELDS, TEXT_PLACEHOLDER, Traces, write_values_redacted};
use super::split::split;
use super::text;

/// Changes whenever the same object is prepared into another body than before: what an earlier version stored is then
/// compared anew.
pub const PREPARE_REVISION: u32 = 2;

/// Seeds of the hashes of members: the same member counts for something else at top level than in `metadata`.
const TOP_SEED: u64 = 1;
const METADATA_SEED: u64 = 2;

/// kubectl's copy of the manifest: as large as the object, and with the values of a Secret inside.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is known about all objects of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeContext {
    /// `v1` or `group/version`; written into every object, since list items do not carry it.
    pub api_version: String,
    /// Kind, as [`Self::api_version`].
    pub kind: String,
    /// Whether this is `secrets` of the core group.
    pub is_secret: bool,
    /// Whether values of Secrets are replaced.
    pub redact: bool,
    /// Whether only apiVersion, kind and metadata are kept.
    pub metadata_only: bool,
}

impl TypeContext {
    /// The context of a served type, whole objects kept.
    #[must_use]
    pub fn new(served: &ServedType, secrets: SecretPolicy) -> Self {
        Self {
            api_version: served.api_version(),
            kind: served.kind.clone(),
            is_secret: served.group.is_empty() && served.plural == "secrets",
            redact: secrets == SecretPolicy::Redact,
            metadata_only: false,
        }
    }
}

/// An object as the snapshot takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Identity; a stand-in made from the name when the object has no uid.
    pub uid: Uid,
    /// Namespace and name.
    pub name: ObjectName,
    /// Version of this state.
    pub resource_version: ResourceVersion,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Sum of the XXH3 of each member of `body` and of its metadata, without the resourceVersion: equal hash, nothing to
    /// publish. It does not depend on the order of these members, which differs between a list and a watch. Not proof
    /// against forgery: whoever can write an object can craft two states of it that collide, and hides only that change.
    pub hash: u64,
    /// Compact JSON of what may be published: `apiVersion` and `kind`, then the other members in the order of the original.
    pub body: Body,
}

/// Identifies, strips and hashes the JSON text of one object.
///
/// Dropped: `metadata.managedFields`, kubectl's last-applied annotation and, from a redacted Secret, every value and every
/// top-level member that a Secret does not have. Added: `apiVersion` and `kind` of `context`, which also replace what the
/// object says, so that all messages about an object name the same type. Numbers stay as they were spelled.
///
/// # Errors
/// Not UTF-8, not JSON, no `metadata`, no name. The message never quotes the object.
pub fn prepare(raw: &[u8], context: &TypeContext) -> Result<Prepared, ObjectError> {
    prepare_outline(&Outline::parse(utf8(raw)?)?, context)
}

/// As [`prepare`], for an object whose members were found before.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_outline(outline: &Outline<'_>, context: &TypeContext) -> Result<Prepared, ObjectError> {
    let (top, metadata) = (outline.top()?, outline.metadata()?);
    let text_at = |name| find(metadata, name).and_then(text::decode_non_empty);
    let name = text_at("name").ok_or(ObjectError::Missing { what: "metadata.name" })?;
    let name = ObjectName::new(text_at("namespace").as_deref(), &name);
    let uid = text_at("uid").map_or_else(|| Uid::named(&name), |uid| Uid::new(&uid));
    let resource_version = ResourceVersion::new(&text_at("resourceVersion").unwrap_or_default());
    let deleting = text_at("deletionTimestamp").is_some();

    let size = top.iter().chain(metadata).filter(|field| !field.is("managedFields"));
    let size = size.map(|field| field.key.len() + field.value.len() + 2).sum();
    let mut writer = Writer::new(context, top, size)?;
    writer.object(top, metadata)?;
    Ok(Prepared {
        uid,
        name,
        resource_version,
        deleting,
        hash: writer.hash,
        body: Body::new(writer.out, writer.lengths),
    })
}

struct Writer<'c> {
    context: &'c TypeContext,
    out: Vec<u8>,
    /// Those of the values that were written at top level, but for apiVersion, kind and metadata.
    lengths: Lengths,
    /// Sum of the hashes of the members that were written so far.
    hash: u64,
    /// Set for a Secret whose values must not pass.
    secret: Option<Traces>,
}

impl<'c> Writer<'c> {
    fn new(context: &'c TypeContext, top: &[Field<'_>], size: usize) -> Result<Self, ObjectError> {
        // An aggregated API may serve Secrets under a type name of its own.
        let calls_itself_secret = || {
            let says = |field, value: &str| find(top, field).and_then(text::decode).is_some_and(|text| text == value);
            says("kind", "Secret") && says("apiVersion", "v1")
        };
        let secret = match context {
            TypeContext { redact: false, .. } => None,
            // Read without what is in it, an object says no longer that it is a Secret.
            TypeContext { metadata_only: true, .. } if context.is_secret || context.kind == "Secret" => {
                Some(Traces::Unknown)
            }
            _ if context.is_secret || calls_itself_secret() => Some(Traces::of(top)?),
            _ => None,
        };
        Ok(Self { context, out: Vec::with_capacity(size + 64), lengths: Lengths::default(), hash: 0, secret })
    }

    fn object(&mut self, top: &[Field<'_>], metadata: &[Field<'_>]) -> Result<(), ObjectError> {
        self.out.push(b'{');
        // First, and always in this order: items of built-in lists lack both, a watch event begins with the kind.
        self.type_member("apiVersion", &self.context.api_version);
        self.type_member("kind", &self.context.kind);
        for field in top.iter().filter(|field| !field.is("apiVersion") && !field.is("kind")) {
            if field.is("metadata") {
                self.key(field);
                self.metadata(metadata)?;
            } else if !self.context.metadata_only {
                let from = self.out.len();
                self.other_member(field)?;
                self.add_to_hash(from, TOP_SEED);
                // Behind the comma, the key and the colon.
                if let Some(length) = self.out.len().checked_sub(from + field.key.len() + 2) {
                    self.lengths.push(length);
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn other_member(&mut self, field: &Field<'_>) -> Result<(), ObjectError> {
        if self.secret.is_some() {
            if !SECRET_FIELDS.iter().any(|known| field.is(known)) {
                return Ok(());
            }
            let placeholder = if field.is("data") { DATA_PLACEHOLDER } else { TEXT_PLACEHOLDER };
            if field.is("data") || field.is("stringData") {
                self.key(field);
                return write_values_redacted(field.value, placeholder, &mut self.out);
            }
        }
        self.key(field);
        write_compact(field.value, &mut self.out);
        Ok(())
    }

    fn metadata(&mut self, metadata: &[Field<'_>]) -> Result<(), ObjectError> {
        self.out.push(b'{');
        for field in metadata.iter().filter(|field| !field.is("managedFields")) {
            let from = self.out.len();
            self.key(field);
            if field.is("annotations") {
                self.annotations(field.value)?;
            } else {
                write_compact(field.value, &mut self.out);
            }
            if !field.is("resourceVersion") {
                self.add_to_hash(from, METADATA_SEED);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn annotations(&mut self, json: &str) -> Result<(), ObjectError> {
        if !json.starts_with('{') {
            let safe = if self.secret.is_some() { "null" } else { json };
            write_compact(safe, &mut self.out);
            return Ok(());
        }
        self.out.push(b'{');
        for field in split(json, "metadata.annotations")? {
            if field.is(LAST_APPLIED) {
                continue;
            }
            self.key(&field);
            if self.annotation_may_pass(&field) {
                write_compact(field.value, &mut self.out);
            } else {
                text::write_literal(TEXT_PLACEHOLDER, &mut self.out);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn annotation_may_pass(&self, field: &Field<'_>) -> bool {
        let Some(traces) = &self.secret else { return true };
        match (text::decode(field.key), text::decode(field.value)) {
            (Some(key), Some(value)) => traces.may_pass(&key, &value),
            _ => false,
        }
    }

    fn type_member(&mut self, key: &str, value: &str) {
        let from = self.out.len();
        self.comma();
        text::write_literal(key, &mut self.out);
        self.out.push(b':');
        text::write_literal(value, &mut self.out);
        self.add_to_hash(from, TOP_SEED);
    }

    fn key(&mut self, field: &Field<'_>) {
        self.comma();
        self.out.extend_from_slice(field.key.as_bytes());
        self.out.push(b':');
    }

    fn comma(&mut self) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
    }

    /// Adds the member that stands in `out` from there on.
    fn add_to_hash(&mut self, from: usize, seed: u64) {
        let member = self.out.get(from..).unwrap_or_default();
        // The comma tells the place of a member, which is none of its content.
        let member = member.strip_prefix(b",").unwrap_or(member);
        self.hash = self.hash.wrapping_add(xxh3_64_with_seed(member, seed));
    }
}
