//! Invalid entries that real and hostile servers send, such as those of kubernetes#116603 and #119840: all other
//! entries stay valid.

use super::*;

fn left_out(found: &Discovered) -> Vec<String> {
    found.left_out.iter().map(ToString::to_string).collect()
}

async fn aggregated_with(groups: Value) -> Discovered {
    let groups = aggregated(groups);
    let answer = |path: &str, _: &str| (200, if path == "/api" { core() } else { groups.clone() });
    discover_with(answer).await.0.unwrap()
}

fn version(resources: Value) -> Value {
    json!([{"version": "v1", "freshness": "Current", "resources": resources}])
}

#[tokio::test]
async fn null_in_discovery_leaves_out_and_names_only_its_entry() {
    let fine = resource("deployments", "Deployment", "Namespaced");
    let with = |member: &str, value: Value| {
        let mut entry = resource("things", "Thing", "Namespaced");
        entry[member] = value;
        entry
    };
    for (broken, word) in [
        (with("verbs", Value::Null), "verbs are null"),
        (with("verbs", json!("list")), "verbs are not a list"),
        (with("resource", Value::Null), "is empty"),
        (with("resource", json!(7)), "not text"),
        (with("scope", json!({})), "scope is not text"),
        (with("responseKind", json!("Thing")), "not an object"),
        (with("responseKind", json!({"kind": 7})), "kind is not text"),
        (Value::Null, "not an object"),
        (json!([1]), "not an object"),
        (json!("deployments"), "not an object"),
    ] {
        let found =
            aggregated_with(json!([{"metadata": {"name": "apps"}, "versions": version(json!([broken, fine]))}]));
        let found = found.await;
        assert!(names(&found).contains(&"deployments.apps@v1*".to_owned()), "{broken}: {:?}", names(&found));
        let left_out = left_out(&found);
        assert!(left_out.len() == 1 && left_out[0].contains(word), "{broken}: {left_out:?}");
        assert!(left_out[0].contains(".apps/v1"), "{left_out:?}");
        assert!(!found.types.iter().any(|t| t.plural == "things" && t.is_watchable()), "{broken}");
    }
}

#[tokio::test]
async fn null_short_names_categories_and_singular_read_as_empty() {
    let mut entry = resource("things", "Thing", "Namespaced");
    for (member, value) in [
        ("shortNames", Value::Null),
        ("categories", json!([null, "all", 7])),
        ("singularResource", Value::Null),
        ("subresources", Value::Null),
        ("verbs", json!(["list", null, "watch"])),
    ] {
        entry[member] = value;
    }
    let found = aggregated_with(json!([{"metadata": {"name": "apps"}, "versions": version(json!([entry]))}])).await;
    let thing = found.types.last().unwrap();
    assert!(thing.is_watchable() && thing.short_names.is_empty() && thing.singular.is_empty(), "{thing:?}");
    assert_eq!((&thing.categories, left_out(&found).len()), (&vec!["all".to_owned()], 0));
}

#[tokio::test]
async fn broken_group_or_version_does_not_affect_others() {
    let fine = || version(json!([resource("deployments", "Deployment", "Namespaced")]));
    for (broken, word) in [
        (Value::Null, "not an object"),
        (json!({"metadata": null, "versions": fine()}), "is empty"),
        (json!({"metadata": {"name": "../v1/secrets"}, "versions": fine()}), "not a name"),
        (json!({"metadata": {"name": "a\u{1b}[2J"}, "versions": fine()}), "not a name"),
        (json!({"metadata": {"name": "x".repeat(1 << 20)}, "versions": fine()}), "longer than"),
        (json!({"metadata": {"name": "bad.io"}, "versions": {}}), "versions are not a list"),
        (json!({"metadata": {"name": "bad.io"}, "versions": [null]}), "not an object"),
        (json!({"metadata": {"name": "bad.io"}, "versions": [{"resources": []}]}), "version is empty"),
        (json!({"metadata": {"name": "bad.io"}, "versions": [{"version": "v1/..", "resources": []}]}), "not a name"),
        (json!({"metadata": {"name": "bad.io"}, "versions": [{"version": "v1", "resources": 7}]}), "not a list"),
    ] {
        let apps = json!({"metadata": {"name": "apps"}, "versions": fine()});
        let found = aggregated_with(json!([broken, apps, {"metadata": {"name": "none.io"}, "versions": null}])).await;
        assert_eq!(names(&found).last().unwrap(), "deployments.apps@v1*");
        assert_eq!(found.types.len(), 3, "{:?}", names(&found));
        let left_out = left_out(&found);
        assert!(left_out.len() == 1 && left_out[0].contains(word), "{left_out:?}");
        assert!(left_out[0].len() < 500 && !left_out[0].contains('\u{1b}'), "{left_out:?}");
    }
}

#[tokio::test]
async fn unsafe_names_and_repeated_types_are_left_out() {
    let entries: Vec<Value> = ["", "..", ".", "a/b", "a?x", "a b", "a\nb", "a%2fb", "pods#"]
        .into_iter()
        .map(|plural| {
            let mut entry = resource("things", "Thing", "Cluster");
            entry["resource"] = json!(plural);
            entry
        })
        .chain(["First", "Second"].map(|kind| resource("twice", kind, "Cluster")))
        .collect();
    let found = aggregated_with(json!([{"metadata": {"name": "apps"}, "versions": version(json!(entries))}])).await;
    assert_eq!(found.types.iter().filter(|t| t.group == "apps").count(), 1, "{:?}", names(&found));
    assert_eq!(found.types.last().unwrap().kind, "First");
    assert_eq!(found.left_out.len(), 10);
    assert!(left_out(&found).last().unwrap().contains("listed twice"), "{:?}", left_out(&found));
}

#[tokio::test]
async fn only_a_few_of_many_unusable_entries_are_named() {
    let entries = (0..1_000).map(|n| json!({"resource": format!("t{n}"), "verbs": null}));
    let entries: Vec<Value> = entries.chain([resource("deployments", "Deployment", "Namespaced")]).collect();
    let found = aggregated_with(json!([{"metadata": {"name": "apps"}, "versions": version(json!(entries))}])).await;
    assert_eq!((found.left_out.len(), found.left_out_more), (NAMED, 1_000 - NAMED));
    assert_eq!(found.left_out[0].resource, "t0");
}

#[tokio::test]
async fn null_in_older_discovery_leaves_out_only_its_entry() {
    let fine = json!({"name": "deployments", "kind": "Deployment", "namespaced": true, "verbs": ["list", "watch"]});
    let (found, _) = discover_with(|path, _| match path {
        "/api" => (200, json!({"kind": "APIVersions", "versions": ["v1", null, "../.."]})),
        "/apis" => (
            200,
            json!({"kind": "APIGroupList", "groups": [
                null,
                {"name": "none.io", "versions": null},
                {"name": "apps", "versions": [null, {"version": "v1"}, {"version": "v1"}], "preferredVersion": null},
                {"name": "other.io", "versions": [{"version": "v1"}]},
            ]}),
        ),
        "/api/v1" => (
            200,
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["list", "watch"], "shortNames": null},
            ]}),
        ),
        "/apis/apps/v1" => (
            200,
            json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [
                {"name": "things", "kind": "Thing", "namespaced": true, "verbs": null},
                {"name": "pods/http_requests", "kind": "MetricValueList", "namespaced": true, "verbs": ["get"]},
                {"name": "../secrets", "kind": "Thing", "namespaced": true, "verbs": ["list", "watch"]},
                {"name": "odds", "kind": "Odd", "namespaced": "yes", "verbs": ["list", "watch"]},
                null, fine,
            ]}),
        ),
        _ => (200, json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [fine]})),
    })
    .await;
    let found = found.unwrap();
    assert_eq!(names(&found), ["pods@v1*", "things.apps@v1*", "deployments.apps@v1*"]);
    assert!(!found.types[1].is_watchable() && found.types[2].is_watchable());
    assert_eq!((found.failed.len(), found.failed[0].group.as_str()), (1, "other.io"), "an answer about another group");
    assert_eq!(found.left_out.len(), 3 + 1 + 3 + 1, "{:?}", left_out(&found));
}

#[test]
fn known_type_of_an_unusable_entry_is_kept() {
    let watchable = ServedType { verbs: vec!["list".into(), "watch".into()], ..t("a.io", "things") };
    let before = Discovered { types: vec![watchable.clone(), t("b.io", "others")], ..Discovered::default() };
    let left_out = |group: &str, resource: &str| LeftOut {
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        reason: "null".into(),
    };
    let left_out = vec![left_out("a.io", "things"), left_out("b.io", "others")];
    let now = Discovered { types: vec![t("a.io", "things")], left_out, ..Discovered::default() }.keeping(&before);
    assert_eq!(now.types, [watchable, t("b.io", "others")]);
}
