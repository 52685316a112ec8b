//! VHDX: the region table in the head points to the metadata, which holds size and parent flag.

use super::bytes::{is_at, le16, le32, le64};
use super::{Format, Found};

/// Where the first region table is.
const TABLE: usize = 192 << 10;
const METADATA: [u8; 16] = [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
const FILE_PARAMETERS: [u8; 16] = [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const VIRTUAL_SIZE: [u8; 16] = [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
const HAS_PARENT: u32 = 1 << 1;
const MAX_ENTRIES: usize = 2047;

fn is_vhdx(head: &[u8]) -> bool {
    is_at(head, 0, b"vhdxfile")
}

/// Where the metadata region begins, when `head` is that of a VHDX file.
pub fn region(head: &[u8]) -> Option<u64> {
    if !is_vhdx(head) || !is_at(head, TABLE, b"regi") {
        return None;
    }
    let count = (le32(head, TABLE + 8)? as usize).min(MAX_ENTRIES);
    let entry = (0..count).map(|i| TABLE + 16 + 32 * i).find(|at| is_at(head, *at, &METADATA))?;
    le64(head, entry + 16)
}

pub fn inspect(head: &[u8], region: Option<&[u8]>) -> Option<Found> {
    if !is_vhdx(head) {
        return None;
    }
    let mut found = Found::new(Format::Vhdx);
    if region.and_then(|region| metadata(&mut found, region)).is_none() {
        found.fault("its metadata cannot be found");
    }
    Some(found)
}

fn metadata(found: &mut Found, region: &[u8]) -> Option<()> {
    if !is_at(region, 0, b"metadata") {
        return None;
    }
    let count = (le16(region, 10)? as usize).min(MAX_ENTRIES);
    let item = |guid: &[u8; 16]| {
        let entry = (0..count).map(|i| 32 + 32 * i).find(|at| is_at(region, *at, guid))?;
        le32(region, entry + 16).map(|offset| offset as usize)
    };
    let flags = le32(region, item(&FILE_PARAMETERS)?.checked_add(4)?)?;
    if flags & HAS_PARENT != 0 {
        found.fault("it has a parent");
    }
    found.virtual_size = Some(le64(region, item(&VIRTUAL_SIZE)?)?);
    Some(())
}
