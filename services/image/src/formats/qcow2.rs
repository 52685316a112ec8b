//! QCOW2, versions 2 and 3. Field offsets are those of QEMU's interoperability document.

use super::bytes::{be32, be64, is_at};
use super::{Format, Found};

/// QEMU opens no L1 table of more entries (32 MiB of them).
const MAX_L1_ENTRIES: u64 = 4 << 20;
const DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;
/// Dirty, corrupt, data file, compression type, extended L2 entries.
const KNOWN_FEATURES: u64 = 0x1f;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

pub fn inspect(head: &[u8], size: u64) -> Option<Found> {
    if !is_at(head, 0, b"QFI\xfb") {
        return None;
    }
    let mut found = Found::new(Format::Qcow2);
    let version = be32(head, 4);
    let Some(version @ (2 | 3)) = version else {
        return Some(found.broken(match version {
            Some(version) => format!("version {version} is not known"),
            None => "the header is cut off".into(),
        }));
    };
    if check(&mut found, head, size, version).is_none() {
        found.fault("the header is cut off");
    }
    Some(found)
}

fn check(found: &mut Found, head: &[u8], size: u64, version: u32) -> Option<()> {
    let backing = be64(head, 8)?;
    let cluster_bits = be32(head, 20)?;
    let virtual_size = be64(head, 24)?;
    let l1_entries = u64::from(be32(head, 36)?);
    let l1_offset = be64(head, 40)?;
    found.virtual_size = Some(virtual_size);
    if backing != 0 {
        found.fault("it has a backing file");
    }
    if be32(head, 32)? != 0 {
        found.fault("it is encrypted, and nobody here has its key");
    }
    let (features, header_length) = if version == 3 { (be64(head, 72)?, be32(head, 100)?) } else { (0, 72) };
    if features & DATA_FILE != 0 {
        found.fault("it has an external data file");
    }
    if features & !KNOWN_FEATURES != 0 {
        found.fault(format!("it has unknown incompatible features ({:#x})", features & !KNOWN_FEATURES));
    }
    if !(9..=21).contains(&cluster_bits) {
        found.fault(format!("its cluster size of 2^{cluster_bits} is out of range"));
        return Some(());
    }
    let cluster = 1u64 << cluster_bits;
    if version == 3 && (header_length < 104 || header_length % 8 != 0 || u64::from(header_length) > cluster) {
        found.fault(format!("its header length of {header_length} is out of range"));
        return Some(());
    }
    extensions(found, head, header_length as usize, cluster as usize)?;
    // One L2 table is one cluster of 8-byte (extended: 16-byte) entries, each for one cluster.
    let entry_bits = if features & EXTENDED_L2 != 0 { 4 } else { 3 };
    let per_l1_entry = 1u64 << (2 * cluster_bits - entry_bits);
    let needed = virtual_size.div_ceil(per_l1_entry);
    if l1_entries > MAX_L1_ENTRIES || needed > MAX_L1_ENTRIES || i64::try_from(virtual_size).is_err() {
        found.fault(format!("its virtual size of {virtual_size} bytes or its L1 table of {l1_entries} entries is too large"));
    } else if l1_entries < needed {
        found.fault("its L1 table is too small for its virtual size");
    } else if l1_entries > 0 && (l1_offset % cluster != 0 || l1_offset == 0 || l1_offset.saturating_add(l1_entries * 8) > size) {
        found.fault("its L1 table is not inside the file");
    }
    Some(())
}

/// Walks the header extensions of the first cluster: one of them may name a data file.
fn extensions(found: &mut Found, head: &[u8], start: usize, cluster: usize) -> Option<()> {
    let mut at = start;
    while at + 8 <= cluster.min(head.len()) {
        let (kind, length) = (be32(head, at)?, be32(head, at + 4)? as usize);
        if kind == 0 {
            return Some(());
        }
        if kind == EXTENSION_DATA_FILE {
            found.fault("it names an external data file");
        }
        let Some(next) = length.checked_next_multiple_of(8).and_then(|l| l.checked_add(at + 8)).filter(|next| *next <= cluster) else {
            found.fault("a header extension reaches beyond the header");
            return Some(());
        };
        at = next;
    }
    Some(())
}
