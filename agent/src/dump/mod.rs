//! The snapshot as a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
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

/// Writes the file at `path` anew, as YAML.
///
/// # Errors
/// What the operating system says.
pub fn write_yaml_file(store: &Store, path: &Path) -> io::Result<usize> {
    write_yaml(store, &mut BufWriter::new(File::create(path)?))
}
