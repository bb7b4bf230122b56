//! A file that is written as a whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Mode of a file that holds values of Secrets.
const PRIVATE: u32 = 0o600;
/// What the umask takes from otherwise.
const PUBLIC: u32 = 0o666;

/// A file that takes its place once it is finished: who reads the path sees the old content until then, and nothing is lost
/// if it is never finished. What is not a regular file, such as a pipe or `/dev/stdout`, is written as it is.
pub struct NewFile(Place);

enum Place {
    Beside { file: BufWriter<NamedTempFile>, path: PathBuf },
    There(BufWriter<File>),
}

impl NewFile {
    /// Begins the file at `path`; `is_private` if nobody else may read it. An existing file keeps its mode otherwise.
    ///
    /// # Errors
    /// What the operating system says, now rather than after all was read.
    pub fn create(path: &Path, is_private: bool) -> io::Result<Self> {
        let path = if_found(fs::canonicalize(path))?.unwrap_or_else(|| path.to_owned());
        let before = if_found(fs::metadata(&path))?;
        if before.is_some() {
            // Not to be replaced by somebody who may not write it.
            let file = OpenOptions::new().write(true).open(&path)?;
            if before.as_ref().is_some_and(|before| !before.is_file()) {
                return Ok(Self(Place::There(BufWriter::new(file))));
            }
        }
        let mode = before.as_ref().map(|before| before.permissions().mode()).filter(|_| !is_private);
        match beside(&path, if is_private { PRIVATE } else { PUBLIC }) {
            Ok(file) => {
                if let Some(mode) = mode {
                    file.as_file().set_permissions(Permissions::from_mode(mode))?;
                }
                Ok(Self(Place::Beside { file: BufWriter::new(file), path }))
            }
            // A folder that takes no new file may hold one that can be written.
            Err(_) if before.is_some() => {
                let file = OpenOptions::new().write(true).open(&path)?;
                if is_private {
                    file.set_permissions(Permissions::from_mode(PRIVATE))?;
                }
                file.set_len(0)?;
                Ok(Self(Place::There(BufWriter::new(file))))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a file could be begun at `path`; leaves everything as it was.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn check(path: &Path) -> io::Result<()> {
        let path = if_found(fs::canonicalize(path))?.unwrap_or_else(|| path.to_owned());
        match if_found(fs::metadata(&path))? {
            Some(_) => OpenOptions::new().write(true).open(&path).map(drop),
            None => beside(&path, PRIVATE).map(drop),
        }
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// What the operating system says; there is no file then, or the old one.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Place::There(mut file) => file.flush(),
            Place::Beside { file, path } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.persist(path).map(drop).map_err(io::Error::from)
            }
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Place::Beside { file, .. } => file.write(bytes),
            Place::There(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Place::Beside { file, .. } => file.flush(),
            Place::There(file) => file.flush(),
        }
    }
}

/// A new file in the folder of `path`.
fn beside(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Asked first, for the words of the operating system: tempfile adds a path that nobody knows.
    fs::metadata(folder)?;
    tempfile::Builder::new()
        .prefix(".meshsync-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(|error| io::Error::from(error.kind()))
}

fn if_found<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn write(path: &Path, text: &str, is_private: bool) {
        let mut file = NewFile::create(path, is_private).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }

    #[test]
    fn what_is_private_can_be_read_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        write(&path, "secret", true);
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write(&path, "again", true);
        assert_eq!(mode(&path), 0o600, "an existing file that others could read");
    }

    #[test]
    fn an_existing_file_keeps_its_mode_and_a_link_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("there"), dir.path().join("link"));
        fs::write(&path, "before, and longer").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, "after", false);
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("there");
        fs::write(&path, "before").unwrap();
        let mut file = NewFile::create(&path, false).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        NewFile::check(&dir.path().join("other")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_and_a_missing_folder_are_told() {
        let mut full = NewFile::create(Path::new("/dev/full"), true).unwrap();
        full.write_all(b"x").unwrap();
        assert_eq!(full.finish().unwrap_err().kind(), ErrorKind::StorageFull);
        for path in ["/no/such/folder/file", "/proc"] {
            assert!(NewFile::create(Path::new(path), false).is_err(), "{path}");
            let error = NewFile::check(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("(os error "), "{path}: {error}");
        }
    }
}
