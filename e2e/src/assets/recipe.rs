//! How a tool is built.

/// How to build a [`Tool`](super::Tool).
#[derive(Debug)]
pub(super) struct Recipe {
    /// File name of the binary.
    pub(super) binary: &'static str,
    /// Directory under `e2e/tools` with the `go.mod` that pins it.
    pub(super) module: &'static str,
    /// Import path of the `main` package.
    pub(super) package: &'static str,
    /// Module whose required version is the binary's version; `None` for our own programs.
    pub(super) pinned_by: Option<&'static str>,
}
