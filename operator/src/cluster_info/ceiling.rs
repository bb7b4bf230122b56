//! The most that an agent may be granted: what the ceiling ClusterRole allows and the operator itself may do.
//!
//! The operator checks both. The API server's escalation check alone is not enough: it lets the operator grant every
//! right that it holds, and for its own work the operator holds more than the ceiling, such as access to Secrets. The
//! role alone is not enough either, because it may not be bound.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{Api, Client, api::PostParams};
use meshsync_crds::discovery::ServedType;
use meshsync_crds::names::CEILING_CLUSTER_ROLE;

use crate::error::Error;

/// Concurrent access reviews.
const CONCURRENCY: usize = 8;
/// Verbs that an agent needs for a type.
const VERBS: [&str; 2] = ["list", "watch"];

/// Returns the types that the operator may not let an agent read, each with the reason. A single rule beyond that would
/// fail the whole role (RBAC's escalation check).
///
/// # Errors
/// The first request that failed.
pub(super) async fn ungrantable(client: &Client, types: &[ServedType]) -> Result<BTreeMap<String, String>, Error> {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let ceiling = roles.get_opt(CEILING_CLUSTER_ROLE).await;
    let ceiling = ceiling.map_err(Error::api(format!("read the ClusterRole {CEILING_CLUSTER_ROLE}")))?;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut asked: Vec<ServedType> = types.iter().filter(|t| t.is_watchable() && t.preferred).cloned().collect();
    asked.dedup_by_key(|t| t.name());
    let answers: Vec<Result<Option<(String, String)>, Error>> = stream::iter(asked)
        .map(|served| {
            let (reviews, beyond) = (reviews.clone(), beyond(ceiling.as_ref(), &served));
            async move {
                let why = match beyond {
                    Some(why) => Some(why),
                    None => refused(&reviews, &served).await.map_err(Error::api("review the operator's own access"))?,
                };
                Ok(why.map(|why| (served.name(), why)))
            }
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    answers.into_iter().filter_map(Result::transpose).collect()
}

/// Why `served` is beyond the ceiling; `None` if it is not.
fn beyond(ceiling: Option<&ClusterRole>, served: &ServedType) -> Option<String> {
    let Some(ceiling) = ceiling else { return Some("that ClusterRole does not exist".to_owned()) };
    let rules = ceiling.rules.as_deref().unwrap_or_default();
    let missing: Vec<&str> =
        VERBS.into_iter().filter(|verb| !rules.iter().any(|rule| allows(rule, served, verb))).collect();
    (!missing.is_empty()).then(|| format!("that ClusterRole does not allow to {} it", missing.join(" and ")))
}

/// Whether a rule allows `verb` on every object of `served`, by the rules of the RBAC authorizer.
fn allows(rule: &PolicyRule, served: &ServedType, verb: &str) -> bool {
    let names =
        |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|name| name == "*" || name == wanted);
    rule.resource_names.as_ref().is_none_or(Vec::is_empty)
        && rule.verbs.iter().any(|allowed| allowed == "*" || allowed == verb)
        && names(&rule.api_groups, &served.group)
        && names(&rule.resources, &served.plural)
}

/// Why the operator cannot grant the right to read `served`, because it does not hold that right; `None` if it can.
async fn refused(reviews: &Api<SelfSubjectAccessReview>, served: &ServedType) -> Result<Option<String>, kube::Error> {
    for verb in VERBS {
        let attributes = ResourceAttributes {
            group: Some(served.group.clone()),
            resource: Some(served.plural.clone()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        if !status.allowed {
            let why = status.reason.filter(|reason| !reason.is_empty());
            return Ok(Some(why.unwrap_or_else(|| format!("the operator itself may not {verb} it"))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(group: &str, plural: &str) -> ServedType {
        ServedType { verbs: VERBS.map(str::to_owned).to_vec(), ..ServedType::named(group, "v1", "Kind", plural) }
    }

    fn role(rules: serde_json::Value) -> ClusterRole {
        serde_json::from_value(serde_json::json!({"rules": rules})).unwrap()
    }

    #[test]
    fn ceiling_limits_the_agent_whatever_the_operator_may_do() {
        let ceiling = role(serde_json::json!([
            {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["list", "watch"]},
        ]));
        for (group, plural, expected) in [
            ("apps", "deployments", None),
            ("", "pods", None),
            ("", "nodes", Some("that ClusterRole does not allow to watch it")),
            ("", "secrets", Some("that ClusterRole does not allow to list and watch it")),
            ("", "configmaps", Some("that ClusterRole does not allow to list and watch it")),
            ("batch", "jobs", Some("that ClusterRole does not allow to list and watch it")),
        ] {
            assert_eq!(beyond(Some(&ceiling), &served(group, plural)).as_deref(), expected, "{plural}.{group}");
        }
        assert!(beyond(None, &served("apps", "deployments")).is_some());
        assert!(beyond(Some(&ClusterRole::default()), &served("apps", "deployments")).is_some());
    }
}
