//! How a process is asked to stop: the first signal politely, the second at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Hands out one token that is cancelled when the process is to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nothing but [`Shutdown::begin`] sets off.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Set off by SIGTERM or SIGINT. A second signal ends the process at once, with 128 plus the signal's number.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler.
    pub fn from_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            loop {
                let kind = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                if token.is_cancelled() {
                    tracing::warn!("second signal: exit at once");
                    std::process::exit(128 + kind.as_raw_value());
                }
                tracing::info!("signal received: shutting down; a second one exits at once");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Asks the process to stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it was asked to.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when it is asked to.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The token, for code that takes one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}
