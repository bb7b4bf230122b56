//! The agent's ConfigMap and Deployment.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SecretKeySelector, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshsync_crds::ExternalBroker;
use meshsync_crds::names::{AGENT_CONFIG_KEY, ANNOTATION_RESTARTED_FOR};

use super::super::names::Identity;
use super::super::validate::{Broker, Validated};
use super::broker;
use super::meta::namespaced;
use super::pod::{CREDENTIALS_ANNOTATION, container_security, pod_security};
use crate::error::Error;
use crate::quantity::units;

/// Name of the agent's container.
pub const CONTAINER: &str = "agent";
/// Port of probes and metrics, as the original has it.
const PROBE_PORT: i32 = 11000;
/// Where files for an external broker are mounted, each in a directory of its own.
const FILES_DIR: &str = "/etc/meshsync";

pub(super) fn config_map(input: &Validated) -> Result<ConfigMap, Error> {
    let text = serde_json::to_string_pretty(&input.config).map_err(|error| Error::Serialize("AgentConfig", error))?;
    Ok(ConfigMap {
        metadata: namespaced(input, input.identity.agent(), "agent"),
        data: Some([(AGENT_CONFIG_KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    })
}

pub(super) fn deployment(input: &Validated) -> Deployment {
    Deployment {
        metadata: namespaced(input, input.identity.agent(), "agent"),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            // Two agents would publish every object twice and fight over the status.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None }),
            selector: LabelSelector {
                match_labels: Some(input.identity.selector("agent")),
                ..LabelSelector::default()
            },
            template: template(input),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn template(input: &Validated) -> PodTemplateSpec {
    let settings = &input.agent;
    let mut labels = settings.pod_labels.clone().unwrap_or_default();
    labels.extend(input.identity.labels("agent"));
    let mut annotations = settings.pod_annotations.clone().unwrap_or_default();
    annotations.insert(CREDENTIALS_ANNOTATION.to_owned(), input.credentials_hash.clone());
    if let Some(revision) = &input.restarted_for {
        annotations.insert(ANNOTATION_RESTARTED_FOR.to_owned(), revision.clone());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(input.identity.agent()),
            automount_service_account_token: Some(true),
            // Service variables of a namespace with many Services make a process slow to start, and nothing reads them.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(30),
            security_context: Some(pod_security(input)),
            containers: vec![container(input)],
            volumes: each_file(input, SecretFile::volume),
            image_pull_secrets: settings.image_pull_secrets.clone(),
            node_selector: settings.node_selector.clone(),
            tolerations: settings.tolerations.clone(),
            affinity: settings.affinity.clone(),
            priority_class_name: settings.priority_class_name.clone(),
            ..PodSpec::default()
        }),
    }
}

fn container(input: &Validated) -> Container {
    let settings = &input.agent;
    let Identity { namespace, .. } = &input.identity;
    let probe = |path: &str, period, failures| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("probes".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(settings.image.clone().unwrap_or_else(|| input.defaults.agent_image.clone())),
        image_pull_policy: settings.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        args: Some(vec!["run".to_owned(), format!("--config-map={namespace}/{}", input.identity.agent())]),
        env: Some(environment(input)),
        ports: Some(vec![ContainerPort {
            name: Some("probes".to_owned()),
            container_port: PROBE_PORT,
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(probe("/readyz", 5, 1)),
        liveness_probe: Some(probe("/healthz", 20, 3)),
        resources: Some(settings.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: each_file(input, SecretFile::mount),
        ..Container::default()
    }
}

fn environment(input: &Validated) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let secret = |name: &str, selector: &SecretKeySelector| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector.clone()), ..EnvVarSource::default() }),
    };
    let field = ObjectFieldSelector { field_path: "metadata.name".to_owned(), api_version: Some("v1".to_owned()) };
    let mut env = vec![
        plain("BROKER_URL", broker::url(input)),
        EnvVar {
            name: "POD_NAME".to_owned(),
            value: None,
            value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        },
    ];
    match &input.broker {
        Broker::Managed(_) => env.push(secret("NATS_TOKEN", &broker::token_selector(input))),
        Broker::External(external) => env.extend(external_environment(external, secret)),
    }
    let files = files(input).into_iter().map(|file| plain(file.variable, file.path()));
    env.extend(files);
    env
}

/// What an external broker asks for, but files.
fn external_environment(external: &ExternalBroker, secret: impl Fn(&str, &SecretKeySelector) -> EnvVar) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let mut env = Vec::new();
    if let Some(credentials) = &external.credentials {
        let named = [
            ("NATS_TOKEN", &credentials.token),
            ("NATS_USER", &credentials.user),
            ("NATS_PASSWORD", &credentials.password),
        ];
        env.extend(named.into_iter().filter_map(|(name, selector)| Some(secret(name, selector.as_ref()?))));
    }
    if external.tls.as_ref().and_then(|tls| tls.handshake_first) == Some(true) {
        env.push(plain("NATS_TLS_FIRST", "true".to_owned()));
    }
    // The schema takes no quantity that is none.
    if let Some(bytes) = external.stream.as_ref().and_then(|stream| units(&stream.max_bytes.as_ref()?.0)) {
        env.push(plain("MESHSYNC_STREAM_MAX_BYTES", bytes.to_string()));
    }
    env
}

/// A key of a Secret that the agent reads as a file.
struct SecretFile<'a> {
    /// Name of the volume and of its directory.
    name: &'static str,
    /// Variable with its path.
    variable: &'static str,
    selector: &'a SecretKeySelector,
}

impl SecretFile<'_> {
    fn dir(&self) -> String {
        format!("{FILES_DIR}/{}", self.name)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.dir(), self.selector.key)
    }

    fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.name.to_owned(),
            mount_path: self.dir(),
            read_only: Some(true),
            ..VolumeMount::default()
        }
    }

    fn volume(&self) -> Volume {
        let SecretKeySelector { name, key, .. } = self.selector;
        Volume {
            name: self.name.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(name.clone()),
                items: Some(vec![KeyToPath { key: key.clone(), path: key.clone(), mode: None }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }
    }
}

fn files(input: &Validated) -> Vec<SecretFile<'_>> {
    let Broker::External(external) = &input.broker else { return Vec::new() };
    let credentials = external.credentials.as_ref();
    [
        ("broker-ca", "NATS_CA_FILE", external.tls.as_ref().and_then(|tls| tls.ca.as_ref())),
        ("broker-nkey", "NATS_NKEY_FILE", credentials.and_then(|credentials| credentials.nkey.as_ref())),
        ("broker-creds", "NATS_CREDENTIALS_FILE", credentials.and_then(|credentials| credentials.creds.as_ref())),
    ]
    .into_iter()
    .filter_map(|(name, variable, selector)| Some(SecretFile { name, variable, selector: selector? }))
    .collect()
}

/// `None` where there are none: an empty list is not left alone by everybody.
fn each_file<'i, T>(input: &'i Validated, of: fn(&SecretFile<'i>) -> T) -> Option<Vec<T>> {
    Some(files(input).iter().map(of).collect::<Vec<T>>()).filter(|all| !all.is_empty())
}

fn default_resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
        limits: Some(quantities(&[("memory", "512Mi")])),
        ..ResourceRequirements::default()
    }
}
