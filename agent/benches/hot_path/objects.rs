//! Objects as an API server sends them: compact, 6 to 10 KB, up to a half of it `managedFields`, no two alike.

use std::fmt;

use meshsync_agent::object::TypeContext;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// Kinds of objects that differ in what is done with them.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Pod,
    Deployment,
    ConfigMap,
    Secret,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Pod, Kind::Deployment, Kind::ConfigMap, Kind::Secret];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

impl Kind {
    /// What the agent knows of the type.
    pub(crate) fn context(self) -> TypeContext {
        TypeContext {
            api_version: if matches!(self, Self::Deployment) { "apps/v1" } else { "v1" }.to_owned(),
            kind: self.to_string(),
            is_secret: matches!(self, Self::Secret),
            redact: true,
            metadata_only: false,
        }
    }

    /// JSON of one object, as it stands in a watch event.
    pub(crate) fn object(self, index: usize) -> String {
        let mut object = match self {
            Self::Pod => pod(index),
            Self::Deployment => deployment(index),
            Self::ConfigMap => config_map(index),
            Self::Secret => secret(index),
        };
        let context = self.context();
        let managers: Vec<_> = ["kubectl-client-side-apply", "kube-controller-manager"]
            .iter()
            .zip(["spec", "status"])
            .filter_map(|(manager, part)| Some((manager, owned(object.get(part).or(object.get("data"))?))))
            .map(|(manager, fields)| {
                json!({"manager": manager, "operation": "Update", "apiVersion": context.api_version,
                    "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": fields})
            })
            .collect();
        object["apiVersion"] = context.api_version.into();
        object["kind"] = context.kind.into();
        object["metadata"]["managedFields"] = managers.into();
        object.to_string()
    }

    /// The watch event that says that the object changed, without line end.
    pub(crate) fn event(self, index: usize) -> String {
        format!(r#"{{"type":"MODIFIED","object":{}}}"#, self.object(index))
    }

    /// A page of a list.
    pub(crate) fn page(self, objects: std::ops::Range<usize>) -> String {
        let items: Vec<_> = objects.map(|index| self.object(index)).collect();
        format!(
            r#"{{"kind":"{self}List","apiVersion":"{}","metadata":{{"resourceVersion":"900000"}},"items":[{}]}}"#,
            self.context().api_version,
            items.join(",")
        )
    }
}

/// 16 digits that nobody can foresee, and the same in each run.
fn digits(index: usize, what: &str) -> String {
    format!("{:016x}", xxh3_64(format!("{what} {index}").as_bytes()))
}

fn uid(index: usize) -> String {
    let (one, other) = (digits(index, "uid"), digits(index, "more of it"));
    format!("{}-{}-{}-{}-{}{}", &one[..8], &one[8..12], &one[12..], &other[..4], &other[4..], &one[..0])
}

/// `fieldsV1` of what owns all of `value`.
fn owned(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(key, member)| (format!("f:{key}"), owned(member))).collect(),
        Value::Array(items) => {
            let named = items.iter().map(|item| match item.get("name").or(item.get("type")) {
                Some(name) => (format!("k:{}", json!({ "name": name })), owned(item)),
                None => (format!("v:{item}"), json!({})),
            });
            named.collect()
        }
        _ => json!({}),
    }
}

fn metadata(index: usize, prefix: &str) -> Value {
    json!({
        "name": format!("{prefix}-{}-{}", &digits(index, "set")[..9], &digits(index, "name")[..5]),
        "namespace": format!("team-{}", index % 20),
        "uid": uid(index),
        "resourceVersion": (1_000_000 + index).to_string(),
        "generation": 1 + index % 7,
        "creationTimestamp": format!("2026-01-{:02}T{:02}:{:02}:07Z", 1 + index % 28, index % 24, index % 60),
        "labels": {
            "app.kubernetes.io/name": prefix, "app.kubernetes.io/instance": format!("{prefix}-{}", index % 50),
            "app.kubernetes.io/version": format!("1.{}.0", index % 9), "pod-template-hash": &digits(index, "set")[..9],
        },
        "annotations": {
            "prometheus.io/scrape": "true", "prometheus.io/port": "8080",
            "checksum/config": digits(index, "config") + &digits(index, "more"),
            "example.com/notes": "restarted by hand, see the \"runbook\"",
        },
    })
}

fn container(index: usize, name: &str) -> Value {
    json!({
        "name": name,
        "image": format!("registry.example.com/team-{}/{name}:1.{}.{}", index % 20, index % 9, index % 31),
        "args": ["--listen=:8080", "--log-level=info", format!("--shard={}", index % 64)],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9090}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "DATABASE_URL", "value": format!("postgres://db-{}.data.svc:5432/app?sslmode=require", index % 12)},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": format!("token-{}", index % 40), "key": "token"}}},
            {"name": "JAVA_TOOL_OPTIONS", "value": "-XX:MaxRAMPercentage=75.0 -XX:+UseG1GC"},
        ],
        "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/app", "readOnly": true},
            {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
        ],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1,
            "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "allowPrivilegeEscalation": false},
    })
}

fn pod_spec(index: usize) -> Value {
    json!({
        "volumes": [
            {"name": "config", "configMap": {"name": format!("config-{}", index % 80), "defaultMode": 420}},
            {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]}},
        ],
        "containers": [container(index, "app"), container(index + 1, "proxy")],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "serviceAccountName": format!("app-{}", index % 40), "securityContext": {}, "schedulerName": "default-scheduler",
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ],
        "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
    })
}

fn pod(index: usize) -> Value {
    let mut metadata = metadata(index, "web");
    metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
        "name": format!("web-{}", &digits(index, "set")[..9]), "uid": uid(index / 3), "blockOwnerDeletion": true}]);
    let mut spec = pod_spec(index);
    spec["nodeName"] = format!("node-{}.compute.internal", index % 100).into();
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions = conditions.map(|name| {
        json!({"type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z"})
    });
    let statuses = ["app", "proxy"].map(|name| {
        let image = format!("registry.example.com/{name}@sha256:{0}{0}", digits(index % 31, name).repeat(2));
        json!({"name": name, "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}, "lastState": {}, "ready": true,
            "restartCount": index % 3, "image": format!("registry.example.com/{name}"), "imageID": image, "started": true,
            "containerID": format!("containerd://{}{}", digits(index, name).repeat(2), digits(index + 1, name).repeat(2))})
    });
    let ip = format!("10.{}.{}.{}", index % 200, index % 251, index % 241);
    let status = json!({"phase": "Running", "conditions": conditions, "hostIP": format!("192.168.1.{}", index % 100),
        "podIP": ip, "podIPs": [{"ip": ip}], "startTime": "2026-01-02T03:04:05Z", "containerStatuses": statuses,
        "qosClass": "Burstable"});
    json!({"metadata": metadata, "spec": spec, "status": status})
}

fn deployment(index: usize) -> Value {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod_spec(index)});
    let condition = |name: &str| {
        json!({"type": name, "status": "True", "reason": "MinimumReplicasAvailable", "message": "ReplicaSet has what it needs.",
            "lastUpdateTime": "2026-01-02T03:04:05Z", "lastTransitionTime": "2026-01-02T03:04:05Z"})
    };
    json!({
        "metadata": metadata(index, "deploy"),
        "spec": {"replicas": index % 5, "selector": {"matchLabels": {"app": "web"}}, "template": template,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600},
        "status": {"observedGeneration": 1 + index % 7, "replicas": index % 5, "readyReplicas": index % 5,
            "conditions": [condition("Available"), condition("Progressing")]},
    })
}

/// Two files, one of them JSON: quotes and line ends inside of strings.
fn config_map(index: usize) -> Value {
    let rule = |rule: usize| {
        json!({"match": {"path": format!("/api/v{rule}/{}", digits(index, "path")), "method": "GET"}, "timeout": "30s",
            "to": format!("http://svc-{rule}.team-{}.svc:8080", index % 20)})
    };
    let rules: Vec<_> = (0..20).map(rule).collect();
    let lines: String = (0..60).map(|line| format!("listen.{line}.address = \"0.0.0.0:{}\"\n", 8000 + line)).collect();
    let data = json!({"rules.json": Value::from(rules).to_string(), "app.properties": lines});
    json!({"metadata": metadata(index, "config"), "data": data})
}

fn secret(index: usize) -> Value {
    let value = |key: usize| (format!("key-{key}.pem"), Value::from(digits(index, &key.to_string()).repeat(24)));
    let data: Map<_, _> = (0..12).map(value).collect();
    json!({"metadata": metadata(index, "secret"), "type": "Opaque", "data": data})
}
