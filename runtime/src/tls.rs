//! The one TLS provider of the tree.

/// Makes ring the process-wide provider of rustls. To be called first in every `main`; calling it again is harmless.
///
/// ring, because it builds static musl images for amd64 and arm64 with a C compiler alone. `cargo deny` bans the other.
pub fn install_provider() {
    // An error means that a provider is installed already, which is what was asked for.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
