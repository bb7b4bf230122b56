//! What an agent may do: list and watch the selected types, watch its one ConfigMap, write its own status.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use meshsync_crds::names::GROUP;

use super::super::validate::Validated;
use super::meta::{cluster_scoped, namespaced};

const RBAC: &str = "rbac.authorization.k8s.io";
const READ: [&str; 2] = ["list", "watch"];

pub(super) fn service_account(input: &Validated) -> ServiceAccount {
    ServiceAccount {
        metadata: namespaced(input, input.identity.agent(), "agent"),
        // The Deployment mounts it where it is needed.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

pub(super) fn role(input: &Validated) -> Role {
    let rule = |group: &str, resource: &str, verb: &str, name: String| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(vec![name]),
        verbs: vec![verb.to_owned()],
        ..PolicyRule::default()
    };
    Role {
        metadata: namespaced(input, input.identity.agent(), "agent"),
        rules: Some(vec![
            rule("", "configmaps", "watch", input.identity.agent()),
            rule(GROUP, "meshsyncs/status", "patch", input.identity.name.clone()),
        ]),
    }
}

pub(super) fn role_binding(input: &Validated) -> RoleBinding {
    RoleBinding {
        metadata: namespaced(input, input.identity.agent(), "agent"),
        role_ref: RoleRef { api_group: RBAC.to_owned(), kind: "Role".to_owned(), name: input.identity.agent() },
        subjects: Some(vec![subject(input)]),
    }
}

pub(super) fn cluster_role(input: &Validated, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: cluster_scoped(input), rules: Some(rules), aggregation_rule: None }
}

pub(super) fn cluster_role_binding(input: &Validated) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: cluster_scoped(input),
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: input.identity.cluster_scoped(),
        },
        subjects: Some(vec![subject(input)]),
    }
}

fn subject(input: &Validated) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: input.identity.agent(),
        namespace: Some(input.identity.namespace.clone()),
        api_group: None,
    }
}

/// One rule a group, resources sorted: the same types always give the same bytes.
#[must_use]
pub fn cluster_rules(types: &BTreeSet<(String, String)>) -> Vec<PolicyRule> {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, plural) in types {
        groups.entry(group).or_default().push(plural.clone());
    }
    groups
        .into_iter()
        .map(|(group, resources)| PolicyRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(resources),
            verbs: READ.map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        })
        .collect()
}

/// Rules that grant what either side grants. Only rules of the shape that [`cluster_rules`] makes are taken from
/// `granted`: what somebody else wrote into the role is not to be kept.
#[must_use]
pub fn union(rules: &[PolicyRule], granted: &[PolicyRule]) -> Vec<PolicyRule> {
    let ours =
        |rule: &&PolicyRule| rule.verbs == READ && rule.resource_names.is_none() && rule.non_resource_urls.is_none();
    let types = rules
        .iter()
        .chain(granted.iter().filter(ours))
        .flat_map(|rule| {
            let groups = rule.api_groups.iter().flatten();
            groups.flat_map(|group| rule.resources.iter().flatten().map(|plural| (group.clone(), plural.clone())))
        })
        .filter(|(group, plural)| group != "*" && plural != "*")
        .collect();
    cluster_rules(&types)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(names: &[(&str, &str)]) -> BTreeSet<(String, String)> {
        names.iter().map(|(group, plural)| ((*group).to_owned(), (*plural).to_owned())).collect()
    }

    #[test]
    fn rules_are_enumerated_read_only_and_sorted() {
        let rules = cluster_rules(&types(&[("apps", "deployments"), ("", "pods"), ("", "nodes")]));
        let told: Vec<_> = rules
            .iter()
            .map(|r| (r.api_groups.clone().unwrap(), r.resources.clone().unwrap(), r.verbs.clone()))
            .collect();
        let list = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            told,
            [
                (list(&[""]), list(&["nodes", "pods"]), list(&["list", "watch"])),
                (list(&["apps"]), list(&["deployments"]), list(&["list", "watch"])),
            ]
        );
    }

    #[test]
    fn growing_keeps_what_was_granted_but_nothing_that_was_smuggled_in() {
        let before = cluster_rules(&types(&[("", "configmaps"), ("", "pods")]));
        let wanted = cluster_rules(&types(&[("", "pods"), ("apps", "deployments")]));
        assert_eq!(
            union(&wanted, &before),
            cluster_rules(&types(&[("", "configmaps"), ("", "pods"), ("apps", "deployments")]))
        );
        let smuggled = PolicyRule {
            verbs: vec!["*".into()],
            api_groups: Some(vec!["*".into()]),
            resources: Some(vec!["*".into()]),
            ..Default::default()
        };
        assert_eq!(union(&wanted, &[smuggled]), wanted);
    }
}
