//! A guest's disk files: qcow2 overlays written by ourselves (a fork of `qemu-img` costs more than a guest's
//! whole budget allows), and what an image's header says of itself.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use base::error::Internal;
use base::{Error, Result};

const MAGIC: &[u8; 4] = b"QFI\xfb";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const HEADER_BYTES: u32 = 104;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
/// Incompatible feature: guest data lies in another file.
const FEATURE_DATA_FILE: u64 = 1 << 2;

/// What lies below an overlay.
pub struct Backing<'a> {
    pub path: &'a Path,
    pub format: &'a str,
}

/// The header of a qcow2 file, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub virtual_bytes: u64,
    pub has_backing: bool,
    pub has_data_file: bool,
}

/// Reads the header; none when the file is no qcow2.
pub fn header(file: &mut File) -> Result<Option<Header>> {
    let mut bytes = [0u8; 80];
    file.seek(SeekFrom::Start(0)).internal("cannot read a disk file")?;
    let mut have = 0;
    while have < bytes.len() {
        match file.read(&mut bytes[have..]).internal("cannot read a disk file")? {
            0 => break,
            n => have += n,
        }
    }
    if have < 72 || &bytes[..4] != MAGIC {
        return Ok(None);
    }
    let version = be32(&bytes, 4);
    let features = if version >= 3 { be64(&bytes, 72) } else { 0 };
    Ok(Some(Header {
        virtual_bytes: be64(&bytes, 24),
        has_backing: be64(&bytes, 8) != 0,
        has_data_file: features & FEATURE_DATA_FILE != 0,
    }))
}

/// File name of what an overlay was made over; empty when there is nothing.
fn backing_name(file: &File) -> Result<String> {
    let mut head = [0u8; 12];
    file.read_exact_at(&mut head, 8).internal("cannot read a disk file")?;
    let (at, length) = (be64(&head, 0), be32(&head, 8) as usize);
    if at == 0 || length > 1023 {
        return Ok(String::new());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).internal("cannot read a disk file")?;
    Ok(name(Path::new(&*String::from_utf8_lossy(&bytes))))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// The size a guest would see of an image.
pub fn virtual_bytes(path: &Path, format: &str) -> Result<u64> {
    let mut file = File::open(path).internal("cannot open an image")?;
    if format == "qcow2" {
        let header = header(&mut file)?.ok_or_else(|| Error::invalid("the image is no qcow2 file"))?;
        if header.has_backing || header.has_data_file {
            return Err(Error::invalid("the image refers to other files"));
        }
        return Ok(header.virtual_bytes);
    }
    Ok(file.metadata().internal("cannot read an image's size")?.len())
}

/// The bytes of an empty qcow2 file of `bytes` (rounded up to sectors): header, one refcount table with one
/// block, and a zeroed first-level table.
fn empty(bytes: u64, backing: Option<&Backing>) -> Result<(Vec<u8>, u64)> {
    let bytes = bytes.div_ceil(512) * 512;
    // One second-level table maps 8192 clusters.
    let l1_entries = bytes.div_ceil(CLUSTER * (CLUSTER / 8)).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let clusters = 3 + l1_clusters;
    if clusters > CLUSTER / 2 {
        return Err(Error::invalid("the disk is too large"));
    }
    let path = backing.map(|b| b.path.to_string_lossy().into_owned()).unwrap_or_default();
    let format = backing.map(|b| b.format).unwrap_or_default();
    let mut extensions = Vec::new();
    if !format.is_empty() {
        extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format.as_bytes());
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0u8; 8]);
    let path_at = HEADER_BYTES as usize + extensions.len();
    if path.len() > 1023 {
        return Err(Error::invalid("the path of the image cache is too long"));
    }
    let mut out = Vec::with_capacity((3 * CLUSTER) as usize);
    out.extend(MAGIC);
    out.extend(3u32.to_be_bytes());
    out.extend(if path.is_empty() { 0 } else { path_at as u64 }.to_be_bytes());
    out.extend((path.len() as u32).to_be_bytes());
    out.extend(CLUSTER_BITS.to_be_bytes());
    out.extend(bytes.to_be_bytes());
    out.extend(0u32.to_be_bytes()); // not encrypted
    out.extend((l1_entries as u32).to_be_bytes());
    out.extend((3 * CLUSTER).to_be_bytes()); // first-level table
    out.extend(CLUSTER.to_be_bytes()); // refcount table
    out.extend(1u32.to_be_bytes());
    out.extend(0u32.to_be_bytes()); // no snapshots
    out.extend(0u64.to_be_bytes());
    out.extend(0u64.to_be_bytes()); // incompatible, compatible, autoclear features
    out.extend(0u64.to_be_bytes());
    out.extend(0u64.to_be_bytes());
    out.extend(4u32.to_be_bytes()); // 16-bit refcounts
    out.extend(HEADER_BYTES.to_be_bytes());
    out.extend(extensions);
    out.extend(path.as_bytes());
    out.resize(CLUSTER as usize, 0);
    out.extend((2 * CLUSTER).to_be_bytes()); // the only refcount block
    out.resize(2 * CLUSTER as usize, 0);
    for _ in 0..clusters {
        out.extend(1u16.to_be_bytes());
    }
    out.resize(3 * CLUSTER as usize, 0);
    Ok((out, clusters * CLUSTER))
}

/// Makes the overlay, or an empty disk when there is no backing, unless it is there. Grows one that is smaller.
pub fn make(path: &Path, bytes: u64, backing: Option<&Backing>, sync: bool) -> Result<()> {
    let bytes = match backing {
        Some(below) => bytes.max(virtual_bytes(below.path, below.format)?),
        None => bytes,
    };
    layer_make(path, bytes, backing, sync)
}

/// As [`make`], over anything: the caller knows what lies below and how large that is.
pub fn layer_make(path: &Path, bytes: u64, backing: Option<&Backing>, sync: bool) -> Result<()> {
    match File::open(path) {
        Ok(mut file) => {
            let present = header(&mut file)?.ok_or_else(|| Error::internal(format!("{} is damaged: no qcow2 file", name(path))))?;
            let below = backing_name(&file)?;
            let wanted = backing.map(|b| name(b.path)).unwrap_or_default();
            if below != wanted {
                // Over any other image its blocks would make no sense.
                return Err(Error::internal(format!("{} lies over `{below}`, not over `{wanted}`", name(path))));
            }
            return if present.virtual_bytes < bytes { grow(path, bytes) } else { Ok(()) };
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::internal(format!("cannot open {}", name(path))).caused_by(e)),
    }
    let (head, length) = empty(bytes, backing)?;
    // Under its name only when whole: a crash in between must not look like a disk.
    let part = path.with_extension("part");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).internal("cannot make a disk file")?;
    file.write_all(&head).internal("cannot write a disk file")?;
    file.set_len(length).internal("cannot size a disk file")?;
    if sync {
        file.sync_all().internal("cannot sync a disk file")?;
    }
    std::fs::rename(&part, path).internal("cannot name a disk file")
}

/// Makes a disk as a copy of another that nobody uses, unless it is there.
pub fn copy(from: &Path, to: &Path, sync: bool) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let part = to.with_extension("part");
    std::fs::copy(from, &part).map_err(|e| Error::internal(format!("cannot copy {}", name(from))).caused_by(e))?;
    if sync {
        File::open(&part).and_then(|f| f.sync_all()).internal("cannot sync a disk file")?;
    }
    std::fs::rename(&part, to).internal("cannot name a disk file")
}

/// Copies the whole contents of a disk that nobody uses, with what lies below it, into a file of its own.
pub fn flatten(from: &Path, to: &Path) -> Result<u64> {
    let part = to.with_extension("part");
    let done = Command::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "qcow2"]).arg(from).arg(&part).output();
    let done = done.internal("cannot run qemu-img")?;
    if !done.status.success() {
        let _ = std::fs::remove_file(&part);
        return Err(Error::internal(format!("cannot copy {}: {}", name(from), String::from_utf8_lossy(&done.stderr).trim())));
    }
    publish(&part, to)
}

/// Gives a whole file its name and answers its size; afterwards it survives a power cut.
pub fn publish(part: &Path, to: &Path) -> Result<u64> {
    let file = File::open(part).internal("cannot open a disk file")?;
    file.sync_all().internal("cannot sync a disk file")?;
    std::fs::rename(part, to).internal("cannot name a disk file")?;
    to.parent().map_or(Ok(()), |d| File::open(d).and_then(|d| d.sync_all())).internal("cannot sync the guest's directory")?;
    Ok(file.metadata().internal("cannot read a file's size")?.len())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Grows a disk that nobody has open, unless it is large enough.
pub fn layer_grow(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::open(path).internal("cannot open a disk file")?;
    match header(&mut file)? {
        Some(present) if present.virtual_bytes >= bytes => Ok(()),
        Some(_) => grow(path, bytes),
        None => Err(Error::internal(format!("{} is damaged: no qcow2 file", name(path)))),
    }
}

/// Growing rewrites tables; it happens once in a disk's life, so `qemu-img` does it. What the header says of other files
/// is not believed: a guest's process could have written there.
fn grow(path: &Path, bytes: u64) -> Result<()> {
    let image = serde_json::json!({"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": null});
    let done = Command::new("qemu-img")
        .args(["resize", "-q"])
        .arg(format!("json:{image}"))
        .arg(bytes.to_string())
        .output()
        .internal("cannot run qemu-img")?;
    if done.status.success() {
        return Ok(());
    }
    Err(Error::internal(format!("cannot grow {}: {}", name(path), String::from_utf8_lossy(&done.stderr).trim())))
}

/// Writes into the header of a layer that came from elsewhere what it lies over here, on disk when this returns. What it says until then is
/// not followed.
pub fn layer_over(path: &Path, below: &Path, format: &str) -> Result<()> {
    let image = serde_json::json!({"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": null});
    let mut command = Command::new("qemu-img");
    command.args(["rebase", "-q", "-u", "-F", format, "-b"]).arg(below).arg(format!("json:{image}"));
    let done = command.output().internal("cannot run qemu-img")?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr).trim().to_string();
        return Err(Error::internal(format!("cannot lay {} over {}: {why}", name(path), name(below))));
    }
    File::open(path).and_then(|file| file.sync_all()).internal("cannot sync a disk file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn qemu_img(arguments: &[&str]) -> String {
        let out = Command::new("qemu-img").args(arguments).output().expect("qemu-img is needed for this test");
        assert!(out.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[test]
    fn qemu_accepts_what_we_write() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::write(&base, vec![7u8; 3 << 20]).unwrap();
        for (bytes, expect) in [(1u64 << 20, 3u64 << 20), (5 << 30, 5 << 30), (9 << 40, 9 << 40)] {
            let disk = dir.path().join(format!("d{bytes}.qcow2"));
            make(&disk, bytes, Some(&Backing { path: &base, format: "raw" }), false).unwrap();
            let disk = disk.to_str().unwrap();
            qemu_img(&["check", disk]);
            let info: serde_json::Value = serde_json::from_str(&qemu_img(&["info", "--output=json", disk])).unwrap();
            assert_eq!(info["virtual-size"], expect, "never cut below the image");
            assert_eq!(info["backing-filename-format"], "raw");
        }
        let blank = dir.path().join("blank.qcow2");
        make(&blank, 1 << 30, None, true).unwrap();
        qemu_img(&["check", blank.to_str().unwrap()]);
        make(&blank, 2 << 30, None, true).unwrap();
        qemu_img(&["check", blank.to_str().unwrap()]);
        assert_eq!(virtual_bytes(&blank, "qcow2").unwrap(), 2 << 30);
    }

    #[test]
    fn an_overlay_stays_over_its_image() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for image in [&one, &other] {
            std::fs::write(image, vec![0; 1 << 20]).unwrap();
        }
        let disk = dir.path().join("root.qcow2");
        make(&disk, 1 << 20, Some(&Backing { path: &one, format: "raw" }), false).unwrap();
        make(&disk, 1 << 20, Some(&Backing { path: &one, format: "raw" }), false).unwrap();
        assert!(make(&disk, 1 << 20, Some(&Backing { path: &other, format: "raw" }), false).unwrap_err().message().contains("lies over"));
        assert!(make(&disk, 1 << 20, None, false).is_err());
    }

    #[test]
    fn a_damaged_disk_is_told_and_an_image_with_strings_attached_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("root.qcow2");
        std::fs::write(&disk, b"rubbish").unwrap();
        assert!(make(&disk, 1 << 20, None, false).unwrap_err().message().contains("damaged"));
        let base = dir.path().join("base");
        std::fs::write(&base, vec![0; 1 << 20]).unwrap();
        let chained = dir.path().join("chained");
        make(&chained, 1 << 20, Some(&Backing { path: &base, format: "raw" }), false).unwrap();
        assert!(virtual_bytes(&chained, "qcow2").unwrap_err().message().contains("other files"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let mut file = tempfile::tempfile().unwrap();
            if magic { file.write_all(MAGIC).unwrap(); }
            file.write_all(&bytes).unwrap();
            let _ = header(&mut file).unwrap();
        }
    }
}
