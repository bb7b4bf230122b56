//! Names in the broker: one stream for each cluster, one subject for each object.
//!
//! `meshsync.state.<cluster>.<group>.<resource>.<namespace>.<name>`, each token escaped so that it is one token whatever
//! it spells. A subject is a key: the newest message under it is the state of that object.

use std::borrow::Cow;
use std::fmt::Write as _;

use meshsync_crds::discovery::ServedType;

use crate::object::ObjectName;

/// The states of all clusters.
pub const ALL_STATES: &str = "meshsync.state.>";
/// Token of the core group, whose own name is empty. No other group can be called so: theirs have a dot, or come with
/// Kubernetes.
const CORE_GROUP: &str = "core";
/// Token in place of the namespace of a cluster-scoped object. No namespace can be called so.
const NO_NAMESPACE: &str = "_";

/// A type as its subjects name it. The version is missing: an object is the same one in each version that is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeKey {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural resource name.
    pub plural: String,
}

impl From<&ServedType> for TypeKey {
    fn from(served: &ServedType) -> Self {
        Self { group: served.group.clone(), plural: served.plural.clone() }
    }
}

/// `deployments.apps`, `pods`.
impl std::fmt::Display for TypeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.group.as_str() {
            "" => f.write_str(&self.plural),
            group => write!(f, "{}.{group}", self.plural),
        }
    }
}

/// The subjects of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    cluster: String,
}

impl Subjects {
    /// The subjects of the cluster with this id (the UID of its namespace `kube-system`).
    #[must_use]
    pub fn new(cluster_id: &str) -> Self {
        Self { cluster: escape(cluster_id).into_owned() }
    }

    /// Name of the stream.
    #[must_use]
    pub fn stream_name(&self) -> String {
        format!("meshsync-{}", self.cluster)
    }

    /// Everything that the stream takes in.
    #[must_use]
    pub fn captured(&self) -> [String; 2] {
        [self.all_objects(), self.all_checkpoints()]
    }

    /// All objects.
    #[must_use]
    pub fn all_objects(&self) -> String {
        format!("meshsync.state.{}.>", self.cluster)
    }

    /// All objects of a type.
    #[must_use]
    pub fn objects_of(&self, key: &TypeKey) -> String {
        format!("{}.>", self.type_prefix(key))
    }

    /// One object.
    #[must_use]
    pub fn object(&self, key: &TypeKey, name: &ObjectName) -> String {
        let mut subject = self.type_prefix(key);
        subject.push('.');
        push_name(name, &mut subject);
        subject
    }

    /// What stands before an object's own two tokens and the dot in front of them.
    #[must_use]
    pub fn type_prefix(&self, key: &TypeKey) -> String {
        format!("meshsync.state.{}.{}.{}", self.cluster, group_token(&key.group), escape(&key.plural))
    }

    /// How far the watch of a type has been stored.
    #[must_use]
    pub fn checkpoint(&self, key: &TypeKey) -> String {
        format!("meshsync.checkpoint.{}.{}.{}", self.cluster, group_token(&key.group), escape(&key.plural))
    }

    /// Up to which message core subscribers were told.
    #[must_use]
    pub fn told_mark(&self) -> String {
        format!("meshsync.checkpoint.{}.told", self.cluster)
    }

    /// Listened to by the connection over which the cluster is published; nothing is said there. Below `_INBOX`, which every
    /// user of a broker has to be allowed, and which no stream takes in.
    #[must_use]
    pub fn publisher(&self) -> String {
        format!("_INBOX.meshsync-agent.{}", self.cluster)
    }

    /// All checkpoints, and the mark.
    #[must_use]
    pub fn all_checkpoints(&self) -> String {
        format!("meshsync.checkpoint.{}.>", self.cluster)
    }

    /// The object that a subject of this cluster is about; `None` for any other subject.
    #[must_use]
    pub fn parse_object(&self, subject: &str) -> Option<(TypeKey, ObjectName)> {
        let rest = subject.strip_prefix("meshsync.state.")?.strip_prefix(&self.cluster)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        let key = parse_type(&mut tokens)?;
        let (namespace, name) = (tokens.next()?, tokens.next()?);
        if tokens.next().is_some() {
            return None;
        }
        let namespace = if namespace == NO_NAMESPACE { None } else { Some(unescape(namespace)?) };
        Some((key, ObjectName::new(namespace.as_deref(), &unescape(name)?)))
    }

    /// The type that a checkpoint's subject names; `None` for any other subject.
    #[must_use]
    pub fn parse_checkpoint(&self, subject: &str) -> Option<TypeKey> {
        let rest = subject.strip_prefix("meshsync.checkpoint.")?.strip_prefix(&self.cluster)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        let key = parse_type(&mut tokens)?;
        tokens.next().is_none().then_some(key)
    }
}

/// The type that the subject of an object names, whichever cluster it is of; `None` for any other subject.
#[must_use]
pub fn type_of(subject: &str) -> Option<TypeKey> {
    let (_cluster, rest) = subject.strip_prefix("meshsync.state.")?.split_once('.')?;
    parse_type(&mut rest.split('.'))
}

/// Appends the two tokens of an object's name.
pub fn push_name(name: &ObjectName, subject: &mut String) {
    match name.namespace() {
        Some(namespace) => subject.push_str(&escape(namespace)),
        None => subject.push_str(NO_NAMESPACE),
    }
    subject.push('.');
    subject.push_str(&escape(name.name()));
}

fn parse_type<'a>(tokens: &mut impl Iterator<Item = &'a str>) -> Option<TypeKey> {
    let group = match tokens.next()? {
        CORE_GROUP => String::new(),
        token => unescape(token)?.into_owned(),
    };
    let plural = unescape(tokens.next()?)?.into_owned();
    Some(TypeKey { group, plural })
}

fn group_token(group: &str) -> Cow<'_, str> {
    if group.is_empty() { CORE_GROUP.into() } else { escape(group) }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':')
}

/// One token that spells `text`: everything but letters, digits, `-`, `_` and `:` becomes `%XX`, byte by byte. An empty
/// text becomes a lone `%`, since no token may be empty; a namespace called `_` keeps apart from the lack of one.
fn escape(text: &str) -> Cow<'_, str> {
    if text.is_empty() {
        return "%".into();
    }
    if text == NO_NAMESPACE {
        return "%5F".into();
    }
    if text.bytes().all(is_plain) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out.into()
}

/// What [`escape`] was given; `None` for what it never writes.
fn unescape(token: &str) -> Option<Cow<'_, str>> {
    if token == "%" {
        return Some("".into());
    }
    if !token.contains('%') {
        return Some(token.into());
    }
    let mut out = Vec::with_capacity(token.len());
    let mut parts = token.split('%');
    out.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(group: &str, plural: &str) -> TypeKey {
        TypeKey { group: group.into(), plural: plural.into() }
    }

    #[test]
    fn subjects_read_as_documented() {
        let subjects = Subjects::new("1b4e-28ba");
        assert_eq!(subjects.stream_name(), "meshsync-1b4e-28ba");
        let pod = subjects.object(&key("", "pods"), &ObjectName::new(Some("shop"), "web-1"));
        assert_eq!(pod, "meshsync.state.1b4e-28ba.core.pods.shop.web-1");
        let role = ObjectName::new(None, "system:node.proxy");
        assert_eq!(
            subjects.object(&key("rbac.authorization.k8s.io", "clusterroles"), &role),
            "meshsync.state.1b4e-28ba.rbac%2Eauthorization%2Ek8s%2Eio.clusterroles._.system:node%2Eproxy"
        );
        assert_eq!(subjects.checkpoint(&key("", "pods")), "meshsync.checkpoint.1b4e-28ba.core.pods");
        assert_eq!(subjects.objects_of(&key("", "pods")), "meshsync.state.1b4e-28ba.core.pods.>");
    }

    #[test]
    fn a_subject_tells_the_type_whichever_cluster_it_is_of() {
        let object =
            |cluster: &str, key: &TypeKey| Subjects::new(cluster).object(key, &ObjectName::new(Some("shop"), "web.1"));
        for (cluster, key) in [("1b4e-28ba", key("", "pods")), ("c.2", key("rbac.authorization.k8s.io", "roles"))] {
            assert_eq!(type_of(&object(cluster, &key)), Some(key));
        }
        for subject in ["meshery.meshsync.core", "meshsync.state.c1", "meshsync.checkpoint.c1.core.pods"] {
            assert_eq!(type_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn what_is_no_subject_of_the_cluster_is_none() {
        let subjects = Subjects::new("c1");
        for subject in [
            "meshsync.state.c2.core.pods.a.b",
            "meshsync.state.c1.core.pods.a",
            "meshsync.state.c1.core.pods.a.b.c",
            "meshsync.state.c1.core.pods.a.%4",
            "meshsync.state.c1.core.pods.a.%ZZ",
            "meshsync.state.c1.core.pods.a.%FF",
            "meshsync.checkpoint.c1.core.pods",
            "",
        ] {
            assert_eq!(subjects.parse_object(subject), None, "{subject}");
        }
        assert_eq!(subjects.parse_checkpoint("meshsync.checkpoint.c1.core.pods"), Some(key("", "pods")));
        assert_eq!(subjects.parse_checkpoint("meshsync.checkpoint.c1.core.pods.x"), None);
    }

    proptest! {
        #[test]
        fn any_name_makes_one_subject_and_comes_back(
            group in "[a-z.]{0,12}",
            plural in ".{1,12}",
            namespace in prop::option::of(".{1,12}"),
            name in ".{1,40}",
        ) {
            prop_assume!(group != "core");
            let subjects = Subjects::new("c1");
            let key = key(&group, &plural);
            let name = ObjectName::new(namespace.as_deref(), &name);
            let subject = subjects.object(&key, &name);
            prop_assert_eq!(subject.split('.').count(), 7);
            prop_assert!(subject.split('.').all(|token| !token.is_empty()));
            prop_assert!(!subject.contains(['*', '>', ' ', '\t', '\r', '\n']));
            prop_assert_eq!(subjects.parse_object(&subject), Some((key, name)));
        }
    }
}
