//! Which types `tail` shows, without a cluster to ask what its types are called.

use std::collections::BTreeSet;

use meshsync_crds::discovery::{ServedType, group_resource};
use meshsync_crds::pattern::TypePattern;

use crate::stream::TypeKey;

/// Kind, group and short name of the types that come with Kubernetes and have one. Those of others are known to their
/// cluster only.
const SHORT_NAMES: [(&str, &str, &str); 27] = [
    ("ConfigMap", "", "cm"),
    ("Endpoints", "", "ep"),
    ("Event", "", "ev"),
    ("LimitRange", "", "limits"),
    ("Namespace", "", "ns"),
    ("Node", "", "no"),
    ("PersistentVolume", "", "pv"),
    ("PersistentVolumeClaim", "", "pvc"),
    ("Pod", "", "po"),
    ("ReplicationController", "", "rc"),
    ("ResourceQuota", "", "quota"),
    ("Service", "", "svc"),
    ("ServiceAccount", "", "sa"),
    ("CustomResourceDefinition", "apiextensions.k8s.io", "crd"),
    ("CustomResourceDefinition", "apiextensions.k8s.io", "crds"),
    ("DaemonSet", "apps", "ds"),
    ("Deployment", "apps", "deploy"),
    ("ReplicaSet", "apps", "rs"),
    ("StatefulSet", "apps", "sts"),
    ("HorizontalPodAutoscaler", "autoscaling", "hpa"),
    ("CronJob", "batch", "cj"),
    ("CertificateSigningRequest", "certificates.k8s.io", "csr"),
    ("Ingress", "networking.k8s.io", "ing"),
    ("NetworkPolicy", "networking.k8s.io", "netpol"),
    ("PodDisruptionBudget", "policy", "pdb"),
    ("PriorityClass", "scheduling.k8s.io", "pc"),
    ("StorageClass", "storage.k8s.io", "sc"),
];
/// Types that are remembered while none matched: anybody may publish anything.
const REMEMBERED: usize = 1_024;
/// Types that are named when none matched: enough to see what they look like.
const NAMED: usize = 8;

/// Tells the wanted types from the others, and remembers those while nothing was wanted.
#[derive(Debug)]
pub(super) struct TypeFilter {
    wanted: TypePattern,
    matched: bool,
    /// By group, those of the core group first.
    others: BTreeSet<ServedType>,
}

impl TypeFilter {
    pub(super) const fn new(wanted: TypePattern) -> Self {
        Self { wanted, matched: false, others: BTreeSet::new() }
    }

    /// Whether objects of this type are wanted. A bare name means all types of that name: which of them a cluster would
    /// pick depends on what else it serves.
    pub(super) fn wants(&mut self, found: ServedType) -> bool {
        let wants = !self.wanted.matches(std::slice::from_ref(&found)).is_empty();
        self.matched |= wants;
        if !self.matched && self.others.len() < REMEMBERED {
            self.others.insert(found);
        }
        wants
    }

    /// What to say if nothing was wanted so far.
    pub(super) fn nothing(&self) -> Option<String> {
        (!self.matched).then(|| format!("nothing so far is of type `{}`; {}", self.wanted, self.seen()))
    }

    fn seen(&self) -> String {
        if self.others.is_empty() {
            return "nothing came at all".to_owned();
        }
        let types: BTreeSet<String> =
            self.others.iter().map(|other| group_resource(&other.kind, &other.group)).collect();
        let more = types.len().saturating_sub(NAMED);
        let named: Vec<String> = types.into_iter().take(NAMED).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let others: Vec<ServedType> = self.others.iter().cloned().collect();
        let hint = self.wanted.nearest(&others).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        format!("seen: {}{more}{hint}", named.join(", "))
    }
}

/// The type of an object, with all names that it may be called by. `key` is what its subject tells; without one, the
/// plural is what it would be by the rules.
pub(super) fn type_of(api_version: &str, kind: &str, key: Option<TypeKey>) -> ServedType {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_it = |(of, in_group, _): &&(&str, &str, &str)| (*of, *in_group) == (kind, group);
    let mut names: Vec<String> = SHORT_NAMES.iter().filter(is_it).map(|(_, _, short)| (*short).to_owned()).collect();
    let plural = match key {
        Some(key) => key.plural,
        None => {
            let (plural, other) = plurals(&kind.to_lowercase());
            names.extend(other);
            plural
        }
    };
    ServedType {
        singular: kind.to_lowercase(),
        short_names: names,
        namespaced: false,
        ..ServedType::named(group, version, kind, plural)
    }
}

/// The plural that a type of this name would have, and one that it may have instead. Its author could have chosen any.
fn plurals(singular: &str) -> (String, Option<String>) {
    let ends = |ends: &[&str]| ends.iter().any(|end| singular.ends_with(end));
    match singular.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => (format!("{stem}ies"), None),
        // `Ingress` is one, `Endpoints` are many.
        _ if ends(&["s"]) => (format!("{singular}es"), Some(singular.to_owned())),
        _ if ends(&["x", "ch", "sh"]) => (format!("{singular}es"), None),
        _ => (format!("{singular}s"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(entry: &str) -> TypeFilter {
        TypeFilter::new(TypePattern::parse(entry).unwrap())
    }

    fn wants(entry: &str, api_version: &str, kind: &str) -> bool {
        filter(entry).wants(type_of(api_version, kind, None))
    }

    #[test]
    fn a_type_is_found_by_each_of_its_names() {
        let policy = ("networking.k8s.io/v1", "NetworkPolicy");
        let deployment = ("apps/v1", "Deployment");
        for (names, (api_version, kind)) in [
            (&["Pod", "pod", "POD", "pods", "po", "pods.", "pods.v1."][..], ("v1", "Pod")),
            (&["deployments.apps", "deployment.apps", "Deployment.apps", "deploy", "deployments.v1.apps"], deployment),
            (&["networkpolicies", "netpol", "NetworkPolicy", "networkpolicies.networking.k8s.io", "*.k8s.io"], policy),
            (&["ingresses", "ingress", "ing"], ("networking.k8s.io/v1", "Ingress")),
            (&["endpoints", "ep"], ("v1", "Endpoints")),
            (
                &["gateways", "gateway", "gateways.gateway.networking.k8s.io"],
                ("gateway.networking.k8s.io/v1", "Gateway"),
            ),
            (&["meshes"], ("example.com/v1", "Mesh")),
            (&["patches"], ("example.com/v1", "Patch")),
            (&["boxes"], ("example.com/v1", "Box")),
            (&["storageclasses", "sc"], ("storage.k8s.io/v1", "StorageClass")),
            (&["*"], ("v1", "Secret")),
        ] {
            for name in names {
                assert!(wants(name, api_version, kind), "{name} is {kind} of {api_version}");
            }
        }
    }

    #[test]
    fn others_are_not() {
        for (entry, api_version, kind) in [
            ("pods", "apps/v1", "Deployment"),
            ("deployments.batch", "apps/v1", "Deployment"),
            ("deployments.v2.apps", "apps/v1", "Deployment"),
            ("svc", "serving.knative.dev/v1", "Service"),
            ("po", "v1", "PodTemplate"),
            ("pods", "", ""),
        ] {
            assert!(!wants(entry, api_version, kind), "{entry} is not {kind} of {api_version}");
        }
    }

    #[test]
    fn the_plural_of_a_subject_is_the_one() {
        let key = || Some(TypeKey { group: "example.com".into(), plural: "oxen".into() });
        let wants = |entry: &str| filter(entry).wants(type_of("example.com/v1", "Ox", key()));
        assert!(wants("oxen") && wants("oxen.example.com") && wants("Ox"));
        assert!(!wants("oxes"));
    }

    #[test]
    fn a_type_that_nothing_is_of_is_told_with_those_that_are() {
        let mut filter = filter("deploymnets");
        assert_eq!(filter.nothing().as_deref(), Some("nothing so far is of type `deploymnets`; nothing came at all"));
        filter.wants(type_of("apps/v1", "Deployment", None));
        filter.wants(type_of("v1", "Pod", None));
        let said =
            "nothing so far is of type `deploymnets`; seen: Deployment.apps, Pod; did you mean `deployments.apps`?";
        assert_eq!(filter.nothing().as_deref(), Some(said));
        for number in 0..7 {
            filter.wants(type_of("example.com/v1", &format!("Thing{number}"), None));
        }
        let said = filter.nothing().unwrap();
        assert!(said.contains("Thing5.example.com and 1 more; did") && !said.contains("Thing6"), "{said}");
    }

    #[test]
    fn nothing_is_told_where_something_matched() {
        let mut filter = filter("po");
        assert!(filter.wants(type_of("v1", "Pod", None)));
        assert!(!filter.wants(type_of("v1", "Secret", None)));
        assert_eq!(filter.nothing(), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut filter = filter("pods");
        for number in 0..2 * REMEMBERED {
            assert!(!filter.wants(type_of("example.com/v1", &format!("Kind{number}"), None)));
        }
        assert_eq!(filter.others.len(), REMEMBERED);
        assert!(filter.wants(type_of("v1", "Pod", None)));
    }
}
