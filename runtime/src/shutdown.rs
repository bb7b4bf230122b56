//! Stops a process: in order at the first signal, at once at the second.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Provides a token that is cancelled when the process must stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Creates a shutdown that only [`Shutdown::begin`] triggers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a shutdown that SIGTERM or SIGINT triggers. A second signal ends the process at once, with 128 plus the
    /// signal's number.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler.
    pub fn from_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            // Counted separately from the token: the first signal is still the first if the process already drains for
            // another reason.
            let mut asked = false;
            loop {
                let kind = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                if asked {
                    tracing::warn!("second signal: exiting at once");
                    std::process::exit(128 + kind.as_raw_value());
                }
                tracing::info!("signal received: shutting down; a second one exits at once");
                asked = true;
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when the shutdown begins.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Runs `work`, which must not end by itself, until the shutdown begins.
    ///
    /// # Errors
    /// If `work` ended before the shutdown began. Once it has begun, `work` may also end because its source ended
    /// first, which is no error.
    pub async fn interrupts(self, work: impl Future<Output = ()>) -> Result<(), String> {
        tokio::select! {
            biased;
            () = self.requested() => Ok(()),
            () = work => Err("ended without being asked to".to_owned()),
        }
    }

    /// The token, for code that takes one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the child process, which is this very test.
    const CHILD: &str = "MESHSYNC_TEST_SHUTDOWN_CHILD";

    async fn child() -> ! {
        let shutdown = Shutdown::from_signals().unwrap();
        println!("listening");
        shutdown.requested().await;
        println!("asked");
        std::io::stdout().flush().unwrap();
        std::future::pending().await
    }

    fn lines_until(output: &mut impl BufRead, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended before `{wanted}`");
        }
    }

    #[tokio::test]
    async fn work_that_ends_during_a_shutdown_is_no_error() {
        let shutdown = Shutdown::new();
        assert!(shutdown.clone().interrupts(async {}).await.is_err());
        shutdown.begin();
        // Often enough for a random choice to fail.
        for _ in 0..100 {
            assert_eq!(shutdown.clone().interrupts(async {}).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn first_signal_begins_the_shutdown_and_second_exits_at_once() {
        if std::env::var_os(CHILD).is_some() {
            child().await;
        }
        for (signal, code) in [("TERM", 143), ("INT", 130)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "shutdown::tests::first_signal_begins_the_shutdown_and_second_exits_at_once",
                    "--nocapture",
                ])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let send = || {
                let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
                assert!(sent.success());
            };
            lines_until(&mut output, "listening");
            send();
            lines_until(&mut output, "asked");
            send();
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }
}
