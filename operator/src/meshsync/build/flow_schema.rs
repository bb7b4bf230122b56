//! Which share of the API server an agent gets.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfigurationReference,
    ResourcePolicyRule, ServiceAccountSubject, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::validate::Validated;
use super::meta::cluster_scoped;

/// The priority level of workloads, which every API server has: that of controllers and nodes is another.
const PRIORITY_LEVEL: &str = "workload-low";
/// Before `kube-system-service-accounts` (900), which would put the agent of a MeshSync in kube-system beside the
/// controllers there.
const PRECEDENCE: i32 = 850;

/// Everything that the agent asks, as one flow of its own: its lists wait in its own queue, and its figures in the API
/// server's metrics are its own.
///
/// One for each MeshSync, because only a list of names can express which accounts are agents': a FlowSchema knows one
/// account of one namespace, all of one namespace, or groups. The groups of an account are its namespace's and everybody's,
/// and with either of them what else runs there, controllers among it, would be moved too.
pub(super) fn flow_schema(input: &Validated) -> FlowSchema {
    let all = || vec!["*".to_owned()];
    let account = ServiceAccountSubject { name: input.identity.agent(), namespace: input.identity.namespace.clone() };
    FlowSchema {
        metadata: ObjectMeta { name: Some(input.identity.flow_schema()), ..cluster_scoped(input) },
        spec: Some(FlowSchemaSpec {
            // There is but one user in it.
            distinguisher_method: None,
            matching_precedence: Some(PRECEDENCE),
            priority_level_configuration: PriorityLevelConfigurationReference { name: PRIORITY_LEVEL.to_owned() },
            rules: Some(vec![PolicyRulesWithSubjects {
                subjects: vec![Subject {
                    kind: "ServiceAccount".to_owned(),
                    service_account: Some(account),
                    ..Subject::default()
                }],
                resource_rules: Some(vec![ResourcePolicyRule {
                    api_groups: all(),
                    resources: all(),
                    verbs: all(),
                    namespaces: Some(all()),
                    cluster_scope: Some(true),
                }]),
                non_resource_rules: Some(vec![NonResourcePolicyRule { non_resource_urls: all(), verbs: all() }]),
            }]),
        }),
        status: None,
    }
}
