//! The data set of a benchmark: objects of the kinds, sizes and shapes that fill a real cluster.
//!
//! Mix: pods 36 %, ReplicaSets 20 %, Secrets 12 %, ConfigMaps 12 %, EndpointSlices 8 %, Deployments 8 %, Services 4 %.
//! Objects are created through the API, so that the server adds what it always adds (defaults, managedFields); a pod
//! also gets a status. Everything is derived from the object's number: two runs make the same data.

use serde_json::{Value, json};

/// Share of each kind in percent; what is left over by rounding becomes pods.
const MIX: [(Kind, usize); 6] = [
    (Kind::ReplicaSet, 20),
    (Kind::Secret, 12),
    (Kind::ConfigMap, 12),
    (Kind::EndpointSlice, 8),
    (Kind::Deployment, 8),
    (Kind::Service, 4),
];

/// A kind of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `v1` Pod, with status.
    Pod,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Service.
    Service,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Pod,
        Self::ReplicaSet,
        Self::Secret,
        Self::ConfigMap,
        Self::EndpointSlice,
        Self::Deployment,
        Self::Service,
    ];

    /// Share of the kind in a data set, in percent.
    #[must_use]
    pub fn percent(self) -> usize {
        let of_the_others: usize = MIX.iter().map(|(_, percent)| percent).sum();
        MIX.iter().find(|(kind, _)| *kind == self).map_or(100 - of_the_others, |(_, percent)| *percent)
    }

    /// Path of the collection in `namespace`.
    #[must_use]
    pub fn collection(self, namespace: &str) -> String {
        let (prefix, plural) = self.location();
        format!("/{prefix}/namespaces/{namespace}/{plural}")
    }

    /// Path of the collection in all namespaces.
    #[must_use]
    pub fn everywhere(self) -> String {
        let (prefix, plural) = self.location();
        format!("/{prefix}/{plural}")
    }

    /// API version path and plural.
    fn location(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("api/v1", "pods"),
            Self::ReplicaSet => ("apis/apps/v1", "replicasets"),
            Self::Secret => ("api/v1", "secrets"),
            Self::ConfigMap => ("api/v1", "configmaps"),
            Self::EndpointSlice => ("apis/discovery.k8s.io/v1", "endpointslices"),
            Self::Deployment => ("apis/apps/v1", "deployments"),
            Self::Service => ("api/v1", "services"),
        }
    }
}

/// One object to create.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its body, without status.
    pub body: Value,
    /// What to write to the subresource `status` afterwards.
    pub status: Option<Value>,
}

/// Namespaces over which `objects` objects are spread: one for every 500.
#[must_use]
pub fn namespaces(objects: usize) -> Vec<String> {
    (0..objects.div_ceil(500)).map(|n| format!("bench-{n:03}")).collect()
}

/// The objects, smallest kinds last so that pods do not all land in one burst.
pub fn items(objects: usize) -> impl Iterator<Item = Item> {
    let namespaces = namespaces(objects);
    kinds(objects).into_iter().enumerate().map(move |(number, kind)| {
        let namespace = namespaces.get(number % namespaces.len()).cloned().unwrap_or_default();
        item(kind, number, namespace)
    })
}

fn kinds(objects: usize) -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        MIX.iter().flat_map(|(kind, percent)| std::iter::repeat_n(*kind, objects * percent / 100)).collect();
    kinds.extend(std::iter::repeat_n(Kind::Pod, objects - kinds.len()));
    kinds
}

fn item(kind: Kind, number: usize, namespace: String) -> Item {
    let name = format!("{}-{number:06}", format!("{kind:?}").to_lowercase());
    let mut body = match kind {
        Kind::Pod => json!({"apiVersion": "v1", "kind": "Pod", "spec": pod_spec(number)}),
        Kind::ReplicaSet => workload("ReplicaSet", number),
        Kind::Deployment => workload("Deployment", number),
        Kind::Secret => json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "stringData": {"token": text(number, 2400), "ca.crt": text(number + 1, 1200)}}),
        Kind::ConfigMap => json!({"apiVersion": "v1", "kind": "ConfigMap",
            "data": {"application.yaml": text(number, 2600), "logging.conf": text(number + 2, 900)}}),
        Kind::EndpointSlice => endpoint_slice(number),
        Kind::Service => json!({"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None",
            "selector": {"app": format!("app-{}", number % 97)},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 9090}]}}),
    };
    if let Some(object) = body.as_object_mut() {
        object.insert("metadata".to_owned(), metadata(number, &name, &namespace));
    }
    let status = (kind == Kind::Pod).then(|| pod_status(number));
    Item { kind, namespace, name, body, status }
}

fn metadata(number: usize, name: &str, namespace: &str) -> Value {
    json!({
        "name": name,
        "namespace": namespace,
        "labels": {
            "app": format!("app-{}", number % 97),
            "app.kubernetes.io/name": format!("app-{}", number % 97),
            "app.kubernetes.io/instance": format!("instance-{}", number % 13),
            "app.kubernetes.io/version": format!("1.{}.{}", number % 7, number % 11),
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        },
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "9090",
            "checksum/config": format!("{number:064x}"),
        },
    })
}

fn pod_spec(number: usize) -> Value {
    let env: Vec<Value> = (0..14)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{number}-{n}-of-the-application")}))
        .collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/{name}:1.{}", number % 9), "env": env,
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}, "periodSeconds": 20},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
        })
    };
    json!({
        "serviceAccountName": "default", "automountServiceAccountToken": false, "nodeName": format!("node-{}", number % 50),
        "containers": [container("app"), container("sidecar")],
        "volumes": [{"name": "config", "configMap": {"name": format!("configmap-{number:06}")}}],
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"}],
    })
}

fn pod_status(number: usize) -> Value {
    let condition = |type_: &str| json!({"type": type_, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": number % 4,
            "image": format!("registry.example/{name}:1.{}", number % 9),
            "imageID": format!("registry.example/{name}@sha256:{number:064x}"),
            "containerID": format!("containerd://{:064x}", number * 31),
            "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}, "lastState": {},
        })
    };
    json!({
        "phase": "Running", "hostIP": format!("10.1.0.{}", number % 250), "podIP": format!("10.{}.{}.{}", 2 + number / 62500, number / 250 % 250, number % 250),
        "startTime": "2026-01-02T03:04:05Z", "qosClass": "Burstable",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
        "containerStatuses": [container("app"), container("sidecar")],
    })
}

fn workload(kind: &str, number: usize) -> Value {
    let labels = json!({"app": format!("app-{}", number % 97), "number": number.to_string()});
    let mut template = pod_spec(number);
    if let Some(template) = template.as_object_mut() {
        template.remove("nodeName");
    }
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": template}},
    })
}

fn endpoint_slice(number: usize) -> Value {
    let endpoints: Vec<Value> = (0..8)
        .map(|n| {
            json!({
                "addresses": [format!("10.{}.{}.{}", number % 250, n, number / 250 % 250)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", (number + n) % 50), "zone": format!("zone-{}", n % 3),
                "targetRef": {"kind": "Pod", "namespace": "bench-000", "name": format!("pod-{:06}", number + n)},
            })
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

/// `length` bytes of lines that look like a configuration file; different for every `seed`.
fn text(seed: usize, length: usize) -> String {
    let mut out = String::with_capacity(length + 64);
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut line = 0;
    while out.len() < length {
        // A step of SplitMix64: cheap, and the same everywhere.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        out.push_str(&format!("setting.{line}.key: {value:016x}\n"));
        line += 1;
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_mix_adds_up_and_every_name_is_unique() {
        for objects in [1, 99, 1000, 20_000] {
            let kinds = kinds(objects);
            assert_eq!(kinds.len(), objects);
        }
        let items: Vec<Item> = items(1000).collect();
        let count = |kind| items.iter().filter(|i| i.kind == kind).count();
        assert_eq!((count(Kind::Pod), count(Kind::ReplicaSet), count(Kind::Service)), (360, 200, 40));
        let keys: BTreeSet<_> = items.iter().map(|i| (i.kind.collection(&i.namespace), &i.name)).collect();
        assert_eq!(keys.len(), 1000);
    }

    #[test]
    fn two_runs_make_the_same_data() {
        assert!(items(300).eq(items(300)));
        assert_ne!(text(1, 100), text(2, 100));
    }
}
