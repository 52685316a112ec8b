//! VMDK: sparse files with an embedded descriptor are judged by it; bare descriptors are refused, as they name other files.

use super::bytes::{is_at, le32, le64};
use super::{Format, Found};

const SECTOR: u64 = 512;
/// QEMU looks for a parent in this range of every file, whatever its header says of where the descriptor is.
const DESCRIPTOR: u64 = SECTOR;
const PARENT_LENGTH: usize = 20 * 512;
/// Kinds of the markers around a footer.
const MARKER_END: u32 = 0;
const MARKER_FOOTER: u32 = 3;
/// In a stream-optimised file the header's real values are in a footer.
const AT_END: u64 = u64::MAX;

pub fn inspect(head: &[u8], tail: &[u8], size: u64) -> Option<Found> {
    if is_at(head, 0, b"KDMV") {
        let mut found = Found::new(Format::Vmdk);
        if sparse(&mut found, head, tail, size).is_none() {
            found.fault("the header is cut off");
        }
        return Some(found);
    }
    if is_at(head, 0, b"COWD") {
        return Some(Found::new(Format::Vmdk).broken("it is of the old ESX kind, whose extents are other files"));
    }
    is_descriptor(head).then(|| Found::new(Format::Vmdk).broken("it is a bare descriptor, which names other files"))
}

/// As QEMU probes: comments and empty lines, then `version=`.
fn is_descriptor(head: &[u8]) -> bool {
    let start = &head[..head.len().min(4096)];
    if is_at(start, 0, b"# Disk DescriptorFile") {
        return true;
    }
    let mut lines = start.split(|b| *b == b'\n').map(|line| line.trim_ascii());
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.is_some_and(|line| [&b"version=1"[..], b"version=2", b"version=3"].iter().any(|v| line.starts_with(v)))
}

struct Header {
    version: u32,
    capacity: u64,
    descriptor: u64,
    descriptor_sectors: u64,
    directory: u64,
}

fn header(bytes: &[u8]) -> Option<Header> {
    Some(Header {
        version: le32(bytes, 4)?,
        capacity: le64(bytes, 12)?,
        descriptor: le64(bytes, 28)?,
        descriptor_sectors: le64(bytes, 36)?,
        directory: le64(bytes, 56)?,
    })
}

fn sparse(found: &mut Found, head: &[u8], tail: &[u8], size: u64) -> Option<()> {
    let first = header(head)?;
    if !(1..=3).contains(&first.version) {
        found.fault(format!("version {} is not known", first.version));
    }
    let mut capacity = first.capacity;
    if first.directory == AT_END {
        let Some(footer) = footer(tail, size) else {
            found.fault("its footer is missing");
            return Some(());
        };
        let last = header(footer)?;
        if last.version != first.version
            || last.descriptor != first.descriptor
            || last.descriptor_sectors != first.descriptor_sectors
            || last.directory == AT_END
        {
            found.fault("its header and footer contradict each other");
        }
        if first.capacity != 0 && last.capacity != first.capacity {
            found.fault("its header and footer give different sizes");
        }
        capacity = last.capacity;
    }
    // With a capacity of zero QEMU would read the descriptor as one that names other files.
    if capacity == 0 || first.capacity == 0 {
        found.fault("its capacity is zero");
    }
    match capacity.checked_mul(SECTOR).filter(|size| i64::try_from(*size).is_ok()) {
        Some(size) => found.virtual_size = Some(size),
        None => found.fault("its capacity is out of range"),
    }
    let range = first.descriptor.checked_mul(SECTOR).zip(first.descriptor_sectors.checked_mul(SECTOR));
    let text = range
        .filter(|(start, length)| *start == DESCRIPTOR && *length > 0)
        .and_then(|(start, length)| head.get(usize::try_from(start).ok()?..usize::try_from(start.checked_add(length)?).ok()?));
    match text {
        Some(text) => descriptor(found, text),
        None => found.fault("its descriptor is not where it can be checked"),
    }
    if names_parent(head) {
        found.fault("it names a parent file");
    }
    Some(())
}

/// The last three sectors are a marker, the footer and a marker.
fn footer(tail: &[u8], size: u64) -> Option<&[u8]> {
    // QEMU counts from the end of the last sector, also where the file has only a part of it.
    if !size.is_multiple_of(SECTOR) {
        return None;
    }
    let last = &tail[tail.len().checked_sub(1536)?..];
    let marker = |at: usize, kind: u32| {
        let rest = last.get(at + 16..at + 512)?;
        (le32(last, at + 8)? == 0 && le32(last, at + 12)? == kind && rest.iter().all(|byte| *byte == 0)).then_some(())
    };
    marker(0, MARKER_FOOTER)?;
    marker(1024, MARKER_END)?;
    (is_at(last, 512, b"KDMV") && le64(last, 1024)? == 0).then(|| &last[512..1024])
}

/// Whether the word stands anywhere where QEMU looks for it: also in a comment, and behind the end of the descriptor.
fn names_parent(head: &[u8]) -> bool {
    const WORD: &[u8] = b"parentfilenamehint";
    let start = DESCRIPTOR as usize;
    let seen = head.get(start..head.len().min(start + PARENT_LENGTH)).unwrap_or_default();
    let text = seen.split(|byte| *byte == 0).next().unwrap_or_default();
    text.windows(WORD.len()).any(|part| part.eq_ignore_ascii_case(WORD))
}

fn descriptor(found: &mut Found, bytes: &[u8]) {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    let Some(text) = std::str::from_utf8(text).ok().filter(|text| text.is_ascii()) else {
        found.fault("its descriptor is no plain text");
        return;
    };
    if !text.trim_start().starts_with("# Disk DescriptorFile") {
        found.fault("its descriptor does not begin as one");
    }
    let mut kind = None;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        let word = line.split_whitespace().next().unwrap_or_default();
        let setting = line.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')));
        if ["RW", "RDONLY", "NOACCESS"].iter().any(|access| word.eq_ignore_ascii_case(access)) {
            extents += 1;
            if let Some(fault) = extent(line) {
                found.fault(fault);
            }
            continue;
        }
        match setting {
            Some((name, value)) if name == "createtype" => kind = Some(value.to_string()),
            Some((name, value)) if name == "parentcid" && !value.eq_ignore_ascii_case("ffffffff") => found.fault("it has a parent"),
            // `ddb.` and what else is said in one word; nobody knows what any other line might mean to whom.
            Some((name, _)) if !name.contains(char::is_whitespace) => {}
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => found.fault("a line of its descriptor is not understood"),
        }
    }
    match kind.as_deref() {
        Some("monolithicSparse" | "streamOptimized") => {}
        Some(other) => found.fault(format!("its type {other:?} is not allowed (monolithicSparse and streamOptimized are)")),
        None => found.fault("its descriptor has no createType"),
    }
    if extents != 1 {
        found.fault(format!("its descriptor has {extents} extents, one is allowed"));
    }
}

/// `RW 1234 SPARSE "name.vmdk"`: the name must be that of a file, nowhere else.
fn extent(line: &str) -> Option<String> {
    let mut words = line.splitn(4, char::is_whitespace);
    let (_, _, kind, name) = (words.next(), words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !kind.eq_ignore_ascii_case("SPARSE") {
        return Some(format!("an extent is of type {kind:?}, only SPARSE is allowed"));
    }
    name.contains(['/', '\\']).then(|| "an extent names a file elsewhere".to_string())
}
