//! Names of the children of a MeshSync, made in one place.

use std::collections::BTreeMap;

use kube::ResourceExt;
use meshsync_crds::MeshSync;
use meshsync_crds::names::{LABEL_MESHSYNC_NAME, LABEL_MESHSYNC_NAMESPACE, LABEL_MESHSYNC_UID};

/// Identity of a MeshSync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace, which is that of its namespaced children.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Identity {
    /// The identity of `meshsync`.
    #[must_use]
    pub fn of(meshsync: &MeshSync) -> Self {
        Self {
            namespace: meshsync.namespace().unwrap_or_default(),
            name: meshsync.name_any(),
            uid: meshsync.uid().unwrap_or_default(),
        }
    }

    /// Name of the agent's objects.
    #[must_use]
    pub fn agent(&self) -> String {
        format!("{}-agent", self.name)
    }

    /// Name of the broker's objects.
    #[must_use]
    pub fn broker(&self) -> String {
        format!("{}-broker", self.name)
    }

    /// Name of the cluster-scoped objects. Colons keep the names of two MeshSyncs distinct if their own names contain
    /// dashes.
    #[must_use]
    pub fn cluster_scoped(&self) -> String {
        format!("meshsync:{}:{}", self.namespace, self.name)
    }

    /// Name of the agent's FlowSchema, which may not contain colons. The dots are unambiguous, because a namespace
    /// contains none.
    #[must_use]
    pub fn flow_schema(&self) -> String {
        format!("meshsync.{}.{}", self.namespace, self.name)
    }

    /// Labels of every child.
    #[must_use]
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/name", "meshsync"),
            ("app.kubernetes.io/component", component),
            ("app.kubernetes.io/instance", &self.name),
            ("app.kubernetes.io/managed-by", "meshsync-operator"),
            (LABEL_MESHSYNC_UID, &self.uid),
            (LABEL_MESHSYNC_NAME, &self.name),
            (LABEL_MESHSYNC_NAMESPACE, &self.namespace),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Labels that select the pods of a component. They never change, because selectors are immutable.
    #[must_use]
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        [("app.kubernetes.io/component", component), (LABEL_MESHSYNC_UID, &self.uid)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }
}
