//! The cluster-wide default of `informer_config`: an annotation of our own CustomResourceDefinition, which a person can
//! download, edit and apply.
//!
//! * Absent: the operator writes it, as it was last remembered, else built in.
//! * Present: it is the truth, and remembered in a ConfigMap, so that an upgrade that drops it does not undo an edit.
//! * Empty: back to built in.
//! * Broken, or leaves no type to watch: reported; the last good one stays in force.
//!
//! Kubectl's own memory of an edited file is cleaned, so that the next upgrade can be applied in the same way.

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

/// ConfigMap in the operator's namespace that remembers the default.
const MEMORY: &str = "meshsync-informer-config-default";
const MEMORY_KEY: &str = "informer_config";
/// Where `kubectl apply` remembers what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is to be done about an annotation. Pure.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    default: ClusterDefault,
    /// Text to write into the annotation.
    write: Option<String>,
    /// Text to remember; empty means to forget.
    remember: Option<String>,
}

/// Brings annotation, memory and what is in force in line, in a cluster that serves `served`.
///
/// # Errors
/// A request that failed.
pub(super) async fn settle(
    client: &Client,
    namespace: &str,
    crd: &CustomResourceDefinition,
    served: &[ServedType],
) -> Result<ClusterDefault, Error> {
    let memories: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let memory = memories.get_opt(MEMORY).await.map_err(Error::api(format!("read ConfigMap {namespace}/{MEMORY}")))?;
    let remembered = memory.and_then(|map| map.data?.remove(MEMORY_KEY)).unwrap_or_default();
    let annotation = crd.annotations().get(INFORMER_CONFIG_ANNOTATION).map(String::as_str);
    let Decision { mut default, write, remember } = decide(annotation, &remembered, served);
    if default.problem.is_none() {
        default.problem = schema_default(crd);
    }
    if let Some(text) = remember {
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MEMORY}, "data": {MEMORY_KEY: text}});
        let params = PatchParams::apply(OPERATOR_FIELD_MANAGER).force();
        let patched = memories.patch(MEMORY, &params, &Patch::Apply(&body)).await;
        patched.map_err(Error::api(format!("write ConfigMap {namespace}/{MEMORY}")))?;
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
        // Not by force: if somebody owns the annotation, it is his.
        let patched = crds.patch(CRD_NAME, &PatchParams::apply(OPERATOR_FIELD_MANAGER), &Patch::Apply(&body)).await;
        patched.map_err(Error::api(format!("annotate CustomResourceDefinition {CRD_NAME}")))?;
    }
    Ok(default)
}

/// Where the default stands, for messages.
pub(crate) fn place() -> String {
    format!("annotation {INFORMER_CONFIG_ANNOTATION} of CustomResourceDefinition {CRD_NAME}")
}

fn decide(annotation: Option<&str>, remembered: &str, served: &[ServedType]) -> Decision {
    let built_in = ClusterDefault::default();
    let known = |text: &str| match read(text, &[]) {
        Ok(config) if !text.trim().is_empty() && config != built_in.config => {
            ClusterDefault { config, is_built_in: false, problem: None }
        }
        _ => built_in.clone(),
    };
    match annotation {
        None => {
            let default = known(remembered);
            // A text that was remembered is kept to the letter, comments included.
            let write = if default.is_built_in { built_in.config.to_yaml().ok() } else { Some(remembered.to_owned()) };
            Decision { default, write, remember: None }
        }
        Some(text) if text.trim().is_empty() => {
            Decision { default: built_in, write: None, remember: (!remembered.is_empty()).then(String::new) }
        }
        // What was good once is not held against what is served now: an API that is away for a while would turn it into
        // the built-in default, which selects more.
        Some(text) => match read(text, if text == remembered { &[] } else { served }) {
            Ok(_) => {
                let default = known(text);
                let remember = if default.is_built_in { String::new() } else { text.to_owned() };
                Decision { default, write: None, remember: (remember != remembered).then_some(remember) }
            }
            Err(error) => {
                let problem = format!("{}: {error}; the last good default stays in force", place());
                Decision {
                    default: ClusterDefault { problem: Some(problem), ..known(remembered) },
                    write: None,
                    remember: None,
                }
            }
        },
    }
}

/// What kubectl remembers of an applied file, less what the server assigns; `None` if none of that is in it.
///
/// Who downloads the definition, edits it and applies it leaves a resourceVersion there. At the next upgrade kubectl
/// would want to remove it, and fail with "resourceVersion: must be specified for an update".
fn cleaned(last_applied: &str) -> Option<String> {
    let mut document: serde_json::Value = serde_json::from_str(last_applied).ok()?;
    let metadata = document.get_mut("metadata")?.as_object_mut()?;
    let assigned = ["resourceVersion", "uid", "generation", "creationTimestamp"];
    let removed = assigned.map(|field| metadata.remove(field)).into_iter().flatten().count();
    (removed > 0).then(|| document.to_string())
}

/// A default that cannot be read, holds an entry that is no type pattern, or leaves nothing of `served` is not good. Of an
/// empty `served` nothing is expected to be left.
fn read(text: &str, served: &[ServedType]) -> Result<InformerConfig, String> {
    let config = InformerConfig::from_yaml(text).map_err(|error| error.to_string())?;
    let selection = select(&config.clone().into_effective(), served);
    let problems: Vec<String> = selection.problems.iter().filter(|p| p.is_fatal()).map(ToString::to_string).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems.join("; ")) }
}

/// A default in the schema looks like the right place and is not: the API server writes it into each object when that is
/// created, where a later edit never reaches it.
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
    fn decide(annotation: Option<&str>, remembered: &str) -> Decision {
        super::decide(annotation, remembered, &[served("", "configmaps", "ConfigMap"), served("", "pods", "Pod")])
    }

    fn edited() -> ClusterDefault {
        ClusterDefault { config: InformerConfig::from_yaml(EDITED).unwrap(), is_built_in: false, problem: None }
    }

    #[test]
    fn an_absent_annotation_is_written_as_remembered_else_built_in() {
        let fresh = decide(None, "");
        assert_eq!(InformerConfig::from_yaml(&fresh.write.unwrap()).unwrap(), InformerConfig::built_in());
        assert!(fresh.default.is_built_in);
        let upgraded = decide(None, EDITED);
        assert_eq!(upgraded, Decision { default: edited(), write: Some(EDITED.into()), remember: None });
    }

    #[test]
    fn an_edit_is_the_truth_and_remembered_once() {
        assert_eq!(
            decide(Some(EDITED), ""),
            Decision { default: edited(), write: None, remember: Some(EDITED.into()) }
        );
        assert_eq!(decide(Some(EDITED), EDITED).remember, None);
    }

    #[test]
    fn what_the_operator_wrote_itself_is_not_an_edit() {
        let text = InformerConfig::built_in().to_yaml().unwrap();
        assert_eq!(
            decide(Some(&text), ""),
            Decision { default: ClusterDefault::default(), write: None, remember: None }
        );
    }

    #[test]
    fn what_the_server_assigns_is_not_remembered_by_kubectl() {
        let downloaded =
            r#"{"kind":"CustomResourceDefinition","metadata":{"name":"n","resourceVersion":"7","uid":"u"}}"#;
        let clean = r#"{"kind":"CustomResourceDefinition","metadata":{"name":"n"}}"#;
        assert_eq!(cleaned(downloaded).as_deref(), Some(clean));
        for untouched in [clean, "", "no json", "[]", r#"{"metadata":7}"#] {
            assert_eq!(cleaned(untouched), None, "{untouched}");
        }
    }

    #[test]
    fn empty_means_built_in_and_forgets() {
        let decision = decide(Some(" \n"), EDITED);
        assert_eq!(
            decision,
            Decision { default: ClusterDefault::default(), write: None, remember: Some(String::new()) }
        );
    }

    #[test]
    fn a_default_that_leaves_nothing_does_not_replace_the_last_good_one() {
        let mut remembered = EDITED.to_owned();
        for (text, said) in [
            ("blacklist: ['*']", "leaves no type to watch"),
            ("whitelist: [things.example.com]", "leaves no type to watch"),
            ("garbage", "not a valid informer_config"),
        ] {
            let decision = decide(Some(text), &remembered);
            remembered = decision.remember.unwrap_or(remembered);
            assert_eq!(decision.default.config, edited().config, "{text}");
            let problem = decision.default.problem.unwrap_or_default();
            assert!(problem.contains(said) && problem.contains("the last good default stays in force"), "{problem}");
        }
        assert_eq!(remembered, EDITED);
    }

    #[test]
    fn a_default_that_was_good_stays_while_its_types_are_not_served() {
        let text = "whitelist: [things.example.com]\n";
        let decision = decide(Some(text), text);
        assert_eq!((decision.default.is_built_in, decision.default.problem), (false, None));
    }

    #[test]
    fn a_broken_edit_is_reported_and_the_last_good_one_stays() {
        for (text, named) in
            [("blacklist: {", "annotation meshery.layer5.io/informer_config"), ("blacklist: ['po ds']", "blacklist[0]")]
        {
            let decision = decide(Some(text), EDITED);
            assert_eq!(decision.default.config, edited().config);
            let problem = decision.default.problem.unwrap();
            assert!(problem.contains(named) && problem.contains(CRD_NAME), "{problem}");
            assert_eq!((decision.write, decision.remember), (None, None), "{text} is remembered");
        }
    }
}
