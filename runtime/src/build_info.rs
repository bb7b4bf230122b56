//! Identifies the running build in `--version`, in the first log line, in metrics and in status.

/// Facts about a binary, fixed at build time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Name of the binary, e.g. `meshsync-agent`. Also the first half of the User-Agent.
    pub name: &'static str,
    /// Version of the release.
    pub version: &'static str,
    /// Source revision, if the environment variable `MESHSYNC_REVISION` was set during the build.
    pub revision: Option<&'static str>,
}

impl BuildInfo {
    /// Facts about the binary `name`; all binaries of the workspace share one version.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, version: env!("CARGO_PKG_VERSION"), revision: option_env!("MESHSYNC_REVISION") }
    }

    /// What API servers see, e.g. `meshsync-agent/0.1.0`.
    #[must_use]
    pub fn user_agent(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }

    /// Writes the first log line of the process.
    pub fn log(&self) {
        let revision = self.revision.unwrap_or("unknown");
        tracing::info!(
            version = self.version,
            revision,
            arch = std::env::consts::ARCH,
            debug = cfg!(debug_assertions),
            "{} starts",
            self.name
        );
    }
}
