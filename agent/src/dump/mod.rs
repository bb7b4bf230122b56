//! The snapshot as a file.

mod new_file;

pub use new_file::NewFile;

use std::io::{self, Write};
use std::path::Path;

use crate::snapshot::Store;

/// Writes every object as one line of JSON; gives their number.
///
/// # Errors
/// What the operating system says.
pub fn write_ndjson(store: &Store, out: &mut impl Write) -> io::Result<usize> {
    let mut count = 0;
    for (_, _, table) in store.tables() {
        for object in table.scan() {
            let Some(body) = object.body else { continue };
            out.write_all(&body)?;
            out.write_all(b"\n")?;
            count += 1;
        }
    }
    out.flush()?;
    Ok(count)
}

/// Writes every object as one YAML document; gives their number.
///
/// One that is nested too deeply for that (an API server takes 10,000 levels, a parser that recurses some hundred), or holds
/// what no number or text of a parser can be, is written as it is: JSON is YAML, too.
///
/// # Errors
/// What the operating system says.
pub fn write_yaml(store: &Store, out: &mut impl Write) -> io::Result<usize> {
    let mut count = 0;
    for (_, _, table) in store.tables() {
        for object in table.scan() {
            let Some(body) = object.body else { continue };
            out.write_all(b"---\n")?;
            match yaml(&body) {
                Some(text) => out.write_all(text.as_bytes())?,
                None => {
                    out.write_all(&body)?;
                    out.write_all(b"\n")?;
                }
            }
            count += 1;
        }
    }
    out.flush()?;
    Ok(count)
}

fn yaml(body: &[u8]) -> Option<String> {
    let tree: serde_json::Value = serde_json::from_slice(body).ok()?;
    serde_saphyr::to_string(&tree).ok()
}

/// Writes the file at `path` anew, as YAML; `is_private` if nobody else may read it.
///
/// # Errors
/// What the operating system says; the old file is there then, if there was one.
pub fn write_yaml_file(store: &Store, path: &Path, is_private: bool) -> io::Result<usize> {
    let mut file = NewFile::create(path, is_private)?;
    let count = write_yaml(store, &mut file)?;
    file.finish()?;
    Ok(count)
}

#[cfg(test)]
mod tests;
