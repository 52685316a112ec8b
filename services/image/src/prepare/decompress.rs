//! Content that comes compressed: gzip, and ZIP archives of one file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use base::error::Internal;
use base::{Error, Kind, Result};
use flate2::Crc;
use flate2::read::{DeflateDecoder, MultiGzDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZIP: &[u8] = b"PK\x03\x04";
/// LHA has its name behind two bytes.
const LHA: &[u8] = b"-lh";

/// Where a ZIP archive's directory may end at the earliest, seen from the file's end: a comment has at most 64 KiB.
const ZIP_TAIL: u64 = (64 << 10) + 22;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Decompresses `file` into `target`, a new file of at most `max` bytes. False: it is not compressed, and there is no new file. Blocks.
pub fn decompress(file: &Path, target: &Path, max: u64) -> Result<bool> {
    let mut source = File::open(file).internal("opening image content")?;
    let mut head = Vec::new();
    Read::by_ref(&mut source).take(5).read_to_end(&mut head).internal("reading image content")?;
    source.seek(SeekFrom::Start(0)).internal("reading image content")?;
    if head.starts_with(GZIP) {
        return copy(MultiGzDecoder::new(BufReader::new(source)), target, max).map(|_| true);
    }
    if head.starts_with(ZIP) {
        return unzip(source, target, max).map(|()| true);
    }
    if head.get(2..).is_some_and(|rest| rest.starts_with(LHA)) {
        return Err(refused("it is an LHA archive, which this cloud does not open"));
    }
    Ok(false)
}

fn refused(why: &str) -> Error {
    Error::new(Kind::UnsupportedMediaType, format!("The content cannot be decompressed: {why}."))
}

/// Writes what `from` has; its CRC-32 and length.
fn copy(mut from: impl Read, target: &Path, max: u64) -> Result<Crc> {
    let mut to = File::create_new(target).internal("writing decompressed content")?;
    let mut crc = Crc::new();
    let (mut piece, mut size) = (vec![0; 256 << 10], 0u64);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(refused("it is damaged").caused_by(error)),
        };
        size += read as u64;
        if size > max {
            return Err(crate::content::too_large(max));
        }
        crc.update(&piece[..read]);
        to.write_all(&piece[..read]).map_err(crate::content::disk)?;
    }
    to.sync_all().map_err(crate::content::disk)?;
    Ok(crc)
}

/// The one file of an archive, as its directory tells of it.
struct Entry {
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    header: u64,
}

fn unzip(mut source: File, target: &Path, max: u64) -> Result<()> {
    let entry = entry(&mut source).internal("reading an archive")?.map_err(refused)?;
    let mut local = [0; 30];
    let broken = |error: io::Error| refused("it is damaged").caused_by(error);
    source.seek(SeekFrom::Start(entry.header)).and_then(|_| source.read_exact(&mut local)).map_err(broken)?;
    if !local.starts_with(ZIP) {
        return Err(refused("it is damaged"));
    }
    let names = i64::from(le16(&local, 26)) + i64::from(le16(&local, 28));
    source.seek(SeekFrom::Current(names)).map_err(broken)?;
    let packed = BufReader::new(source).take(entry.packed);
    let found = match entry.method {
        STORED => copy(packed, target, max)?,
        DEFLATED => copy(DeflateDecoder::new(packed), target, max)?,
        _ => return Err(refused("its archive is packed in a way that this cloud does not know")),
    };
    // The length is counted in 32 bits.
    if found.sum() != entry.crc || u64::from(found.amount()) != entry.size & u64::from(u32::MAX) {
        return Err(refused("it is damaged"));
    }
    Ok(())
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}
fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

/// Reads the directory of an archive, at its end. The inner error says why it is refused.
fn entry(source: &mut File) -> io::Result<std::result::Result<Entry, &'static str>> {
    let length = source.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(ZIP_TAIL);
    let mut tail = Vec::new();
    source.seek(SeekFrom::Start(start))?;
    source.read_to_end(&mut tail)?;
    let Some(end) = (0..tail.len().saturating_sub(21)).rev().find(|at| tail[*at..].starts_with(b"PK\x05\x06")) else {
        return Ok(Err("its archive has no directory"));
    };
    if le16(&tail[end..], 10) != 1 {
        return Ok(Err("its archive has more than one file, or none"));
    }
    let mut at = u64::from(le32(&tail[end..], 16));
    if at == u64::from(u32::MAX) {
        // Large archives say it in a record of its own.
        let Some(large) = tail[..end].windows(4).rposition(|w| w == b"PK\x06\x06").filter(|large| large + 56 <= end) else {
            return Ok(Err("its archive has no directory"));
        };
        at = le64(&tail[large..], 48);
    }
    let mut record = Vec::new();
    source.seek(SeekFrom::Start(at))?;
    source.take(46 + 2 * u64::from(u16::MAX)).read_to_end(&mut record)?;
    if record.len() < 46 || !record.starts_with(b"PK\x01\x02") {
        return Ok(Err("its archive has no directory"));
    }
    if le16(&record, 8) & 1 != 0 {
        return Ok(Err("its archive is encrypted"));
    }
    let mut entry = Entry {
        method: le16(&record, 10),
        crc: le32(&record, 16),
        packed: u64::from(le32(&record, 20)),
        size: u64::from(le32(&record, 24)),
        header: u64::from(le32(&record, 42)),
    };
    let extra = 46 + usize::from(le16(&record, 28));
    let extra = record.get(extra..extra + usize::from(le16(&record, 30))).unwrap_or_default();
    large_fields(&mut entry, extra);
    Ok(Ok(entry))
}

/// Numbers of more than 32 bits are in an extra field, in this order, those only that need it.
fn large_fields(entry: &mut Entry, mut extra: &[u8]) {
    while extra.len() >= 4 {
        let (kind, length) = (le16(extra, 0), usize::from(le16(extra, 2)));
        let Some(mut field) = extra.get(4..4 + length) else { return };
        if kind == 1 {
            for number in [&mut entry.size, &mut entry.packed, &mut entry.header] {
                if *number == u64::from(u32::MAX) && field.len() >= 8 {
                    *number = le64(field, 0);
                    field = &field[8..];
                }
            }
        }
        extra = &extra[4 + length..];
    }
}
