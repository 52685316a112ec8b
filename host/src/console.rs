//! The log of a guest's serial console: QEMU appends for ever, so the host keeps it short.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use base::Result;
use base::error::Internal;
use nix::fcntl::{FallocateFlags, fallocate};

/// About what is kept.
pub const KEEP: u64 = 1 << 20;
/// File systems cut whole blocks only.
const BLOCK: u64 = 64 << 10;

/// The end of the log: the last `lines`, or all that is kept.
pub fn tail(path: &Path, lines: Option<u32>) -> Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e).internal("cannot open a console log"),
    };
    let length = file.metadata().internal("cannot read a console log")?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEEP))).internal("cannot read a console log")?;
    let mut bytes = Vec::new();
    file.take(KEEP).read_to_end(&mut bytes).internal("cannot read a console log")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some(lines) = lines else { return Ok(text.into_owned()) };
    let body = text.strip_suffix('\n').unwrap_or(&text);
    let start = match lines {
        0 => text.len(),
        n => body.rmatch_indices('\n').nth(n as usize - 1).map_or(0, |(at, _)| at + 1),
    };
    Ok(text[start..].to_string())
}

/// Cuts the beginning off a log that has grown past twice what is kept.
pub fn trim(path: &Path) -> Result<()> {
    let mut file = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).internal("cannot open a console log"),
    };
    let length = file.metadata().internal("cannot read a console log")?.len();
    if length <= 2 * KEEP {
        return Ok(());
    }
    let cut = (length - KEEP) / BLOCK * BLOCK;
    // The kernel takes the beginning out while the guest goes on appending.
    if let Ok(cut) = i64::try_from(cut)
        && fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, cut).is_ok()
    {
        return Ok(());
    }
    // Other file systems: what the guest writes in this instant may be lost.
    file.seek(SeekFrom::Start(cut)).internal("cannot read a console log")?;
    let mut rest = Vec::new();
    (&mut file).take(2 * KEEP).read_to_end(&mut rest).internal("cannot read a console log")?;
    file.set_len(0).internal("cannot cut a console log")?;
    file.write_all(&rest).internal("cannot write a console log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_last_lines_and_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        assert_eq!(tail(&path, Some(3)).unwrap(), "");
        std::fs::write(&path, "a\nb\r\nc\n").unwrap();
        assert_eq!(tail(&path, Some(2)).unwrap(), "b\r\nc\n");
        assert_eq!(tail(&path, Some(0)).unwrap(), "");
        assert_eq!(tail(&path, Some(9)).unwrap(), "a\nb\r\nc\n");
        assert_eq!(tail(&path, None).unwrap(), "a\nb\r\nc\n");

        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(&vec![b'x'; 5 << 20]).unwrap();
        writer.write_all(b"\nlast\n").unwrap();
        trim(&path).unwrap();
        writer.write_all(b"more\n").unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * KEEP);
        assert_eq!(tail(&path, Some(2)).unwrap(), "last\nmore\n");
    }
}
