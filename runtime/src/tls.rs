//! The only TLS provider of the workspace.

/// Makes ring the process-wide provider of rustls. Every `main` calls this first; calling it again is harmless.
///
/// ring builds for static musl images of amd64 and arm64 with only a C compiler. `cargo deny` bans the other provider.
pub fn install_provider() {
    // An error means that a provider is already installed, which is the goal.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
