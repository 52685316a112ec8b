//! The files below volumes: layers in one directory, each over another one, over a cached image or over nothing; and those of volumes
//! that other hosts see too, in the directory that hosts share.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use base::error::Internal;
use base::{Error, Result};
use rpc::message::DiskPiece;
use serde_json::{Value, json};

use super::index::{Below, Layer, Stack, is_raw, is_stored};
use crate::cache::Cache;
use crate::disk_files;
use crate::disks;
use crate::instance::blocking;

/// What keeps layers: real files, or the memory of a simulated host. Everything is idempotent.
#[async_trait]
pub trait Layers: Send + Sync {
    /// Brings an image here; answers the size a guest would see of it.
    async fn image(&self, sha256: &str, format: &str) -> Result<u64>;
    /// Makes an empty layer, unless it is there.
    async fn make(&self, name: &str, layer: &Layer) -> Result<()>;
    /// Makes a layer of this size as a copy of what is seen through a stack that nobody writes to, unless it is there.
    async fn copy(&self, stack: &Stack, name: &str, bytes: u64) -> Result<()>;
    /// Grows a layer that no process has open.
    async fn grow(&self, name: &str, bytes: u64) -> Result<()>;
    async fn remove(&self, name: &str) -> Result<()>;
    /// Copies what is seen through a stack of frozen layers into one file; answers its size.
    async fn export(&self, stack: &Stack, id: &str, format: &str) -> Result<u64>;
    /// Offers a frozen layer as it is, under another name; answers its size.
    async fn share(&self, layer: &str, id: &str) -> Result<u64>;
    async fn export_read(&self, id: &str, offset: u64, length: u32) -> Result<Vec<u8>>;
    async fn export_remove(&self, id: &str) -> Result<()>;
    /// Writes a part of a file that comes from another host; the first one begins it.
    async fn parcel_write(&self, id: &str, offset: u64, piece: &DiskPiece) -> Result<()>;
    /// The file is whole.
    async fn parcel_keep(&self, id: &str, bytes: u64) -> Result<()>;
    /// Makes it the file of a layer, unless that is there.
    async fn parcel_take(&self, id: &str, layer: &str) -> Result<()>;
    /// Has the file of a layer that came say that it lies over this one.
    async fn lay_over(&self, name: &str, below: &str) -> Result<()>;
    async fn parcel_remove(&self, id: &str) -> Result<()>;
}

/// Layers as files.
pub struct FileLayers {
    directory: PathBuf,
    /// Where other hosts see it too.
    shared: Option<PathBuf>,
    cache: Arc<Cache>,
}

impl FileLayers {
    pub fn open(directory: PathBuf, shared: Option<PathBuf>, cache: Arc<Cache>) -> Result<FileLayers> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).internal("cannot make the directory of volumes")?;
        Ok(FileLayers { directory, shared, cache })
    }

    pub fn path(&self, layer: &str) -> PathBuf {
        self.directory_of(layer).join(format!("{layer}.{}", format_of(layer)))
    }

    /// Without storage that hosts share nobody is told of a layer there; its file would only not be found.
    fn directory_of(&self, layer: &str) -> &Path {
        self.shared.as_deref().filter(|_| is_stored(layer)).unwrap_or(&self.directory)
    }

    /// Path and format of everything in a stack, the uppermost first.
    pub async fn files(&self, stack: &Stack) -> Result<Vec<(PathBuf, String)>> {
        let mut files: Vec<(PathBuf, String)> = stack.layers.iter().map(|l| (self.path(l), format_of(l).to_string())).collect();
        if let Some((sha256, format)) = &stack.image {
            files.push((self.cache.image(sha256, format).await?, format.clone()));
        }
        Ok(files)
    }

    fn export_path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.export"))
    }

    fn parcel_path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.parcel"))
    }

    async fn sync(&self) -> Result<()> {
        self.sync_of(&self.directory).await
    }

    async fn sync_of(&self, directory: &Path) -> Result<()> {
        let directory = directory.to_path_buf();
        blocking(move || File::open(&directory).and_then(|d| d.sync_all()).internal("cannot sync the directory of volumes")).await
    }
}

/// How `qemu-img` opens a stack: every file and format named, so that no header leads anywhere else.
pub fn opened(files: &[(PathBuf, String)]) -> Value {
    let mut below = Value::Null;
    for (path, format) in files.iter().rev() {
        let mut node = json!({"driver": format, "file": {"driver": "file", "filename": path, "locking": "off"}});
        if format == "qcow2" {
            node["backing"] = below;
        }
        below = node;
    }
    below
}

#[async_trait]
impl Layers for FileLayers {
    async fn image(&self, sha256: &str, format: &str) -> Result<u64> {
        let path = self.cache.image(sha256, format).await?;
        let format = format.to_string();
        blocking(move || disks::virtual_bytes(&path, &format)).await
    }

    async fn make(&self, name: &str, layer: &Layer) -> Result<()> {
        let (path, layer) = (self.path(name), layer.clone());
        let backing = match &layer.below {
            Below::Nothing => None,
            Below::Layer(below) => Some((self.path(below), format_of(below).to_string())),
            Below::Image { sha256, format } => Some((self.cache.image(sha256, format).await?, format.clone())),
        };
        blocking(move || {
            let backing = backing.as_ref().map(|(path, format)| disks::Backing { path, format });
            disks::layer_make(&path, layer.bytes, backing.as_ref(), true)
        })
        .await?;
        self.sync_of(self.directory_of(name)).await
    }

    async fn copy(&self, stack: &Stack, name: &str, bytes: u64) -> Result<()> {
        let path = self.path(name);
        let files = self.files(stack).await?;
        let raw = is_raw(name);
        blocking(move || if raw { raw_make(&path, &files, bytes) } else { copy_make(&path, &files, bytes) }).await
    }

    async fn grow(&self, name: &str, bytes: u64) -> Result<()> {
        let path = self.path(name);
        if is_raw(name) {
            return blocking(move || raw_grow(&path, bytes)).await;
        }
        blocking(move || disks::layer_grow(&path, bytes)).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        for path in [self.path(name), self.path(name).with_extension("part")] {
            unlink(&path)?;
        }
        self.sync_of(self.directory_of(name)).await
    }

    async fn export(&self, stack: &Stack, id: &str, format: &str) -> Result<u64> {
        let (format, options) = output(format)?;
        let path = self.export_path(id);
        if let Ok(facts) = std::fs::metadata(&path) {
            return Ok(facts.len());
        }
        let source = opened(&self.files(stack).await?).to_string();
        let bytes = blocking(move || {
            let part = path.with_extension("part");
            let done = Command::new("qemu-img")
                .args(["convert", "-U", "-O", format, "-t", "none", "-T", "none", "-S", "64k"])
                .args(options)
                .arg(format!("json:{source}"))
                .arg(&part)
                .output()
                .internal("cannot run qemu-img")?;
            if !done.status.success() {
                return Err(Error::internal(format!("cannot copy a volume: {}", String::from_utf8_lossy(&done.stderr).trim())));
            }
            let file = OpenOptions::new().write(true).open(&part).internal("cannot open an export")?;
            file.sync_all().internal("cannot sync an export")?;
            std::fs::rename(&part, &path).internal("cannot name an export")?;
            Ok(file.metadata().internal("cannot read an export's size")?.len())
        })
        .await?;
        self.sync().await?;
        Ok(bytes)
    }

    async fn share(&self, layer: &str, id: &str) -> Result<u64> {
        let (from, to) = (self.path(layer), self.export_path(id));
        let bytes = blocking(move || {
            let linked = to.exists() || std::fs::hard_link(&from, &to).is_ok();
            if !linked {
                // Not every file system has links.
                let part = to.with_extension("part");
                ran(&Command::new("cp")
                    .args(["--reflink=auto", "--sparse=always", "--"])
                    .arg(&from)
                    .arg(&part)
                    .output()
                    .internal("cannot run cp")?)?;
                std::fs::rename(&part, &to).internal("cannot name an export")?;
            }
            Ok(std::fs::metadata(&to).internal("cannot read an export's size")?.len())
        })
        .await?;
        self.sync().await?;
        Ok(bytes)
    }

    async fn export_read(&self, id: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        let path = self.export_path(id);
        blocking(move || {
            let file = File::open(&path).map_err(|e| Error::not_found("Export", "of a volume").caused_by(e))?;
            let mut bytes = vec![0; length as usize];
            let mut have = 0;
            while have < bytes.len() {
                match file.read_at(&mut bytes[have..], offset + have as u64).internal("cannot read an export")? {
                    0 => break,
                    n => have += n,
                }
            }
            bytes.truncate(have);
            Ok(bytes)
        })
        .await
    }

    async fn export_remove(&self, id: &str) -> Result<()> {
        for path in [self.export_path(id), self.export_path(id).with_extension("part")] {
            unlink(&path)?;
        }
        self.sync().await
    }

    async fn parcel_write(&self, id: &str, offset: u64, piece: &DiskPiece) -> Result<()> {
        let (path, piece) = (self.parcel_path(id), piece.clone());
        blocking(move || disk_files::write(&path, offset, &piece)).await
    }

    async fn parcel_keep(&self, id: &str, bytes: u64) -> Result<()> {
        let path = self.parcel_path(id);
        blocking(move || disk_files::keep(&path, bytes, None)).await
    }

    async fn parcel_take(&self, id: &str, layer: &str) -> Result<()> {
        let (from, to) = (self.parcel_path(id), self.path(layer));
        blocking(move || match std::fs::rename(&from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && to.exists() => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::not_found("Parcel", "of a volume")),
            done => done.internal("cannot take a file that came from another host"),
        })
        .await?;
        self.sync().await
    }

    async fn lay_over(&self, name: &str, below: &str) -> Result<()> {
        let (path, below) = (self.path(name), (self.path(below), format_of(below)));
        if is_raw(name) {
            return Ok(());
        }
        blocking(move || disks::layer_over(&path, &below.0, below.1)).await
    }

    async fn parcel_remove(&self, id: &str) -> Result<()> {
        let path = self.parcel_path(id);
        unlink(&disk_files::part(&path))?;
        unlink(&path)?;
        self.sync().await
    }
}

/// What `qemu-img` calls a format, and how it shall write it: as one file that an image service takes.
fn output(format: &str) -> Result<(&'static str, &'static [&'static str])> {
    match format {
        "raw" => Ok(("raw", &[])),
        "qcow2" => Ok(("qcow2", &[])),
        "vmdk" => Ok(("vmdk", &["-o", "subformat=streamOptimized"])),
        "vdi" => Ok(("vdi", &[])),
        "vhd" => Ok(("vpc", &["-o", "subformat=dynamic,force_size=on"])),
        "vhdx" => Ok(("vhdx", &["-o", "subformat=dynamic"])),
        other => Err(Error::invalid(format!("a volume cannot be exported as `{other}`"))),
    }
}

fn format_of(layer: &str) -> &'static str {
    if is_raw(layer) { "raw" } else { "qcow2" }
}

/// A raw file with what is seen through these, the uppermost first. Under its name only when whole.
fn raw_make(path: &Path, files: &[(PathBuf, String)], bytes: u64) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let part = path.with_extension("part");
    match files {
        [] => {
            File::create(&part).internal("cannot make a raw layer")?;
            guard(&part)?;
        }
        // Where the file system can, this shares the blocks.
        [(from, format)] if format == "raw" => {
            let done = Command::new("cp").args(["--reflink=auto", "--sparse=always", "--"]).arg(from).arg(&part).output();
            ran(&done.internal("cannot run cp")?)?;
            guard(&part)?;
        }
        _ => convert(files, "raw", &part)?,
    }
    raw_grow(&part, bytes)?;
    disks::publish(&part, path).map(drop)
}

/// A qcow2 file over nothing with what is seen through these, the uppermost first. Under its name only when whole.
fn copy_make(path: &Path, files: &[(PathBuf, String)], bytes: u64) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let part = path.with_extension("part");
    convert(files, "qcow2", &part)?;
    disks::layer_grow(&part, bytes)?;
    disks::publish(&part, path).map(drop)
}

fn convert(files: &[(PathBuf, String)], format: &str, to: &Path) -> Result<()> {
    let source = opened(files).to_string();
    let done = Command::new("qemu-img").args(["convert", "-U", "-O", format, "-S", "64k"]).arg(format!("json:{source}")).arg(to).output();
    ran(&done.internal("cannot run qemu-img")?)?;
    guard(to)
}

/// Whoever made the file, only we may read it.
fn guard(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).internal("cannot guard a layer")
}

fn ran(done: &std::process::Output) -> Result<()> {
    if done.status.success() {
        return Ok(());
    }
    Err(Error::internal(format!("cannot copy a volume: {}", String::from_utf8_lossy(&done.stderr).trim())))
}

fn raw_grow(path: &Path, bytes: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).internal("cannot open a raw layer")?;
    if file.metadata().internal("cannot read a raw layer's size")?.len() < bytes {
        file.set_len(bytes).internal("cannot size a raw layer")?;
        file.sync_all().internal("cannot sync a raw layer")?;
    }
    Ok(())
}

fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).internal("cannot remove a file of a volume"),
        _ => Ok(()),
    }
}
