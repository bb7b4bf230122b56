//! How a process ends: an exit code, a line on stderr, and a line for the kubelet.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success, or an orderly stop by a signal or timer |
//! | 1 | an error, written to stderr and to the termination message |
//! | 2 | the arguments are wrong (clap's own code) |
//! | 130, 143 | stopped at once by a second signal |

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::client::chain;

/// Where the kubelet reads why a container ended (`terminationMessagePath`, its default).
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The kubelet keeps the last 4,096 bytes.
const TERMINATION_LOG_MAX: usize = 4096;

/// Turns the outcome of `main` into an exit code, and an error into one line on stderr and in the termination log.
///
/// Takes every error type of this workspace, `anyhow::Error`, and plain text.
pub fn report(outcome: Result<(), impl Into<Box<dyn Error + Send + Sync>>>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let line = one_line(error.into().as_ref());
    let _ = writeln!(std::io::stderr().lock(), "error: {line}");
    termination_log(Path::new(TERMINATION_LOG), &line);
    ExitCode::FAILURE
}

/// An error and its causes in one line. `anyhow`'s `{:#}` would repeat a cause that a message already quotes.
fn one_line(error: &(dyn Error + 'static)) -> String {
    chain(error).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Writes a line to `path` if the file exists; only the kubelet creates it.
pub fn termination_log(path: &Path, line: &str) {
    if !path.exists() {
        return;
    }
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= TERMINATION_LOG_MAX).last();
    let line = line.get(..end.unwrap_or(0)).unwrap_or_default();
    if let Err(error) = std::fs::write(path, line) {
        tracing::debug!("cannot write {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot listen on 127.0.0.1:1: {source}; choose another address")]
        Quotes { source: std::io::Error },
        #[error("the agent stops")]
        Wraps {
            #[source]
            cause: Box<Failure>,
        },
    }

    #[test]
    fn error_shows_each_cause_once_on_one_line() {
        let cause = Box::new(Failure::Quotes { source: std::io::Error::other("address\n  in use") });
        let line = one_line(&Failure::Wraps { cause });
        assert_eq!(line, "the agent stops: cannot listen on 127.0.0.1:1: address in use; choose another address");
    }

    #[test]
    fn termination_message_is_cut_between_characters_and_creates_no_file() {
        let dir = std::env::temp_dir().join(format!("meshsync-exit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("termination-log");
        termination_log(&path, "unheard");
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        termination_log(&path, &"ö".repeat(3000));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ö".repeat(2048));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
