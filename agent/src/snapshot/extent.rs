//! Which objects of a type a list is about.

use std::collections::BTreeSet;

use meshsync_crds::informer_config::NamespaceSelection;

use crate::object::ObjectName;

/// Which objects of a type a list has shown, if they exist: whatever else is held is not gone because it was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All.
    All,
    /// Those in some of the namespaces that are wanted, and those that are not wanted: of these, nobody is to be told.
    Namespaces {
        /// Namespaces that were read.
        read: BTreeSet<String>,
        /// Namespaces that are wanted.
        wanted: NamespaceSelection,
    },
}

impl Extent {
    /// What is in `namespace`, and what is not `wanted`.
    #[must_use]
    pub fn namespace(namespace: &str, wanted: &NamespaceSelection) -> Self {
        Self::Namespaces { read: BTreeSet::from([namespace.to_owned()]), wanted: wanted.clone() }
    }

    /// What is not `wanted`.
    #[must_use]
    pub fn unwanted(wanted: &NamespaceSelection) -> Self {
        Self::Namespaces { read: BTreeSet::new(), wanted: wanted.clone() }
    }

    /// Whether an object of this name would have been seen.
    pub(super) fn covers(&self, name: &ObjectName) -> bool {
        match (self, name.namespace()) {
            (Self::All, _) | (_, None) => true,
            (Self::Namespaces { read, wanted }, Some(namespace)) => {
                !wanted.allows(namespace) || read.contains(namespace)
            }
        }
    }

    /// What is covered once `later` was listed, too: namespaces add up for as long as the same ones are wanted.
    pub(super) fn and_then(self, later: &Self) -> Self {
        match (self, later) {
            (Self::Namespaces { mut read, wanted }, Self::Namespaces { read: also_read, wanted: still_wanted })
                if wanted == *still_wanted =>
            {
                read.extend(also_read.iter().cloned());
                Self::Namespaces { read, wanted }
            }
            (_, later) => later.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_were_read_add_up_until_others_are_wanted() {
        let wanted = NamespaceSelection { include: vec![], exclude: vec!["hidden".into()] };
        let both = Extent::namespace("a", &wanted).and_then(&Extent::namespace("b", &wanted));
        let covers = |extent: &Extent| -> Vec<bool> {
            let name = |namespace| ObjectName::new(namespace, "x");
            [Some("a"), Some("b"), Some("c"), Some("hidden"), None].map(|n| extent.covers(&name(n))).to_vec()
        };
        assert_eq!(covers(&both), [true, true, false, true, true]);
        assert_eq!(covers(&Extent::unwanted(&wanted)), [false, false, false, true, true]);
        let other = NamespaceSelection { include: vec!["b".into(), "c".into()], exclude: vec![] };
        let fewer = both.clone().and_then(&Extent::namespace("b", &other));
        assert_eq!(covers(&fewer), [true, true, false, true, true], "a and hidden are not wanted any more");
        assert_eq!(both.and_then(&Extent::All), Extent::All);
        assert_eq!(Extent::All.and_then(&fewer), fewer, "what may not be read any more is not known any more");
    }
}
