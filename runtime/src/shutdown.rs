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
            // Counted apart from the token: a process that already drains for another reason gets its first signal as a
            // first one.
            let mut asked = false;
            loop {
                let kind = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                if asked {
                    tracing::warn!("second signal: exit at once");
                    std::process::exit(128 + kind.as_raw_value());
                }
                tracing::info!("signal received: shutting down; a second one exits at once");
                asked = true;
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

    /// Does `work`, which is never to end by itself, until it is asked to.
    ///
    /// # Errors
    /// When `work` ended although nobody asked. Once somebody has, work may end as well, because what it listened to went
    /// away first: that is no error.
    pub async fn interrupts(self, work: impl Future<Output = ()>) -> Result<(), String> {
        tokio::select! {
            biased;
            () = self.requested() => Ok(()),
            () = work => Err("ended unasked".to_owned()),
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
    async fn work_that_ends_because_of_a_shutdown_did_not_end_unasked() {
        let shutdown = Shutdown::new();
        assert!(shutdown.clone().interrupts(async {}).await.is_err());
        shutdown.begin();
        // As often as it takes for a choice by chance to fail.
        for _ in 0..100 {
            assert_eq!(shutdown.clone().interrupts(async {}).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends_at_once() {
        if std::env::var_os(CHILD).is_some() {
            child().await;
        }
        for (signal, code) in [("TERM", 143), ("INT", 130)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "shutdown::tests::the_first_signal_asks_and_the_second_ends_at_once", "--nocapture"])
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
