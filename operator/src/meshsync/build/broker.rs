//! The managed broker: one nats-server with JetStream, a token, and nobody outside the namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec, Probe, Secret,
    SecretKeySelector, Service, ServicePort, ServiceSpec, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshsync_crds::{ExternalBroker, ManagedBroker};

use super::super::validate::{Broker, Validated, hash};
use super::meta::namespaced;
use super::pod::{CREDENTIALS_ANNOTATION, container_security, pod_security};
use crate::quantity::units;

/// Port for clients.
pub const CLIENT_PORT: i32 = 4222;
/// Port for monitoring; Meshery Server looks for the agent there.
pub const MONITOR_PORT: i32 = 8222;
/// Key of the Secret that holds the token.
pub const TOKEN_KEY: &str = "token";

const COMPONENT: &str = "broker";
const CONFIG_KEY: &str = "nats.conf";
const CONFIG_DIR: &str = "/etc/nats";
const DATA_DIR: &str = "/data";
/// What the file store may take of the node where no storage is asked for.
const EPHEMERAL_BYTES: i128 = 1 << 30;
/// Rolls the pod when its configuration file changes.
const CONFIG_ANNOTATION: &str = "meshery.layer5.io/config-hash";

/// URL of the broker, without credentials; those of several are separated by commas.
#[must_use]
pub fn url(input: &Validated) -> String {
    match &input.broker {
        Broker::External(external) => urls(external),
        Broker::Managed(_) => {
            format!("nats://{}.{}.svc:{CLIENT_PORT}", input.identity.broker(), input.identity.namespace)
        }
    }
}

/// All URLs of an external broker, as its agent reports them.
#[must_use]
pub fn urls(external: &ExternalBroker) -> String {
    let all: Vec<&str> = std::iter::once(&external.url).chain(&external.additional_urls).map(String::as_str).collect();
    all.join(",")
}

/// Where the token stands.
pub(super) fn token_selector(input: &Validated) -> SecretKeySelector {
    SecretKeySelector { name: input.identity.broker(), key: TOKEN_KEY.to_owned(), optional: None }
}

/// The Secret with `token`.
#[must_use]
pub fn secret(input: &Validated, token: &str) -> Secret {
    Secret {
        metadata: namespaced(input, input.identity.broker(), COMPONENT),
        string_data: Some([(TOKEN_KEY.to_owned(), token.to_owned())].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

pub(super) fn config_map(input: &Validated, managed: &ManagedBroker) -> ConfigMap {
    ConfigMap {
        metadata: namespaced(input, input.identity.broker(), COMPONENT),
        data: Some([(CONFIG_KEY.to_owned(), nats_conf(managed))].into()),
        ..ConfigMap::default()
    }
}

fn nats_conf(managed: &ManagedBroker) -> String {
    // In bytes: nats-server's suffixes are not those of Kubernetes, and it knows no fractions.
    // A tenth of a volume is left for its file system and for what the server writes besides.
    let claimed = managed.storage.as_ref().and_then(|storage| Some(units(&storage.size.0)? / 10 * 9));
    let size = claimed.unwrap_or(EPHEMERAL_BYTES);
    format!(
        "# Written by the operator.\n\
         port: {CLIENT_PORT}\n\
         http_port: {MONITOR_PORT}\n\
         max_payload: 8MB\n\
         server_name: $POD_NAME\n\
         jetstream {{\n  store_dir: \"{DATA_DIR}\"\n  max_file_store: {size}\n}}\n\
         authorization {{\n  token: $NATS_TOKEN\n}}\n"
    )
}

/// Rolls the pod when what it reads only at its start changes.
fn annotations(input: &Validated, managed: &ManagedBroker) -> BTreeMap<String, String> {
    [
        (CREDENTIALS_ANNOTATION.to_owned(), input.credentials_hash.clone()),
        (CONFIG_ANNOTATION.to_owned(), hash(&nats_conf(managed))),
    ]
    .into()
}

pub(super) fn service(input: &Validated) -> Service {
    service_named(input, input.identity.broker(), None)
}

/// Gives the StatefulSet's pod its name in DNS.
pub(super) fn headless_service(input: &Validated) -> Service {
    service_named(input, headless_name(input), Some("None".to_owned()))
}

fn headless_name(input: &Validated) -> String {
    format!("{}-pods", input.identity.broker())
}

fn service_named(input: &Validated, name: String, cluster_ip: Option<String>) -> Service {
    let port = |name: &str, number| ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: namespaced(input, name, COMPONENT),
        spec: Some(ServiceSpec {
            cluster_ip,
            selector: Some(input.identity.selector(COMPONENT)),
            ports: Some(vec![port("client", CLIENT_PORT), port("monitor", MONITOR_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Only pods of the same namespace reach the broker.
pub(super) fn network_policy(input: &Validated) -> NetworkPolicy {
    NetworkPolicy {
        metadata: namespaced(input, input.identity.broker(), COMPONENT),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(input.identity.selector(COMPONENT)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(LabelSelector::default()),
                    ..NetworkPolicyPeer::default()
                }]),
                ports: None,
            }]),
            egress: None,
        }),
    }
}

pub(super) fn stateful_set(input: &Validated, managed: &ManagedBroker) -> StatefulSet {
    let claim = managed.storage.as_ref().map(|storage| PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), storage.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    });
    StatefulSet {
        metadata: namespaced(input, input.identity.broker(), COMPONENT),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(headless_name(input)),
            selector: LabelSelector {
                match_labels: Some(input.identity.selector(COMPONENT)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(input.identity.labels(COMPONENT)),
                    annotations: Some(annotations(input, managed)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(input, managed, claim.is_none())),
            },
            // What a MeshSync made goes with it.
            persistent_volume_claim_retention_policy: claim.is_some().then(|| {
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Delete".to_owned()),
                    when_scaled: Some("Delete".to_owned()),
                }
            }),
            volume_claim_templates: claim.map(|claim| vec![claim]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn pod(input: &Validated, managed: &ManagedBroker, ephemeral: bool) -> PodSpec {
    let mut volumes = vec![Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: input.identity.broker(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }];
    if ephemeral {
        volumes.push(Volume {
            name: "data".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security(input)),
        containers: vec![container(input, managed)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn container(input: &Validated, managed: &ManagedBroker) -> Container {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let env = |name: &str, value_from| EnvVar { name: name.to_owned(), value: None, value_from };
    Container {
        name: "nats".to_owned(),
        image: Some(managed.image.clone().unwrap_or_else(|| input.defaults.nats_image.clone())),
        args: Some(vec![format!("--config={CONFIG_DIR}/{CONFIG_KEY}")]),
        env: Some(vec![
            env("NATS_TOKEN", Some(EnvVarSource { secret_key_ref: Some(token_selector(input)), ..Default::default() })),
            env(
                "POD_NAME",
                Some(EnvVarSource {
                    field_ref: Some(k8s_openapi::api::core::v1::ObjectFieldSelector {
                        field_path: "metadata.name".to_owned(),
                        api_version: Some("v1".to_owned()),
                    }),
                    ..Default::default()
                }),
            ),
        ]),
        ports: Some(vec![port("client", CLIENT_PORT), port("monitor", MONITOR_PORT)]),
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/healthz".to_owned()),
                port: IntOrString::String("monitor".to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(2),
            ..Probe::default()
        }),
        resources: managed.resources.clone(),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![mount("config", CONFIG_DIR), mount("data", DATA_DIR)]),
        ..Container::default()
    }
}
