//! Progress on a terminal.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar over a number of types if standard error is a terminal, otherwise a hidden one.
pub(super) fn progress(types: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(types as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} types, {elapsed}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
