//! The document a host gets for a server: everything it needs to run the guest and to heal it alone.

use base::Result;
use network::NicInfo;
use std::time::Duration;

use rpc::instance::{
    Dedicated, Disk, DiskSource, Firmware, InstanceSpec, Machine, Metadata, Moving, MovingTls, Nic, Power, Recovery, Snapshot, Watchdog,
    Way,
};

use crate::cpus;
use crate::db::servers::{DiskRevisions, ImageFacts, Server};
use crate::flavors::Flavor;
use crate::metadata;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// How long a guest may take to shut itself down, unless its image says otherwise.
const SHUTDOWN_SECONDS: u32 = 60;

/// Limits on restarting a dying guest, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryLimits {
    pub attempts: u32,
    pub window_seconds: u32,
}

/// The document of a server as it stands. The same rows give the same document.
pub fn build(server: &Server, nics: &[NicInfo], limits: RecoveryLimits) -> Result<InstanceSpec> {
    let flavor = server.flavor()?;
    let (disks, kept) = disks(server)?;
    let nics: Vec<NicInfo> = nics.iter().filter(|nic| !server.doc.detaching.contains(&nic.port_id)).cloned().collect();
    Ok(InstanceSpec {
        id: server.id.clone(),
        generation: server.spec_generation,
        name: server.display_name.clone(),
        project_id: server.project_id.clone(),
        power: server.wanted,
        boot: server.boot,
        restart: server.doc.restart,
        shutdown_seconds: image(server, "os_shutdown_timeout").and_then(|t| t.parse().ok()).unwrap_or(SHUTDOWN_SECONDS),
        vcpus: flavor.vcpus,
        memory_mib: flavor.memory_mb,
        machine: machine(server),
        disks,
        kept,
        nics: nics.iter().map(|nic| self::nic(server, nic)).collect(),
        metadata: metadata::documents(server, &nics)?,
        recovery: recovery(server, limits),
        moving: None,
        heartbeat: heartbeat(server),
        messaging: messaging(server) || cpus::of_server(server).least.is_some(),
        dedicated: cpus::is_dedicated(server).then(|| Dedicated { offline: server.doc.offline.clone() }),
        snapshots: server.doc.snapshot.iter().map(|id| Snapshot { id: id.clone(), disk: "root".into() }).collect(),
    })
}

/// The document of a server that goes to another host while it runs, for this host: where it is, or where it goes.
pub fn moving(server: &Server, mut document: InstanceSpec, host_id: &str) -> InstanceSpec {
    let Some(live) = &server.doc.live else { return document };
    let here = live.dest == host_id;
    let end = if here { &live.server } else { &live.client };
    let tls = MovingTls {
        name: live.name.clone(),
        authority: live.authority.clone(),
        certificate: end.certificate.clone(),
        key: end.key.clone(),
    };
    let way = match (&live.doors, here) {
        (_, true) => Way::Here { slots: live.slots.clone() },
        (Some(doors), false) => Way::Away { doors: doors.clone(), downtime: live.downtime, force: live.force, stop: live.stop },
        // The other host is not ready.
        (None, false) => return document,
    };
    document.moving = Some(Moving { id: live.migration.clone(), tls, way });
    document
}

/// Limits on a live migration (VIM specification, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveLimits {
    /// None: it may take for ever.
    pub timeout: Option<Duration>,
    /// Milliseconds for which the guest may stand still.
    pub downtime: u32,
}

pub fn live_limits(server: &Server) -> LiveLimits {
    let timeouts = [
        extra(server, "hw:wrs:live_migration_timeout"),
        server.doc.metadata.get("hw:wrs:live_migration_timeout").map(String::as_str),
        image(server, "hw_wrs_live_migration_timeout"),
    ];
    // The flavor's word wins over the image's.
    limits(timeouts, [extra(server, "hw:wrs:live_migration_max_downtime"), image(server, "hw_wrs_live_migration_max_downtime")])
}

fn limits(timeouts: [Option<&str>; 3], downtimes: [Option<&str>; 2]) -> LiveLimits {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let given: Vec<u64> = timeouts.into_iter().flatten().filter_map(number).collect();
    let timeout = match given.iter().copied().filter(|seconds| *seconds > 0).min() {
        Some(seconds) => Some(seconds.clamp(120, 800)),
        None if given.is_empty() => Some(800),
        None => None,
    };
    let downtime = downtimes.into_iter().flatten().filter_map(number).find(|ms| *ms > 0).unwrap_or(500);
    // QEMU takes no more than 2000 seconds.
    LiveLimits { timeout: timeout.map(Duration::from_secs), downtime: u32::try_from(downtime.min(2_000_000)).unwrap_or(2_000_000) }
}

/// The document that makes a host remove every trace of a guest.
pub fn absent(server_id: &str, generation: u64) -> InstanceSpec {
    InstanceSpec {
        id: server_id.to_string(),
        generation,
        name: String::new(),
        project_id: String::new(),
        power: Power::Absent,
        boot: 0,
        restart: Default::default(),
        shutdown_seconds: 0,
        vcpus: 1,
        memory_mib: 1,
        machine: Machine::default(),
        disks: Vec::new(),
        kept: Vec::new(),
        nics: Vec::new(),
        metadata: Metadata::default(),
        recovery: Recovery { auto: false, ..Recovery::default() },
        snapshots: Vec::new(),
        moving: None,
        heartbeat: false,
        messaging: false,
        dedicated: None,
    }
}

fn image<'a>(server: &'a Server, property: &str) -> Option<&'a str> {
    server.doc.image.as_ref().and_then(|i| i.properties.get(property)).map(String::as_str)
}

fn extra<'a>(server: &'a Server, key: &str) -> Option<&'a str> {
    server.doc.flavor.as_ref().and_then(|f| f.doc.extra_specs.get(key)).map(String::as_str)
}

fn machine(server: &Server) -> Machine {
    let kind = match image(server, "hw_machine_type") {
        Some(kind) if kind == "pc" || kind.contains("i440fx") => "pc",
        _ => "q35",
    };
    // The image's wish wins over the flavor's.
    let action = image(server, "hw_watchdog_action").or_else(|| extra(server, "hw:watchdog_action"));
    Machine {
        kind: kind.into(),
        firmware: if image(server, "hw_firmware_type") == Some("uefi") { Firmware::Uefi } else { Firmware::Bios },
        cpu_model: extra(server, "hw:cpu_model").unwrap_or_default().to_string(),
        watchdog: match action {
            Some("reset") => Watchdog::Reset,
            Some("poweroff") => Watchdog::Poweroff,
            Some("pause") => Watchdog::Pause,
            _ => Watchdog::None,
        },
    }
}

/// The guest's disks, and those it may go back to.
fn disks(server: &Server) -> Result<(Vec<Disk>, Vec<Disk>)> {
    let doc = &server.doc;
    let mut disks = own_disks(server, server.flavor()?, &doc.disks, doc.ephemeral, doc.swap);
    let mut kept = match &doc.resize {
        Some(before) => own_disks(server, &before.flavor, &before.disks, before.ephemeral, before.swap),
        None => Vec::new(),
    };
    kept.retain(|old| !disks.iter().any(|disk| disk.file() == old.file()));
    if let Some(rescue) = &doc.rescue {
        for disk in &mut disks {
            disk.boot_index = None;
        }
        let bytes = rescue.image.virtual_size.unwrap_or(rescue.image.size);
        disks.insert(0, Disk { name: "rescue".into(), bytes, ..over_image(server, &rescue.image, rescue.revision) });
        disks[0].serial = serial(server, "rescue");
    }
    Ok((disks, kept))
}

/// Whether a server has disks of its own, beside its volumes.
pub fn has_disks(server: &Server) -> Result<bool> {
    Ok(!server.config_drive.is_empty() || !disks(server)?.0.is_empty())
}

fn serial(server: &Server, name: &str) -> String {
    format!("{}-{name}", base::id::short(&server.id, 8))
}

fn over_image(server: &Server, image: &ImageFacts, revision: u32) -> Disk {
    let (sha256, format) = image.content();
    Disk {
        name: "root".into(),
        revision,
        copy_of: None,
        bytes: image.virtual_size.unwrap_or(image.size),
        source: DiskSource::Image { sha256: sha256.into(), format: format.into() },
        boot_index: Some(0),
        serial: serial(server, "root"),
        cdrom: image.is_cdrom(),
    }
}

fn own_disks(server: &Server, flavor: &Flavor, revisions: &DiskRevisions, ephemeral: Option<u64>, swap: Option<u64>) -> Vec<Disk> {
    let mut disks = Vec::new();
    let file = |name: &str, revision: u32| if revision == 0 { name.to_string() } else { format!("{name}-{revision}") };
    // One that boots from a volume has the facts of its image, and no disk made of it.
    let image = server.doc.root_image.as_ref().or(server.doc.image.as_ref());
    if let Some(image) = image.filter(|i| !i.sha256.is_empty()) {
        let mut disk = over_image(server, image, revisions.root);
        // From the shelf it comes as a snapshot of what was in the drive.
        disk.cdrom = server.doc.image.as_ref().is_some_and(ImageFacts::is_cdrom);
        if !disk.cdrom {
            disk.bytes = disk.bytes.max(flavor.root_gb * GIB);
        }
        disk.copy_of = revisions.root_from.map(|from| file("root", from));
        disks.push(disk);
    }
    let blanks = [
        ("ephemeral0", ephemeral.unwrap_or(flavor.ephemeral_gb) * GIB, revisions.ephemeral, revisions.ephemeral_from),
        ("swap", swap.unwrap_or(flavor.swap_mb) * MIB, revisions.swap, None),
    ];
    for (name, bytes, revision, from) in blanks {
        if bytes > 0 {
            disks.push(Disk {
                name: name.into(),
                revision,
                copy_of: from.map(|from| file(name, from)),
                bytes,
                source: DiskSource::Blank,
                boot_index: None,
                serial: serial(server, name),
                cdrom: false,
            });
        }
    }
    disks
}

fn nic(server: &Server, info: &NicInfo) -> Nic {
    let model = image(server, "hw_vif_model").filter(|m| matches!(*m, "virtio" | "e1000" | "e1000e"));
    let own = Some(info.model.as_str()).filter(|m| matches!(*m, "virtio" | "e1000" | "e1000e"));
    Nic { port_id: info.port_id.clone(), mac: info.mac.clone(), mtu: info.mtu, model: model.or(own).unwrap_or("virtio").into() }
}

/// Whether the guest is to keep a heartbeat with its host, and is asked before anything is done with it.
pub fn heartbeat(server: &Server) -> bool {
    extra(server, "sw:wrs:guest:heartbeat").is_some_and(|word| word.eq_ignore_ascii_case("true"))
}

/// Whether the guest hears and says what goes on in its server group.
pub fn messaging(server: &Server) -> bool {
    extra(server, "sw:wrs:srv_grp_messaging").is_some_and(|word| word.eq_ignore_ascii_case("true"))
}

/// Whether the user wants the server left on its host when that is lost (`HA_Enabled`, as Masakari has it).
fn stays(server: &Server) -> bool {
    server.doc.metadata.get("HA_Enabled").is_some_and(|word| word.eq_ignore_ascii_case("false"))
}

/// The flavor's word wins over the image's; a recovery priority is the server's own, in its metadata.
pub fn recovery(server: &Server, limits: RecoveryLimits) -> Recovery {
    let auto = extra(server, "sw:wrs:auto_recovery").or_else(|| image(server, "sw_wrs_auto_recovery"));
    let priority = server.doc.metadata.get("sw:wrs:recovery_priority").and_then(|p| p.parse().ok()).filter(|p| (1..=10).contains(p));
    let auto = !auto.is_some_and(|word| word.eq_ignore_ascii_case("false"));
    Recovery {
        auto,
        priority: priority.unwrap_or(10),
        attempts: limits.attempts,
        window_seconds: limits.window_seconds,
        elsewhere: auto && !stays(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_timeout_counts_and_zero_alone_means_none() {
        let seconds = |places| limits(places, [None, None]).timeout.map(|t| t.as_secs());
        assert_eq!(seconds([None, None, None]), Some(800));
        assert_eq!(seconds([Some("0"), None, None]), None);
        assert_eq!(seconds([Some("0"), Some("300"), Some("200")]), Some(200));
        assert_eq!((seconds([Some("5"), None, None]), seconds([None, Some("9000"), None])), (Some(120), Some(800)));
        assert_eq!(seconds([Some("soon"), None, Some("-1")]), Some(800), "what is no number says nothing");
    }

    #[test]
    fn the_flavors_downtime_wins() {
        let milliseconds = |places| limits([None; 3], places).downtime;
        assert_eq!((milliseconds([None, None]), milliseconds([Some("0"), None])), (500, 500));
        assert_eq!((milliseconds([Some("100"), Some("900")]), milliseconds([None, Some("900")])), (100, 900));
        assert_eq!(milliseconds([Some("99999999999"), None]), 2_000_000);
    }
}
