//! The same comparison for clusters whose trees do not fit into memory: it hashes the compared fields of each object.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use super::{Differences, ObjectKey, from_cluster, from_meshery};

/// Objects, each with a hash of its compared fields. Hashes are comparable only within one process.
pub type Fingerprints = BTreeMap<ObjectKey, u64>;

/// Fingerprint of an object of the Kubernetes API.
#[must_use]
pub fn of_cluster(object: &Value) -> (ObjectKey, u64) {
    (ObjectKey::of(object), hash(&from_cluster(object)))
}

/// Fingerprint of a resource object of the Meshery format.
#[must_use]
pub fn of_meshery(object: &Value) -> (ObjectKey, u64) {
    (ObjectKey::of(object), hash(&from_meshery(object)))
}

/// As [`super::compare`], without the fields in which objects differ.
#[must_use]
pub fn compare(cluster: &Fingerprints, mut view: Fingerprints) -> Differences {
    let mut differences = Differences::default();
    for (key, expected) in cluster {
        match view.remove(key) {
            None => differences.missing.push(key.clone()),
            Some(found) if found == *expected => {}
            Some(_) => differences.different.push((key.clone(), "in content".to_owned())),
        }
    }
    differences.extra = view.into_keys().collect();
    differences
}

/// The text of a tree is the same for equal trees: its maps are sorted.
fn hash(tree: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fingerprints_find_the_differences_that_trees_show() {
        let pod = |name: &str, node: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": "7"}, "spec": {"nodeName": node}});
        let told = |name: &str, node: &str| {
            let spec = json!({"nodeName": node}).to_string();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": "8"}, "spec": {"attribute": spec}})
        };
        let cluster: Fingerprints =
            [pod("same", "a"), pod("other", "a"), pod("missing", "a")].iter().map(of_cluster).collect();
        let view = [told("same", "a"), told("other", "b"), told("extra", "a")].iter().map(of_meshery).collect();
        let differences = compare(&cluster, view);
        let names = |keys: &[ObjectKey]| keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&differences.missing), ["missing"]);
        assert_eq!(names(&differences.extra), ["extra"]);
        assert_eq!(differences.different.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>(), ["other"]);
    }
}
