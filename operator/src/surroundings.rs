//! What every MeshSync depends on besides itself: discovery, the ceiling, the cluster-wide default.
//!
//! Gathered once and shared; a change of any of them reconciles every MeshSync.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use meshsync_crds::discovery::ServedType;
use meshsync_crds::informer_config::InformerConfig;
use meshsync_runtime::discovery::Discovered;

/// Reviews that are asked for at the same time.
const CONCURRENCY: usize = 8;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// UID of the namespace `kube-system`.
    pub cluster_id: String,
    /// UID of the CustomResourceDefinition, which owns cluster-scoped children.
    pub crd_uid: String,
    /// What the API server serves.
    pub discovered: Arc<Discovered>,
    /// Types that an agent may not be granted, with what the API server said.
    pub ungrantable: Arc<BTreeMap<String, String>>,
    /// The cluster-wide default.
    pub default: ClusterDefault,
}

/// The cluster-wide default of `informer_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDefault {
    /// What is in force.
    pub config: InformerConfig,
    /// Whether that is the built-in one.
    pub is_built_in: bool,
    /// What is wrong with a newer one that is not in force.
    pub problem: Option<String>,
}

impl Default for ClusterDefault {
    fn default() -> Self {
        Self { config: InformerConfig::built_in(), is_built_in: true, problem: None }
    }
}

/// Asks for each type whether the operator holds `list` and `watch` itself: nobody can grant what he does not hold
/// (RBAC's escalation check), and one rule too many fails the whole role.
///
/// # Errors
/// The first review that could not be asked for.
pub async fn ungrantable(client: &Client, types: &[ServedType]) -> Result<BTreeMap<String, String>, kube::Error> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut asked: Vec<ServedType> = types.iter().filter(|t| t.is_watchable() && t.preferred).cloned().collect();
    asked.dedup_by_key(|t| t.name());
    let answers: Vec<Result<Option<(String, String)>, kube::Error>> = stream::iter(asked)
        .map(|served| {
            let reviews = reviews.clone();
            async move {
                for verb in ["list", "watch"] {
                    if let Some(reason) = refused(&reviews, &served, verb).await? {
                        return Ok(Some((served.name(), reason)));
                    }
                }
                Ok(None)
            }
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    answers.into_iter().filter_map(Result::transpose).collect()
}

async fn refused(
    reviews: &Api<SelfSubjectAccessReview>,
    served: &ServedType,
    verb: &str,
) -> Result<Option<String>, kube::Error> {
    let attributes = ResourceAttributes {
        group: Some(served.group.clone()),
        resource: Some(served.plural.clone()),
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
    if status.allowed {
        return Ok(None);
    }
    let why = status.reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| format!("no right to {verb}"));
    Ok(Some(why))
}
