//! Files of the home: guests' directories, the image cache, the host's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base::Result;
use rpc::instance::{DiskSource, Firmware, InstanceSpec};

use crate::records::{Journal, Records, file_name, list};
use crate::{Kind, Report, Verdict, volumes};

const HOST_FILES: &[&str] = &[
    "host.json",
    "lock",
    "events.jsonl",
    "network.json",
    "network-wanted.json",
    "heartbeat.json",
    "guard.lock",
    "guard.leave",
    "lease",
    "accelerator.json",
    "probe.img",
    "probe.log",
    "instances",
    "volumes.json",
    "tunnel.key",
];
/// What the filesystem is probed with; one that a crash has left is written over.
const PROBE: &str = ".fs_test-";
/// What a guest's directory may hold besides disks.
const GUEST_FILES: &[&str] = &["console.log", "qemu.log", "qmp.sock", "console.sock", "agent.sock", "heartbeat.sock", "messaging.sock"];
/// The memory of a guest that is suspended.
const MEMORY: &str = "memory.img";

pub fn check(home: &Path, records: &Records, report: &mut Report) -> Result<()> {
    for path in list(&home.join("host"))? {
        let name = file_name(&path);
        if !HOST_FILES.contains(&name.as_str()) && !name.starts_with(PROBE) {
            report.add(Kind::File, format!("host/{name}"), Verdict::Stale, "a write that broke off, or not ours");
        }
    }
    for directory in list(&home.join("instances"))? {
        let id = file_name(&directory);
        let shown = format!("instances/{id}");
        match records.instances.get(&id) {
            Some((spec, journal)) => guest(&directory, &shown, spec, journal, report)?,
            None if records.knows(&id) => report.add(Kind::File, shown, Verdict::Kept, "its document cannot be read"),
            None => report.add(Kind::File, shown, Verdict::Stale, "no document wants it"),
        }
    }
    volumes::check(home, report)?;
    cache(home, records, report)
}

fn guest(directory: &Path, shown: &str, spec: &InstanceSpec, journal: &Journal, report: &mut Report) -> Result<()> {
    report.add(Kind::File, shown, Verdict::Live, format!("of guest {}", spec.name));
    let runs = journal.process.is_some();
    let own = || spec.disks.iter().filter(|d| !matches!(d.source, DiskSource::Volume { .. }));
    let disks: BTreeSet<String> = own().chain(&spec.kept).map(|d| format!("{}.qcow2", d.file())).collect();
    let snapshots: BTreeSet<String> = spec.snapshots.iter().map(|s| format!("snapshot-{}.img", s.id)).collect();
    for path in list(directory)? {
        let name = file_name(&path);
        let fits = disks.contains(&name)
            || snapshots.contains(&name)
            || GUEST_FILES.contains(&name.as_str())
            || (name == MEMORY && journal.memory)
            || (name == "config.iso" && spec.metadata.config_drive)
            || (name == "firmware.fd" && spec.machine.firmware == Firmware::Uefi);
        if !fits {
            report.add(Kind::File, format!("{shown}/{name}"), Verdict::Stale, "the guest's document names nothing that needs it");
        }
    }
    for disk in own() {
        let path = directory.join(format!("{}.qcow2", disk.file()));
        let shown = format!("{shown}/{}.qcow2", disk.file());
        match overlay(&path) {
            Ok(Some(below)) => match (&disk.source, below) {
                (DiskSource::Image { sha256, .. }, Some(below)) if file_name(&below) != *sha256 => {
                    report.add(
                        Kind::File,
                        shown,
                        Verdict::Contradictory,
                        format!("lies over {}, wanted is image {sha256}", below.display()),
                    );
                }
                (_, Some(below)) if !below.exists() => {
                    report.add(Kind::File, shown, Verdict::Contradictory, format!("lies over {}, which is gone", below.display()));
                }
                (DiskSource::Image { .. }, None) => report.add(Kind::File, shown, Verdict::Contradictory, "lies over no image"),
                _ => report.add(Kind::File, shown, Verdict::Live, "a disk of the guest"),
            },
            Ok(None) => report.add(Kind::File, shown, Verdict::Contradictory, "damaged: no qcow2 file"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if runs {
                    report.add(Kind::File, shown, Verdict::Contradictory, "the disk of a running guest is gone");
                }
            }
            Err(e) => report.add(Kind::File, shown, Verdict::Contradictory, format!("cannot be read: {e}")),
        }
    }
    Ok(())
}

/// What a qcow2 file lies over; none when it is no such file.
fn overlay(path: &Path) -> std::io::Result<Option<Option<PathBuf>>> {
    let file = File::open(path)?;
    let mut head = [0u8; 20];
    let mut have = 0;
    let mut reader = &file;
    while have < head.len() {
        match reader.read(&mut head[have..])? {
            0 => return Ok(None),
            n => have += n,
        }
    }
    if &head[..4] != b"QFI\xfb" {
        return Ok(None);
    }
    let at = u64::from_be_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
    let length = u32::from_be_bytes([head[16], head[17], head[18], head[19]]) as usize;
    if at == 0 || length > 1023 {
        return Ok((length <= 1023).then_some(None));
    }
    let mut name = vec![0u8; length];
    if file.read_exact_at(&mut name, at).is_err() {
        return Ok(None);
    }
    Ok(Some(Some(PathBuf::from(String::from_utf8_lossy(&name).into_owned()))))
}

fn cache(home: &Path, records: &Records, report: &mut Report) -> Result<()> {
    let disks = records.instances.values().flat_map(|(spec, _)| spec.disks.iter().chain(&spec.kept));
    let used: BTreeSet<&str> = disks
        .filter_map(|d| match &d.source {
            DiskSource::Image { sha256, .. } => Some(sha256.as_str()),
            DiskSource::Blank | DiskSource::Volume { .. } => None,
        })
        .collect();
    let is_hash = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    for path in list(&home.join("cache"))? {
        let name = file_name(&path);
        let shown = format!("cache/{name}");
        match name.strip_suffix(".used") {
            Some(hash) if is_hash(hash) => {
                if !home.join("cache").join(hash).exists() {
                    report.add(Kind::File, shown, Verdict::Stale, "marks the use of an image that is gone");
                }
            }
            _ if is_hash(&name) && used.contains(name.as_str()) => report.add(Kind::File, shown, Verdict::Live, "an image guests use"),
            _ if is_hash(&name) => report.add(Kind::File, shown, Verdict::Kept, "an image no guest uses now"),
            _ => report.add(Kind::File, shown, Verdict::Stale, "a fill that broke off, or not ours"),
        }
    }
    Ok(())
}
