//! Standard output.

use std::io::Write as _;

use anyhow::Result;

/// Writes one line to standard output.
pub(super) fn print(line: impl AsRef<str>) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", line.as_ref())?;
    Ok(())
}
