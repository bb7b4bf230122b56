//! Names of modules.

use std::fmt;

/// The path of a module from the root of its crate; the root's own path is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModulePath(pub Vec<String>);

impl ModulePath {
    /// The path of a child with this name.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(name.to_owned());
        Self(segments)
    }

    /// The path of the enclosing module, `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, parent) = self.0.split_last()?;
        Some(Self(parent.to_vec()))
    }

    /// The first `depth` segments.
    #[must_use]
    pub fn ancestor(&self, depth: usize) -> Self {
        Self(self.0.iter().take(depth).cloned().collect())
    }

    /// Whether this is `other` or a module inside it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl From<&str> for ModulePath {
    /// Reads `a::b`; the empty text is the root.
    fn from(text: &str) -> Self {
        Self(text.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect())
    }
}

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("crate") } else { f.write_str(&self.0.join("::")) }
    }
}
