//! The cluster-wide default of `informer_config`: an annotation of our CustomResourceDefinition, which an administrator can
//! download, edit and apply.
//!
//! * Absent: the operator writes the default that it saved last, otherwise the built-in one.
//! * Present: it is in force. The operator saves it in a ConfigMap, so that an upgrade that drops the annotation does not
//!   undo an edit.
//! * Empty: the built-in default is in force.
//! * Invalid, or selects no type: the operator reports it, and the last good default stays in force.
//!
//! The operator also removes server-assigned fields from what kubectl saved of an edited file, so that the next upgrade can
//! be applied in the same way.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use meshsync_crds::discovery::ServedType;
use meshsync_crds::informer_config::InformerConfig;
use meshsync_crds::names::{CRD_NAME, INFORMER_CONFIG_ANNOTATION, OPERATOR_FIELD_MANAGER};
use meshsync_crds::selection::select;
use serde_json::json;

use super::ClusterDefault;
use crate::error::Error;

/// ConfigMap in the operator's namespace that holds the saved default.
const SAVED_DEFAULT: &str = "meshsync-informer-config-default";
const SAVED_DEFAULT_KEY: &str = "informer_config";
/// Annotation in which `kubectl apply` saves what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to do about an annotation.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    default: ClusterDefault,
    /// Text to write into the annotation.
    write: Option<String>,
    /// Text to save; the empty text deletes the saved default.
    save: Option<String>,
}

/// Reconciles the annotation with the saved default and returns the default in force, in a cluster that serves `served`.
///
/// # Errors
/// A request that failed.
pub(super) async fn settle(
    client: &Client,
    namespace: &str,
    crd: &CustomResourceDefinition,
    served: &[ServedType],
) -> Result<ClusterDefault, Error> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config_map = config_maps
        .get_opt(SAVED_DEFAULT)
        .await
        .map_err(Error::api(format!("read ConfigMap {namespace}/{SAVED_DEFAULT}")))?;
    let saved = config_map.and_then(|map| map.data?.remove(SAVED_DEFAULT_KEY)).unwrap_or_default();
    let annotation = crd.annotations().get(INFORMER_CONFIG_ANNOTATION).map(String::as_str);
    let Decision { mut default, write, save } = decide(annotation, &saved, served);
    if default.problem.is_none() {
        default.problem = schema_default(crd);
    }
    if let Some(text) = save {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SAVED_DEFAULT}, "data": {SAVED_DEFAULT_KEY: text}});
        let params = PatchParams::apply(OPERATOR_FIELD_MANAGER).force();
        let patched = config_maps.patch(SAVED_DEFAULT, &params, &Patch::Apply(&body)).await;
        patched.map_err(Error::api(format!("write ConfigMap {namespace}/{SAVED_DEFAULT}")))?;
    }
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    if let Some(text) = cleaned(crd.annotations().get(LAST_APPLIED).map_or("", String::as_str)) {
        let body = json!({"metadata": {"annotations": {LAST_APPLIED: text}}});
        let params = PatchParams { field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = crds.patch(CRD_NAME, &params, &Patch::Merge(&body)).await;
        patched.map_err(Error::api(format!("annotate CustomResourceDefinition {CRD_NAME}")))?;
    }
    if let Some(text) = write {
        let body = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": CRD_NAME, "annotations": {INFORMER_CONFIG_ANNOTATION: text}},
        });
        // Without force: an annotation that another field manager owns is not ours to write.
        let patched = crds.patch(CRD_NAME, &PatchParams::apply(OPERATOR_FIELD_MANAGER), &Patch::Apply(&body)).await;
        patched.map_err(Error::api(format!("annotate CustomResourceDefinition {CRD_NAME}")))?;
    }
    Ok(default)
}

/// Names the place of the default in messages.
pub(crate) fn place() -> String {
    format!("annotation {INFORMER_CONFIG_ANNOTATION} of CustomResourceDefinition {CRD_NAME}")
}

fn decide(annotation: Option<&str>, saved: &str, served: &[ServedType]) -> Decision {
    let built_in = ClusterDefault::default();
    let known = |text: &str| match read(text, &[]) {
        Ok(config) if !text.trim().is_empty() && config != built_in.config => {
            ClusterDefault { config, is_built_in: false, problem: None }
        }
        _ => built_in.clone(),
    };
    match annotation {
        None => {
            let default = known(saved);
            // A saved text is written back unchanged, with its comments.
            let write = if default.is_built_in { built_in.config.to_yaml().ok() } else { Some(saved.to_owned()) };
            Decision { default, write, save: None }
        }
        Some(text) if text.trim().is_empty() => {
            Decision { default: built_in, write: None, save: (!saved.is_empty()).then(String::new) }
        }
        // A default that was good once is not judged again by what is served now: otherwise an API that is unavailable for
        // a while would put the built-in default in force, which selects more.
        Some(text) => match read(text, if text == saved { &[] } else { served }) {
            Ok(_) => {
                let default = known(text);
                let save = if default.is_built_in { String::new() } else { text.to_owned() };
                Decision { default, write: None, save: (save != saved).then_some(save) }
            }
            Err(error) => {
                let problem = format!("{}: {error}; the last good default stays in force", place());
                Decision { default: ClusterDefault { problem: Some(problem), ..known(saved) }, write: None, save: None }
            }
        },
    }
}

/// What kubectl saved of an applied file, without the fields that the server assigns; `None` if it contains none of them.
///
/// When an administrator downloads the definition, edits it and applies it, the saved text contains a resourceVersion. At
/// the next upgrade kubectl would try to remove it, and fail with "resourceVersion: must be specified for an update".
fn cleaned(last_applied: &str) -> Option<String> {
    let mut document: serde_json::Value = serde_json::from_str(last_applied).ok()?;
    let metadata = document.get_mut("metadata")?.as_object_mut()?;
    let assigned = ["resourceVersion", "uid", "generation", "creationTimestamp"];
    let removed = assigned.map(|field| metadata.remove(field)).into_iter().flatten().count();
    (removed > 0).then(|| document.to_string())
}

/// Reads a default. It is invalid if it cannot be parsed, has an entry that is no type pattern, or selects none of `served`;
/// an empty `served` is not checked.
fn read(text: &str, served: &[ServedType]) -> Result<InformerConfig, String> {
    let config = InformerConfig::from_yaml(text).map_err(|error| error.to_string())?;
    let selection = select(&config.clone().into_effective(), served);
    let problems: Vec<String> = selection.problems.iter().filter(|p| p.is_fatal()).map(ToString::to_string).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems.join("; ")) }
}

/// Reports a `default` in the schema. It looks like the right place, but the API server copies it into each object at
/// creation, and a later edit never reaches that copy.
fn schema_default(crd: &CustomResourceDefinition) -> Option<String> {
    let in_schema = crd.spec.versions.iter().any(|version| {
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        let spec = schema.and_then(|schema| schema.properties.as_ref()?.get("spec"));
        let field = spec.and_then(|spec| spec.properties.as_ref()?.get("informer_config"));
        field.is_some_and(|field| field.default.is_some())
    });
    in_schema.then(|| {
        format!(
            "the schema of CustomResourceDefinition {CRD_NAME} has a `default` for informer_config, which reaches only \
             objects that are created later; remove it and edit the annotation {INFORMER_CONFIG_ANNOTATION}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meshsync::fixtures::served;

    const EDITED: &str = "# ours\nblacklist: [configmaps]\n";

    /// What the operator does in a cluster that serves two types.
    fn decide(annotation: Option<&str>, saved: &str) -> Decision {
        super::decide(annotation, saved, &[served("", "configmaps", "ConfigMap"), served("", "pods", "Pod")])
    }

    fn edited() -> ClusterDefault {
        ClusterDefault { config: InformerConfig::from_yaml(EDITED).unwrap(), is_built_in: false, problem: None }
    }

    #[test]
    fn absent_annotation_is_written_from_the_saved_or_built_in_default() {
        let fresh = decide(None, "");
        assert_eq!(InformerConfig::from_yaml(&fresh.write.unwrap()).unwrap(), InformerConfig::built_in());
        assert!(fresh.default.is_built_in);
        let upgraded = decide(None, EDITED);
        assert_eq!(upgraded, Decision { default: edited(), write: Some(EDITED.into()), save: None });
    }

    #[test]
    fn edit_takes_effect_and_is_saved_once() {
        assert_eq!(decide(Some(EDITED), ""), Decision { default: edited(), write: None, save: Some(EDITED.into()) });
        assert_eq!(decide(Some(EDITED), EDITED).save, None);
    }

    #[test]
    fn text_that_the_operator_wrote_is_not_an_edit() {
        let text = InformerConfig::built_in().to_yaml().unwrap();
        assert_eq!(decide(Some(&text), ""), Decision { default: ClusterDefault::default(), write: None, save: None });
    }

    #[test]
    fn server_assigned_fields_are_removed_from_what_kubectl_saved() {
        let downloaded =
            r#"{"kind":"CustomResourceDefinition","metadata":{"name":"n","resourceVersion":"7","uid":"u"}}"#;
        let clean = r#"{"kind":"CustomResourceDefinition","metadata":{"name":"n"}}"#;
        assert_eq!(cleaned(downloaded).as_deref(), Some(clean));
        for untouched in [clean, "", "no json", "[]", r#"{"metadata":7}"#] {
            assert_eq!(cleaned(untouched), None, "{untouched}");
        }
    }

    #[test]
    fn empty_annotation_means_built_in_and_deletes_the_saved_default() {
        let decision = decide(Some(" \n"), EDITED);
        assert_eq!(decision, Decision { default: ClusterDefault::default(), write: None, save: Some(String::new()) });
    }

    #[test]
    fn default_that_selects_nothing_does_not_replace_the_last_good_default() {
        let mut saved = EDITED.to_owned();
        for (text, said) in [
            ("blacklist: ['*']", "leaves no type to watch"),
            ("whitelist: [things.example.com]", "leaves no type to watch"),
            ("garbage", "not a valid informer_config"),
        ] {
            let decision = decide(Some(text), &saved);
            saved = decision.save.unwrap_or(saved);
            assert_eq!(decision.default.config, edited().config, "{text}");
            let problem = decision.default.problem.unwrap_or_default();
            assert!(problem.contains(said) && problem.contains("the last good default stays in force"), "{problem}");
        }
        assert_eq!(saved, EDITED);
    }

    #[test]
    fn good_default_stays_while_its_types_are_not_served() {
        let text = "whitelist: [things.example.com]\n";
        let decision = decide(Some(text), text);
        assert_eq!((decision.default.is_built_in, decision.default.problem), (false, None));
    }

    #[test]
    fn broken_edit_is_reported_and_the_last_good_default_stays() {
        for (text, named) in
            [("blacklist: {", "annotation meshery.layer5.io/informer_config"), ("blacklist: ['po ds']", "blacklist[0]")]
        {
            let decision = decide(Some(text), EDITED);
            assert_eq!(decision.default.config, edited().config);
            let problem = decision.default.problem.unwrap();
            assert!(problem.contains(named) && problem.contains(CRD_NAME), "{problem}");
            assert_eq!((decision.write, decision.save), (None, None), "{text} is saved");
        }
    }
}
