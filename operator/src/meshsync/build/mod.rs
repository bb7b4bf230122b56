//! Step three: the children, as they ought to be. Pure: no client in here.

mod agent;
mod broker;
mod flow_schema;
mod meta;
mod pod;
mod rbac;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Resource;
use serde::Serialize;
use serde_json::Value;

use super::validate::{Broker, Validated};
use crate::error::Error;

pub use agent::CONTAINER;
pub use broker::{CLIENT_PORT, MONITOR_PORT, TOKEN_KEY, secret, url, urls};
pub use rbac::{cluster_rules, union};

/// An object to be applied, as JSON with apiVersion and kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Kind, for messages.
    pub kind: &'static str,
    /// Path of the collection that it belongs to, e.g. `/apis/apps/v1/namespaces/meshery/deployments`.
    pub collection: String,
    /// Name.
    pub name: String,
    /// The object.
    pub body: Value,
}

/// Everything that belongs to a MeshSync, in the order in which it is applied: rights before what uses them, the
/// configuration before the pod that reads it, the agent before the broker, whose StatefulSet the API server may refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// See the type.
    pub children: Vec<Child>,
}

/// Builds the children. `granted` are rules that the agent has now; `settled` says that it has acknowledged its
/// configuration: only then are rights taken away, because an agent that still watches a type would otherwise see it
/// refused.
///
/// # Errors
/// An object that cannot be written as JSON, which is a bug.
pub fn build(input: &Validated, granted: &[PolicyRule], settled: bool) -> Result<Built, Error> {
    let namespace = input.identity.namespace.as_str();
    let mut rules = cluster_rules(&input.types);
    if !settled {
        rules = union(&rules, granted);
    }
    let mut children = vec![
        child("serviceaccounts", Some(namespace), &rbac::service_account(input))?,
        child("roles", Some(namespace), &rbac::role(input))?,
        child("rolebindings", Some(namespace), &rbac::role_binding(input))?,
        child("clusterroles", None, &rbac::cluster_role(input, rules))?,
        child("clusterrolebindings", None, &rbac::cluster_role_binding(input))?,
        child("configmaps", Some(namespace), &agent::config_map(input)?)?,
        child("deployments", Some(namespace), &agent::deployment(input))?,
    ];
    if let Broker::Managed(managed) = &input.broker {
        children.extend([
            child("configmaps", Some(namespace), &broker::config_map(input, managed))?,
            child("services", Some(namespace), &broker::service(input))?,
            child("services", Some(namespace), &broker::headless_service(input))?,
            child("networkpolicies", Some(namespace), &broker::network_policy(input))?,
            child("statefulsets", Some(namespace), &broker::stateful_set(input, managed))?,
        ]);
    }
    // Last: an operator that may not write FlowSchemas, as with the manifest of an older release, has done all else.
    children.push(child("flowschemas", None, &flow_schema::flow_schema(input))?);
    Ok(Built { children })
}

fn child<K>(plural: &str, namespace: Option<&str>, object: &K) -> Result<Child, Error>
where
    K: Resource<DynamicType = ()> + k8s_openapi::Resource + Serialize,
{
    let prefix = if K::GROUP.is_empty() { "/api".to_owned() } else { format!("/apis/{}", K::GROUP) };
    let within = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let version = <K as k8s_openapi::Resource>::VERSION;
    // The typed objects write apiVersion and kind themselves.
    let body = serde_json::to_value(object).map_err(|error| Error::Serialize(K::KIND, error))?;
    Ok(Child {
        kind: K::KIND,
        collection: format!("{prefix}/{version}{within}/{plural}"),
        name: object.meta().name.clone().unwrap_or_default(),
        body,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{defaults, dereferenced};
    use super::super::validate::validate;
    use super::*;

    fn children(spec: Value) -> Vec<Child> {
        let input = dereferenced(spec, &["secrets"]);
        build(&validate(&input, &defaults()).0.unwrap(), &[], true).unwrap().children
    }

    fn text(children: &[Child]) -> String {
        children.iter().map(|child| format!("# {}\n{}", child.collection, yaml(&child.body))).collect()
    }

    fn yaml(body: &Value) -> String {
        let mut body = body.clone();
        super::super::apply::prune_nulls(&mut body);
        serde_saphyr::to_string(&body).unwrap()
    }

    fn template_annotations(children: &[Child], kind: &str) -> Value {
        let child = children.iter().find(|child| child.kind == kind).unwrap();
        child.body["spec"]["template"]["metadata"]["annotations"].clone()
    }

    #[test]
    fn a_managed_broker_and_an_agent() {
        insta::assert_snapshot!(text(&children(json!({}))));
    }

    #[test]
    fn an_agent_for_a_broker_of_somebody_else() {
        let secret = |key: &str| json!({"name": "credentials", "key": key});
        let external = json!({
            "url": "tls://broker.example:4222",
            "credentials": {"user": secret("user"), "password": secret("password")},
            "tls": {"ca": secret("ca.crt")},
        });
        let agent = json!({"image": "mine:2", "nodeSelector": {"disk": "ssd"}, "podLabels": {"team": "a"}});
        let children = children(json!({"broker": {"external": external}, "agent": agent}));
        let deployment: Vec<Child> = children.into_iter().filter(|child| child.kind == "Deployment").collect();
        insta::assert_snapshot!(text(&deployment));
    }

    #[test]
    fn what_an_external_broker_asks_for_reaches_the_agent() {
        let secret = |key: &str| json!({"name": "broker-secret", "key": key});
        let container = |credentials: Value| {
            let external = json!({
                "url": "nats://a:4222", "additionalUrls": ["nats://b:4222", "tls://c:4222"], "credentials": credentials,
                "tls": {"ca": secret("ca.crt"), "handshakeFirst": true}, "stream": {"maxBytes": "1.5Gi"},
            });
            let children = children(json!({"broker": {"external": external}}));
            let deployment = children.into_iter().find(|child| child.kind == "Deployment").unwrap();
            let pod = deployment.body["spec"]["template"]["spec"].clone();
            let container = pod["containers"][0].clone();
            let env = container["env"].as_array().unwrap().iter();
            let env = env.map(|var| (var["name"].as_str().unwrap().to_owned(), var["value"].clone()));
            let volumes = pod["volumes"].as_array().unwrap().len();
            assert_eq!(container["volumeMounts"].as_array().unwrap().len(), volumes);
            (env.collect::<std::collections::BTreeMap<String, Value>>(), volumes)
        };
        let (env, volumes) = container(json!({"nkey": secret("seed")}));
        for (name, value) in [
            ("BROKER_URL", "nats://a:4222,nats://b:4222,tls://c:4222"),
            ("NATS_CA_FILE", "/etc/meshsync/broker-ca/ca.crt"),
            ("NATS_NKEY_FILE", "/etc/meshsync/broker-nkey/seed"),
            ("NATS_TLS_FIRST", "true"),
            ("MESHSYNC_STREAM_MAX_BYTES", "1610612736"),
        ] {
            assert_eq!(env[name], value, "{name}");
        }
        assert!(volumes == 2 && !env.contains_key("NATS_CREDENTIALS_FILE") && !env.contains_key("NATS_TOKEN"));
        let (env, _) = container(json!({"creds": secret("user.creds")}));
        assert_eq!(env["NATS_CREDENTIALS_FILE"], "/etc/meshsync/broker-creds/user.creds");
    }

    #[test]
    fn a_new_secret_rolls_agent_and_broker_and_a_new_configuration_file_the_broker() {
        let mut input = dereferenced(json!({}), &[]);
        let built = |input: &_| build(&validate(input, &defaults()).0.unwrap(), &[], true).unwrap().children;
        let before = built(&input);
        input.secret_versions = vec!["secret/2".to_owned()];
        let after = built(&input);
        for kind in ["Deployment", "StatefulSet"] {
            assert_ne!(template_annotations(&before, kind), template_annotations(&after, kind), "{kind}");
        }
        let larger = children(json!({"broker": {"managed": {"storage": {"size": "1.5Gi"}}}}));
        assert_eq!(template_annotations(&before, "Deployment"), template_annotations(&larger, "Deployment"));
        assert_ne!(template_annotations(&before, "StatefulSet"), template_annotations(&larger, "StatefulSet"));
        let config = larger.iter().find(|c| c.kind == "ConfigMap" && c.name == "ms-broker").unwrap();
        let config = config.body["data"]["nats.conf"].as_str().unwrap();
        assert!(config.contains("max_file_store: 1449551457\n"), "a tenth less than 1.5 GiB, in bytes: {config}");
    }
}
