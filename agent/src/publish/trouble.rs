//! Why there is no connection to the broker, in words, for log and status.
//!
//! The client library tells of each failed attempt in two places: an event with the kind of the error, and, before the
//! next attempt, what each server answered last, in full. Only both together tell a refused connection from a
//! certificate that is not trusted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Shortest time between two lines about the same error.
const REPEAT_EVERY: Duration = Duration::from_secs(30);
/// Longest text of an error.
const MAX_TEXT: usize = 512;
/// Shorter credentials are in every text by accident.
const MIN_SECRET: usize = 4;

/// The last error, for those who follow it; and the one who tells it in the log.
pub(super) struct Trouble {
    /// URL without credentials.
    url: String,
    /// What must not be told, whatever a server answers.
    secrets: Vec<String>,
    last: watch::Sender<Option<String>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kind: Option<String>,
    logged: Option<(String, Instant)>,
}

impl Trouble {
    pub(super) fn new(url: String, secrets: Vec<String>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET).collect();
        Self { url, secrets, last: watch::Sender::default(), inner: Mutex::default() }
    }

    pub(super) fn follow(&self) -> watch::Receiver<Option<String>> {
        self.last.subscribe()
    }

    /// There is a connection.
    pub(super) fn is_over(&self) {
        *self.lock() = Inner::default();
        self.last.send_replace(None);
    }

    /// An attempt failed; `kind` is what the event says.
    pub(super) fn failed(&self, kind: &str) {
        self.lock().kind = Some(kind.to_owned());
    }

    /// The next attempt begins; `answers` are the last errors of the servers.
    pub(super) fn tries_again(&self, answers: &[Option<String>], now: Instant) {
        let Some(text) = self.lock().kind.as_deref().map(|kind| self.text(kind, answers)) else { return };
        if self.is_to_be_logged(&text, now) {
            tracing::warn!(url = self.url, error = text, "no connection to the broker; trying again");
        }
        self.last.send_if_modified(|last| {
            let changed = last.as_ref() != Some(&text);
            *last = Some(text);
            changed
        });
    }

    fn is_to_be_logged(&self, text: &str, now: Instant) -> bool {
        let mut inner = self.lock();
        let again = |(before, at): &(String, Instant)| before != text || now.duration_since(*at) >= REPEAT_EVERY;
        let due = inner.logged.as_ref().is_none_or(again);
        if due {
            inner.logged = Some((text.to_owned(), now));
        }
        due
    }

    /// A server's answer tells more than the kind that it begins with. One of another kind is of an older attempt.
    fn text(&self, kind: &str, answers: &[Option<String>]) -> String {
        let answer = answers.iter().flatten().find(|answer| answer.starts_with(kind));
        let mut text = match (answer, kind) {
            (Some(answer), _) => answer.clone(),
            (None, DNS) => format!("{DNS}: the host's name cannot be resolved"),
            (None, _) => kind.to_owned(),
        };
        for secret in &self.secrets {
            text = text.replace(secret, "…");
        }
        text.chars().take(MAX_TEXT).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of error of which no server's answer is kept.
const DNS: &str = "DNS error";

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> Trouble {
        Trouble::new("nats://h:4222".into(), vec!["s3cret".into(), "e".into()])
    }

    fn answer(text: &str) -> [Option<String>; 2] {
        [None, Some(text.to_owned())]
    }

    #[test]
    fn the_last_error_is_told_in_full_until_there_is_a_connection() {
        let (trouble, now) = (trouble(), Instant::now());
        let last = trouble.follow();
        trouble.tries_again(&answer("IO error: refused"), now);
        assert_eq!(*last.borrow(), None, "no attempt has failed yet");
        for (kind, answered, told) in [
            ("IO error", "IO error: Connection refused", "IO error: Connection refused"),
            ("IO error", "IO error: invalid peer certificate", "IO error: invalid peer certificate"),
            ("DNS error", "IO error: invalid peer certificate", "DNS error: the host's name cannot be resolved"),
            ("authorization violation", "authorization violation: nats: it", "authorization violation: nats: it"),
            ("timed out", "IO error: older", "timed out"),
        ] {
            trouble.failed(kind);
            trouble.tries_again(&answer(answered), now);
            assert_eq!(last.borrow().as_deref(), Some(told));
        }
        trouble.is_over();
        assert_eq!(*last.borrow(), None);
        trouble.tries_again(&answer("IO error: older"), now);
        assert_eq!(*last.borrow(), None, "nothing failed since");
    }

    #[test]
    fn an_error_is_logged_when_it_changes_and_every_half_minute() {
        let (trouble, begin) = (trouble(), Instant::now());
        let logged = |text: &str, second| trouble.is_to_be_logged(text, begin + Duration::from_secs(second));
        let told = [logged("a", 0), logged("a", 4), logged("a", 29), logged("a", 30), logged("b", 31), logged("b", 60)];
        assert_eq!(told, [true, false, false, true, true, false]);
        trouble.is_over();
        assert!(logged("b", 61), "after a connection it is news again");
    }

    #[test]
    fn a_credential_that_a_server_repeats_is_not() {
        let text = trouble().text("IO error", &answer("IO error: bad s3cret here"));
        assert_eq!(text, "IO error: bad … here");
    }
}
