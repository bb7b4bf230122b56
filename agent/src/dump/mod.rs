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
/// # Errors
/// What the operating system says.
pub fn write_yaml(store: &Store, out: &mut impl Write) -> io::Result<usize> {
    let mut count = 0;
    for (_, _, table) in store.tables() {
        for object in table.scan() {
            let Some(body) = object.body else { continue };
            let tree: serde_json::Value = serde_json::from_slice(&body)?;
            let text = serde_saphyr::to_string(&tree).map_err(io::Error::other)?;
            out.write_all(b"---\n")?;
            out.write_all(text.as_bytes())?;
            count += 1;
        }
    }
    out.flush()?;
    Ok(count)
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
