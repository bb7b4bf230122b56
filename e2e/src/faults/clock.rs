//! A wall clock that jumps for one process, whose monotonic clock continues, as on a machine whose time is set.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::packages::LIBFAKETIME;
use crate::process::Daemon;

/// See the module.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right at first; a file in `dir` holds its error.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        let clock = Self { file: dir.join("clock-offset") };
        clock.jump(0)?;
        Ok(clock)
    }

    /// Makes a process use this clock; see faketime(1).
    #[must_use]
    pub fn of(&self, daemon: Daemon) -> Daemon {
        daemon
            .env("LD_PRELOAD", LIBFAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// Sets the clock to this many seconds from the right time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        // In one step: it is read at any time.
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n"))
            .and_then(|()| std::fs::rename(&next, &self.file))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}
