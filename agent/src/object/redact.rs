//! What is left of a Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::ObjectError;
use super::fields::Field;
use super::split::split;
use super::text;

/// What every value under `data` of a Secret becomes: valid base64, of `REDACTED`.
pub const DATA_PLACEHOLDER: &str = "UkVEQUNURUQ=";

/// What every value under `stringData`, and every suspicious annotation of a Secret, becomes.
pub const TEXT_PLACEHOLDER: &str = "REDACTED";

/// All that a Secret may have at top level. Anything else is not written out: what is not known cannot be judged.
pub(crate) const SECRET_FIELDS: [&str; 7] =
    ["apiVersion", "kind", "metadata", "immutable", "type", "data", "stringData"];

/// Shortest Secret value that is looked for inside of annotations; shorter ones (`on`, `1`) match by chance.
const SHORTEST_TRACE: usize = 4;

/// Longest annotation of a Secret that may pass; longer ones are copies, archives or certificates.
const LONGEST_ANNOTATION: usize = 256;

/// Words in annotation keys under which tools keep a copy of the object that they applied, in any encoding.
const COPY_WORDS: [&str; 7] = ["applied", "original", "manifest", "backup", "snapshot", "previous", "last-config"];

/// Beginnings of the keys under which well-known controllers note what is no secret: names, owners, times. Where a Secret is
/// read without its values, nothing else may pass: there is no value to look for.
const HARMLESS_KEYS: [&str; 12] = [
    "app.kubernetes.io/",
    "argocd.argoproj.io/",
    "cert-manager.io/",
    "config.kubernetes.io/",
    "design.meshery.io/",
    "helm.sh/",
    "kubernetes.io/service-account.name",
    "kubernetes.io/service-account.uid",
    "kustomize.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "reloader.stakater.com/",
    "strimzi.io/",
];

/// Appends `{key: placeholder, …}` for the keys of `json`; a value that is no object becomes the bare placeholder.
pub(crate) fn write_values_redacted(json: &str, placeholder: &str, out: &mut Vec<u8>) -> Result<(), ObjectError> {
    if json == "null" {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    if !json.starts_with('{') {
        text::write_literal(placeholder, out);
        return Ok(());
    }
    out.push(b'{');
    for (index, field) in split(json, "data of a Secret")?.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(field.key.as_bytes());
        out.push(b':');
        text::write_literal(placeholder, out);
    }
    out.push(b'}');
    Ok(())
}

/// What of one Secret may not pass in an annotation.
pub(crate) enum Traces {
    /// Its values, in every spelling in which an annotation might repeat them.
    Values(Vec<Vec<u8>>),
    /// The values were not read, as with `metadataOnly`: only annotations that never hold one may pass.
    Unknown,
}

impl Traces {
    /// Collects the values under `data` and `stringData` of a Secret.
    pub(crate) fn of(top: &[Field<'_>]) -> Result<Self, ObjectError> {
        let mut traces = Vec::new();
        for field in top.iter().filter(|field| field.is("data") || field.is("stringData")) {
            if !field.value.starts_with('{') {
                continue;
            }
            for value in split(field.value, "data of a Secret")?.iter().filter_map(|entry| text::decode(entry.value)) {
                if field.is("stringData") {
                    traces.push(STANDARD.encode(value.as_bytes()).into_bytes());
                } else if let Ok(plain) = STANDARD.decode(value.as_bytes()) {
                    traces.push(plain.trim_ascii().to_vec());
                }
                traces.push(value.trim_ascii().as_bytes().to_vec());
            }
        }
        traces.retain(|trace| trace.len() >= SHORTEST_TRACE);
        Ok(Self::Values(traces))
    }

    /// Whether an annotation of the Secret may be published as it is.
    ///
    /// Tools copy whole objects into annotations under names of their own, as JSON, as YAML or packed. So only short
    /// plain values pass, under keys that do not speak of copies, and only if they repeat no value of the Secret.
    pub(crate) fn may_pass(&self, key: &str, value: &str) -> bool {
        let key = key.to_ascii_lowercase();
        let structured = value.trim_ascii_start().starts_with(['{', '[']) || value.contains('\n');
        value.len() <= LONGEST_ANNOTATION
            && !structured
            && !COPY_WORDS.iter().any(|word| key.contains(word))
            && match self {
                Self::Values(values) => !values.iter().any(|trace| {
                    // The search is prepared before it looks at lengths, which took a twentieth of the CPU time of a first list.
                    trace.len() <= value.len() && memchr::memmem::find(value.as_bytes(), trace).is_some()
                }),
                Self::Unknown => HARMLESS_KEYS.iter().any(|harmless| key.starts_with(harmless)),
            }
    }
}
