//! Container images without a container engine: archives in the form that `docker save` writes, which containerd and kind
//! import alike.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// User and group of the programs: not root, and no account of the machine.
const USER: &str = "65532:65532";

/// Reference under which the lab loads the agent.
pub const AGENT: &str = "lab.local/meshsync-agent:lab";
/// Reference under which the lab loads the operator.
pub const OPERATOR: &str = "lab.local/meshsync-operator:lab";

/// An image with one program, the libraries that it loads, and nothing else.
#[derive(Debug)]
pub struct Image {
    reference: String,
    program: PathBuf,
    path_inside: String,
}

impl Image {
    /// An image named `reference` (with a host and a tag, so that no tool completes it) whose entry point is `program`,
    /// at the root of the image under its own name.
    #[must_use]
    pub fn new(reference: impl Into<String>, program: PathBuf) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let path_inside = format!("/{name}");
        Self { reference: reference.into(), program, path_inside }
    }

    /// Our agent, as the workspace built it.
    ///
    /// # Errors
    /// When it is not built.
    pub fn agent() -> Result<Self> {
        Ok(Self::new(AGENT, crate::binaries::binary("meshsync-agent")?))
    }

    /// Our operator, as the workspace built it.
    ///
    /// # Errors
    /// When it is not built.
    pub fn operator() -> Result<Self> {
        Ok(Self::new(OPERATOR, crate::binaries::binary("meshsync-operator")?))
    }

    /// nats-server under `reference`: that of the image which the operator deploys, so that it finds it on the node.
    ///
    /// # Errors
    /// When the binary cannot be built.
    pub fn nats(reference: impl Into<String>) -> Result<Self> {
        let program = crate::lab::on_host(|| crate::assets::ensure(crate::assets::Tool::NatsServer))?;
        Ok(Self::new(reference, program))
    }

    /// Places the program at `path` inside the image.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path_inside = path.into();
        self
    }

    /// The image's reference.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes the archive to `path` and returns that path.
    ///
    /// # Errors
    /// When the program or a library cannot be read, or the archive cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<PathBuf> {
        let layer = path.with_extension("layer");
        let digest = self.write_layer(&layer).with_context(|| format!("cannot write {}", layer.display()))?;
        self.write_archive(path, &layer, &digest).with_context(|| format!("cannot write {}", path.display()))?;
        std::fs::remove_file(&layer)?;
        Ok(path.to_owned())
    }

    /// Writes the only layer and returns its digest.
    fn write_layer(&self, path: &Path) -> Result<String> {
        let mut tar = tar::Builder::new(HashingWriter::new(BufWriter::new(File::create(path)?)));
        append_directory(&mut tar, "tmp/", 0o1777)?;
        append_file(&mut tar, &self.path_inside, &self.program, 0o755)?;
        for library in libraries(&self.program)? {
            append_file(&mut tar, &library.to_string_lossy(), &library, 0o755)?;
        }
        let (mut writer, digest) = tar.into_inner()?.finish();
        writer.flush()?;
        Ok(digest)
    }

    fn write_archive(&self, path: &Path, layer: &Path, digest: &str) -> Result<()> {
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [self.path_inside], "User": USER, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        }))?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_name, "RepoTags": [self.reference], "Layers": [layer_name],
        }]))?;
        let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
        append_bytes(&mut tar, &config_name, &config)?;
        append_file(&mut tar, &layer_name, layer, 0o644)?;
        append_bytes(&mut tar, "manifest.json", &manifest)?;
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

/// The shared libraries and the loader that `program` names; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run `ldd` of the C library")?;
    let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("statically linked") || complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "`ldd {}` failed: {}", program.display(), complaint.trim());
    ensure!(!text.contains("not found"), "{} lacks a library: {text}", program.display());
    Ok(library_paths(&text))
}

/// Paths in the output of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)`, or the loader's alone. Pages that the kernel provides
/// have none.
fn library_paths(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place).trim();
        let path = place.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

/// The machine's architecture under its name in image configurations.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A header whose owner and time do not depend on this machine: equal programs make equal images.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append_file(tar: &mut tar::Builder<impl Write>, inside: &str, path: &Path, mode: u32) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut header = header(file.metadata()?.len(), mode);
    Ok(tar.append_data(&mut header, inside.trim_start_matches('/'), file)?)
}

fn append_bytes(tar: &mut tar::Builder<impl Write>, inside: &str, bytes: &[u8]) -> Result<()> {
    Ok(tar.append_data(&mut header(u64::try_from(bytes.len())?, 0o644), inside, bytes)?)
}

fn append_directory(tar: &mut tar::Builder<impl Write>, inside: &str, mode: u32) -> Result<()> {
    let mut header = header(0, mode);
    header.set_entry_type(tar::EntryType::Directory);
    Ok(tar.append_data(&mut header, inside, io::empty())?)
}

/// Passes bytes on and hashes them on the way: layers are too large to be read twice or held in memory.
struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    fn finish(self) -> (W, String) {
        (self.inner, hex(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn libraries_and_loader_are_found_in_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(library_paths(text), expected);
    }

    #[test]
    fn archive_is_reproducible_and_names_its_layer_by_digest() {
        let dir = std::env::temp_dir().join(format!("meshsync-image-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let image = Image::new("lab.local/self:1", std::env::current_exe().unwrap());
        let first = std::fs::read(image.write_to(&dir.join("one.tar")).unwrap()).unwrap();
        let second = std::fs::read(image.write_to(&dir.join("two.tar")).unwrap()).unwrap();
        assert!(first == second, "equal programs make equal images");

        let mut config = serde_json::Value::Null;
        let mut layer = Vec::new();
        for entry in tar::Archive::new(first.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if name.ends_with("layer.tar") {
                layer = bytes;
            } else if name != "manifest.json" {
                config = serde_json::from_slice(&bytes).unwrap();
            }
        }
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&Sha256::digest(&layer))));
        assert_eq!(config["config"]["User"], "65532:65532");
        let names: Vec<_> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert!(names.iter().any(|name| name.contains("libc.so")), "{names:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
