//! Documents for tests.

use rpc::instance::{Disk, DiskSource, InstanceSpec, Machine, Metadata, Power, Recovery, Restart};

/// A small guest with one blank disk.
pub fn spec() -> InstanceSpec {
    InstanceSpec {
        id: base::id::uuid(),
        generation: 1,
        name: "vm".into(),
        project_id: base::id::hex(),
        power: Power::Running,
        boot: 0,
        restart: Restart::Hard,
        shutdown_seconds: 60,
        vcpus: 1,
        memory_mib: 128,
        machine: Machine::default(),
        disks: vec![Disk {
            name: "root".into(),
            revision: 0,
            copy_of: None,
            bytes: 1 << 30,
            source: DiskSource::Blank,
            boot_index: Some(0),
            serial: "root".into(),
            cdrom: false,
        }],
        kept: vec![],
        nics: vec![],
        metadata: Metadata::default(),
        recovery: Recovery::default(),
        snapshots: vec![],
        moving: None,
        heartbeat: false,
        messaging: false,
        dedicated: None,
    }
}
