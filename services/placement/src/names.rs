//! Resource classes and traits: the standard ones and the custom ones users make.

use std::collections::HashSet;
use std::sync::LazyLock;

use base::{Error, Result};
use store::{Tx, params};

/// The standard resource classes, in the order of the os-resource-classes library.
pub const CLASSES: [&str; 21] = [
    "VCPU",
    "MEMORY_MB",
    "DISK_GB",
    "PCI_DEVICE",
    "SRIOV_NET_VF",
    "NUMA_SOCKET",
    "NUMA_CORE",
    "NUMA_THREAD",
    "NUMA_MEMORY_MB",
    "IPV4_ADDRESS",
    "VGPU",
    "VGPU_DISPLAY_HEAD",
    "NET_BW_EGR_KILOBIT_PER_SEC",
    "NET_BW_IGR_KILOBIT_PER_SEC",
    "PCPU",
    "MEM_ENCRYPTION_CONTEXT",
    "FPGA",
    "PGPU",
    "NET_PACKET_RATE_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
];

/// The standard traits, from the os-traits library.
pub static TRAITS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("traits.txt").lines().filter(|l| !l.is_empty()).collect());

static TRAIT_SET: LazyLock<HashSet<&'static str>> = LazyLock::new(|| TRAITS.iter().copied().collect());

/// `CUSTOM_` and capitals, digits, underscores; at most 255 characters.
pub fn is_custom(name: &str) -> bool {
    let rest = name.strip_prefix("CUSTOM_").unwrap_or_default();
    !rest.is_empty() && name.len() <= 255 && rest.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The form any class or trait name has.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// A UUID in the form that is stored: lower case with dashes.
pub fn canonical(text: &str) -> Option<String> {
    if base::id::is_uuid(text) { Some(uuid::Uuid::try_parse(text).ok()?.to_string()) } else { None }
}

pub fn class_exists_in(tx: &Tx, name: &str) -> Result<bool> {
    Ok(CLASSES.contains(&name) || tx.query_opt("SELECT 1 FROM custom_class WHERE name = ?1", params![name], |r| r.int(0))?.is_some())
}

pub fn trait_exists_in(tx: &Tx, name: &str) -> Result<bool> {
    Ok(TRAIT_SET.contains(name) || tx.query_opt("SELECT 1 FROM custom_trait WHERE name = ?1", params![name], |r| r.int(0))?.is_some())
}

/// 400 naming those that are no traits.
pub fn traits_check_in(tx: &Tx, names: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
    let mut unknown = Vec::new();
    for name in names {
        if !trait_exists_in(tx, name.as_ref())? {
            unknown.push(name.as_ref().to_string());
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(Error::invalid(format!("No such trait(s): {}.", unknown.join(", ")))) }
}

pub fn class_check_in(tx: &Tx, name: &str) -> Result<()> {
    if class_exists_in(tx, name)? {
        Ok(())
    } else {
        Err(Error::invalid(format!("Unknown resource class in inventory or allocation: {name}.")))
    }
}
