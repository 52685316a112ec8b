//! Files of a guest that is off, on their way from one host to another: read and written in pieces, each with its digest.
//!
//! A file is written under a name of its own until it is whole, so that a copy that breaks off never looks like a disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::error::Internal;
use base::{Error, Result};
use rpc::message::{DiskFile, DiskPiece};

/// Before the SHA-256 of a cached image, as the name of a file.
pub const IMAGE: &str = "image-";
/// What UEFI firmware remembers.
const FIRMWARE: &str = "firmware.fd";
const CONFIG_DRIVE: &str = "config.iso";

/// Refuses what is no name of a file that goes from host to host.
pub fn check(instance_id: &str, file: &str) -> Result<()> {
    let hash = |name: &str| name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let disk = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let known = match file.strip_prefix(IMAGE) {
        Some(rest) => hash(rest),
        None => file == FIRMWARE || file == CONFIG_DRIVE || file.strip_suffix(".qcow2").is_some_and(disk),
    };
    match known && base::id::is_uuid(instance_id) {
        true => Ok(()),
        false => Err(Error::invalid(format!("`{file}` of `{instance_id}` is no file that goes from host to host"))),
    }
}

/// Whether a guest that runs does not write to the file: it can be read any time.
pub fn is_fixed(file: &str) -> bool {
    file == CONFIG_DRIVE || file.starts_with(IMAGE)
}

/// What there is of a guest.
pub fn list(directory: &Path) -> Result<Vec<DiskFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).internal("cannot list a guest's directory")? {
        let entry = entry.internal("cannot list a guest's directory")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == FIRMWARE || name.ends_with(".qcow2") {
            files.push(DiskFile { name, bytes: entry.metadata().internal("cannot read a file's size")?.len() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

pub fn read(path: &Path, offset: u64, length: u32) -> Result<DiskPiece> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("Disk", &path.file_name().unwrap_or_default().to_string_lossy()),
        _ => Error::internal("cannot open a disk file").caused_by(e),
    })?;
    let mut all = vec![0; length as usize];
    let mut have = 0;
    while have < all.len() {
        match file.read_at(&mut all[have..], offset + have as u64).internal("cannot read a disk file")? {
            0 => break,
            n => have += n,
        }
    }
    Ok(DiskPiece::of(&all[..have]))
}

/// Where a file is written before it is whole.
pub fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".move.part");
    path.with_file_name(name)
}

pub fn write(path: &Path, offset: u64, piece: &DiskPiece) -> Result<()> {
    let data = piece.data()?;
    if offset == 0
        && let Some(directory) = path.parent()
    {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("cannot make the guest's directory")?;
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if offset == 0 {
        options.create(true).truncate(true);
    }
    let file = options.open(part(path)).internal("cannot open a disk file that is coming")?;
    match data {
        Some(data) => file.write_all_at(&data, offset).internal("cannot write a disk file"),
        // A hole.
        None => Ok(()),
    }
}

/// `image`: the file's own digest, of a cached image.
pub fn keep(path: &Path, bytes: u64, image: Option<&str>) -> Result<()> {
    let part = part(path);
    if !part.exists() && path.exists() {
        // Asked again: the answer was lost.
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(bytes == 0).truncate(false).mode(0o600).open(&part);
    let file = file.internal("cannot open a disk file that is coming")?;
    let have = file.metadata().internal("cannot read a file's size")?.len();
    if have > bytes {
        return Err(Error::internal("more of a disk has come than there is"));
    }
    file.set_len(bytes).internal("cannot size a disk file")?;
    if let Some(sha256) = image
        && crate::cache::hash(&part)? != sha256
    {
        let _ = std::fs::remove_file(&part);
        return Err(Error::unavailable("an image arrived damaged"));
    }
    crate::disks::publish(&part, path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn a_file_arrives_as_it_was_with_its_holes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("root-1.qcow2");
        let mut data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        data[1_000_000..2_500_000].fill(0);
        std::fs::write(&path, &data).unwrap();
        std::fs::write(from.path().join("firmware.fd"), b"x").unwrap();
        std::fs::write(from.path().join("console.log"), b"x").unwrap();
        let files = list(from.path()).unwrap();
        assert_eq!(files.iter().map(|f| (f.name.as_str(), f.bytes)).collect::<Vec<_>>(), [("firmware.fd", 1), ("root-1.qcow2", 3_000_000)]);
        let target = to.path().join(ID).join("root-1.qcow2");
        // Once broken off, then whole.
        write(&target, 0, &DiskPiece::of(&[9; 5_000_000])).unwrap();
        let mut at = 0;
        loop {
            let piece = read(&path, at, 400_000).unwrap();
            if piece.bytes == 0 {
                break;
            }
            write(&target, at, &piece).unwrap();
            at += piece.bytes;
            assert!(!target.exists(), "not before it is whole");
        }
        keep(&target, at, None).unwrap();
        keep(&target, at, None).unwrap();
        assert!(std::fs::read(&target).unwrap() == data);
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&target).unwrap().blocks() * 512 < 2_600_000, "holes stay holes");
    }

    #[test]
    fn damage_and_strange_names_are_refused() {
        let to = tempfile::tempdir().unwrap();
        let target = to.path().join("root.qcow2");
        let mut bad = DiskPiece::of(b"some bytes");
        bad.sha256.replace_range(..1, if bad.sha256.starts_with('0') { "1" } else { "0" });
        assert!(write(&target, 0, &bad).unwrap_err().is_transient());
        assert!(write(&target, 0, &DiskPiece { bytes: DiskPiece::MOST + 1, ..DiskPiece::of(b"") }).is_err());
        assert!(write(&target, 7, &DiskPiece::of(b"x")).is_err(), "nothing was begun");
        assert!(keep(&target, 10, None).is_err());
        assert!(read(&target, 0, 10).unwrap_err().is(base::Kind::NotFound));
        let hash = DiskPiece::of(b"image").sha256;
        let image = to.path().join(&hash);
        write(&image, 0, &DiskPiece::of(b"imagf")).unwrap();
        assert!(keep(&image, 5, Some(&hash)).is_err());
        write(&image, 0, &DiskPiece::of(b"image")).unwrap();
        keep(&image, 5, Some(&hash)).unwrap();
        for good in ["root.qcow2", "ephemeral0-3.qcow2", "firmware.fd", &format!("image-{hash}")] {
            check(ID, good).unwrap();
        }
        for bad in ["../x.qcow2", "a/b.qcow2", ".qcow2", "config.img", "image-../x", "image-ab", "qmp.sock", "root.QCOW2", ""] {
            assert!(check(ID, bad).is_err(), "{bad}");
        }
        assert!(check("..", "root.qcow2").is_err());
    }
}
