//! The schema as users and the API server meet it.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests may panic")]

use kube::CustomResourceExt;
use meshsync_crds::MeshSync;
use regex::Regex;
use serde_json::Value;

fn crd() -> Value {
    serde_json::to_value(MeshSync::crd()).unwrap()
}

fn schema() -> Value {
    crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls `visit` with the path and schema of every property below `schema`.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            visit(&path, property);
            walk(&path, property, visit);
        }
    }
    for nested in ["items", "additionalProperties"] {
        if schema[nested].is_object() {
            walk(&format!("{path}[]"), &schema[nested], visit);
        }
    }
}

/// Whether the schema of the field is ours, and not one of the Kubernetes types that we embed.
fn is_ours(path: &str) -> bool {
    !["resources.", "affinity.", "tolerations[]", "imagePullSecrets[]", ".conditions[]", ".metadata"]
        .iter()
        .any(|theirs| path.contains(theirs))
}

#[test]
fn informer_config_is_the_only_name_that_is_not_camel_case() {
    let mut odd = Vec::new();
    walk("", &schema(), &mut |path, _| {
        let name = path.rsplit('.').next().unwrap();
        if name.contains(['_', '-']) || name.starts_with(char::is_uppercase) {
            odd.push(path.to_owned());
        }
    });
    assert_eq!(odd, [".spec.informer_config", ".status.configuration.informer_config"]);
}

#[test]
fn every_field_is_described_and_every_list_and_text_is_bounded() {
    let mut missing = Vec::new();
    walk("", &schema(), &mut |path, property| {
        if !is_ours(path) {
            return;
        }
        if property["description"].as_str().is_none_or(str::is_empty) {
            missing.push(format!("{path}: no description"));
        }
        if property["type"] == "array" && property["maxItems"].is_null() {
            missing.push(format!("{path}: no maxItems"));
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_definition_stays_below_what_a_server_takes() {
    let bytes = serde_json::to_string(&crd()).unwrap().len();
    assert!(bytes < 128 * 1024, "{bytes} bytes");
}

#[test]
fn nothing_has_a_schema_default() {
    // The API server writes a schema default into each object, where a later change of the default never reaches it.
    let mut defaults = Vec::new();
    walk("", &schema(), &mut |path, property| {
        if is_ours(path) && !property["default"].is_null() {
            defaults.push(path.to_owned());
        }
    });
    assert_eq!(defaults, Vec::<String>::new());
}

#[test]
fn people_find_it_under_the_names_they_type() {
    let crd = crd();
    assert_eq!(crd["metadata"]["name"], meshsync_crds::names::CRD_NAME);
    assert_eq!(crd["spec"]["group"], meshsync_crds::names::GROUP);
    assert_eq!(crd["spec"]["versions"][0]["name"], meshsync_crds::names::VERSION);
    assert_eq!(crd["spec"]["names"]["shortNames"], serde_json::json!(["ms"]));
    assert_eq!(crd["spec"]["names"]["categories"], serde_json::json!(["meshery"]));
    let columns: Vec<_> = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Ready", "Types", "Objects", "Broker", "Reason", "Age"]);
    assert!(crd["metadata"]["annotations"].is_null(), "an upgrade by kubectl apply would undo a person's edit");
}

#[test]
fn conditions_merge_by_type() {
    let conditions = &schema()["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
}

#[test]
fn the_name_limit_is_the_one_that_the_code_counts_on() {
    let rules = schema()["x-kubernetes-validations"].to_string();
    assert!(rules.contains(&format!("<= {}", meshsync_crds::names::MAX_MESHSYNC_NAME)), "{rules}");
}

/// The texts between `matches('` or `matches(r'` and the next quote.
fn patterns(rule: &str) -> Vec<Regex> {
    let after = rule.split("self.matches(").skip(1);
    after.map(|text| Regex::new(text.split('\'').nth(1).unwrap()).unwrap()).collect()
}

#[test]
fn a_brokers_url_with_a_port_that_is_none_is_refused_with_a_word_on_the_port() {
    let external = &schema()["properties"]["spec"]["properties"]["broker"]["properties"]["external"];
    let rules = external["properties"]["url"]["x-kubernetes-validations"].as_array().unwrap().clone();
    let [shape, port] = ["nats://host:port", "from 1 to 65535"].map(|said| {
        let found = rules.iter().find(|rule| rule["message"].as_str().unwrap().contains(said)).unwrap();
        patterns(found["rule"].as_str().unwrap())
    });
    let is_url = |url: &str| shape[0].is_match(url);
    // Not in the shape, or in the shape with a good port.
    let has_port = |url: &str| !port[0].is_match(url) || port[1].is_match(url);
    for port in ["", ":1", ":80", ":4222", ":9999", ":10000", ":59999", ":65535"] {
        for host in ["h", "broker.example.com", "10.0.0.1", "[fd00::1]"] {
            let url = format!("nats://{host}{port}");
            assert!(is_url(&url) && has_port(&url), "{url}");
        }
    }
    for port in [":", ":0", ":port", ":99999", ":65536", ":65600", ":66000", ":70000", ":123456", ":042", ":1:2", ":-1"]
    {
        for host in ["h", "[fd00::1]"] {
            let url = format!("tls://{host}{port}");
            assert!(is_url(&url) && !has_port(&url), "{url}");
        }
    }
    assert!(!has_port("nats://fd00::1"), "an IPv6 address without brackets");
    for url in ["http://h:4222", "nats://u:p@h:4222", "nats://h:4222/path"] {
        assert!(!is_url(url) && has_port(url), "{url}: one message, not two");
    }
}

#[test]
fn further_urls_of_a_broker_are_held_against_the_same_rules() {
    let external = &schema()["properties"]["spec"]["properties"]["broker"]["properties"]["external"];
    let rule =
        external["properties"]["additionalUrls"]["x-kubernetes-validations"][0]["rule"].as_str().unwrap().to_owned();
    let text = rule.split("matches(r'").nth(1).unwrap().split('\'').next().unwrap();
    let pattern = Regex::new(text).unwrap();
    for url in
        ["nats://h", "tls://broker.example.com:4222", "nats://10.0.0.1:65535", "nats://[fd00::1]:1", "nats://[fd00::1]"]
    {
        assert!(pattern.is_match(url), "{url}");
    }
    for url in [
        "h:4222",
        "http://h",
        "nats://u:p@h",
        "nats://h:0",
        "nats://h:65536",
        "nats://a,b",
        "nats://h/x",
        "nats://fd00::1",
    ] {
        assert!(!pattern.is_match(url), "{url}");
    }
}
