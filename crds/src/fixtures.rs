//! Discovery of a small cluster, for tests.

use crate::discovery::ServedType;

const WATCHABLE: &[&str] = &["get", "list", "watch"];

fn t(group: &str, version: &str, kind: &str, plural: &str, short: &[&str], namespaced: bool) -> ServedType {
    ServedType {
        singular: kind.to_ascii_lowercase(),
        short_names: short.iter().map(|s| (*s).into()).collect(),
        namespaced,
        verbs: WATCHABLE.iter().map(|s| (*s).into()).collect(),
        ..ServedType::named(group, version, kind, plural)
    }
}

/// A small cluster's discovery: twins, a name served by two groups, a type in two versions, a mesh, and types that
/// cannot be watched.
pub(crate) fn served() -> Vec<ServedType> {
    vec![
        t("", "v1", "Pod", "pods", &["po"], true),
        t("", "v1", "ConfigMap", "configmaps", &["cm"], true),
        t("", "v1", "Event", "events", &["ev"], true),
        t("", "v1", "Service", "services", &["svc"], true),
        t("", "v1", "Node", "nodes", &["no"], false),
        ServedType {
            verbs: vec!["list".into()],
            ..t("", "v1", "ComponentStatus", "componentstatuses", &["cs"], false)
        },
        t("apps", "v1", "Deployment", "deployments", &["deploy"], true),
        t("events.k8s.io", "v1", "Event", "events", &["ev"], true),
        t("batch", "v1", "Job", "jobs", &[], true),
        t("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], true),
        ServedType {
            preferred: false,
            ..t("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], true)
        },
        t("networking.istio.io", "v1", "VirtualService", "virtualservices", &["vs"], true),
        t("telemetry.istio.io", "v1", "Telemetry", "telemetries", &[], true),
        t("serving.knative.dev", "v1", "Service", "services", &["kservice"], true),
        t("example.com", "v1", "Widget", "widgets", &[], true),
        t("v1.example.com", "v3", "Widget", "widgets", &[], true),
    ]
}

pub(crate) fn names(types: &[&ServedType]) -> Vec<String> {
    types.iter().map(|t| t.name()).collect()
}
