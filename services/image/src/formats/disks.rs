//! The formats that a few fields tell: VHD, VDI, ISO 9660, partition tables, LUKS, QED.

use super::bytes::{be16, be32, be64, is_at, le16, le32, le64};
use super::{Format, Found};

/// QED is abandoned, and it can have a backing file: always refused.
pub fn qed(head: &[u8]) -> Option<Found> {
    is_at(head, 0, b"QED\0").then(|| Found::new(Format::Qed).broken("the format is no longer maintained"))
}

/// Dynamic disks have a copy of the footer at the beginning; fixed ones only the footer.
pub fn vhd(head: &[u8], tail: &[u8]) -> Option<Found> {
    let at_end = tail.len().checked_sub(512).map(|from| &tail[from..]);
    let footer = [Some(head), at_end].into_iter().flatten().find(|bytes| is_at(bytes, 0, b"conectix"))?;
    let mut found = Found::new(Format::Vhd);
    found.virtual_size = be64(footer, 48);
    match be32(footer, 60) {
        Some(2 | 3) => {}
        Some(4) => found.fault("it is a differencing disk, which has a parent"),
        Some(kind) => found.fault(format!("its disk type {kind} is not known")),
        None => found.fault("the header is cut off"),
    }
    Some(found)
}

pub fn vdi(head: &[u8]) -> Option<Found> {
    if !is_at(head, 0x40, &[0x7f, 0x10, 0xda, 0xbe]) {
        return None;
    }
    let mut found = Found::new(Format::Vdi);
    found.virtual_size = le64(head, 0x170);
    match le32(head, 0x4c) {
        Some(1 | 2) if found.virtual_size.is_some() => {}
        Some(3 | 4) => found.fault("it is a differencing image, which has a parent"),
        Some(kind) if found.virtual_size.is_some() => found.fault(format!("its image type {kind} is not known")),
        _ => found.fault("the header is cut off"),
    }
    Some(found)
}

/// ISO 9660, and UDF, which stands where ISO 9660 does. Only a primary volume descriptor has a size.
pub fn iso(head: &[u8]) -> Option<Found> {
    const DESCRIPTOR: usize = 0x8000;
    const PRIMARY: u8 = 1;
    if ![b"CD001", b"NSR02", b"NSR03"].iter().any(|name| is_at(head, DESCRIPTOR + 1, *name)) {
        return None;
    }
    let mut found = Found::new(Format::Iso);
    if head[DESCRIPTOR] != PRIMARY {
        return Some(found);
    }
    let blocks = le32(head, DESCRIPTOR + 80).map(u64::from);
    let block = le16(head, DESCRIPTOR + 128).map(u64::from);
    found.virtual_size = blocks.zip(block).map(|(blocks, block)| blocks * block);
    Some(found)
}

/// A master boot record with a partition in it (the protective one of a GPT too).
pub fn gpt(head: &[u8], size: u64) -> Option<Found> {
    if !is_at(head, 510, &[0x55, 0xaa]) {
        return None;
    }
    let entries = (0..4).filter_map(|i| head.get(446 + 16 * i..462 + 16 * i));
    let mut used = 0;
    for entry in entries {
        // Boot flag, then type: a boot sector of a file system has code here, which is no partition.
        if !matches!(entry[0], 0 | 0x80) {
            return None;
        }
        used += usize::from(entry[4] != 0);
    }
    (used > 0).then(|| Found { virtual_size: Some(size), ..Found::new(Format::Gpt) })
}

pub fn luks(head: &[u8], size: u64) -> Option<Found> {
    if !is_at(head, 0, b"LUKS\xba\xbe") {
        return None;
    }
    let mut found = Found::new(Format::Luks);
    match be16(head, 6) {
        Some(1) => found.virtual_size = be32(head, 104).and_then(|sectors| size.checked_sub(u64::from(sectors) * 512)),
        Some(version) => found.fault(format!("version {version} is not known to QEMU")),
        None => found.fault("the header is cut off"),
    }
    Some(found)
}
