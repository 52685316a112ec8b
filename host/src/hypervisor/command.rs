//! The QEMU command line of a guest. Pure: everything it names is a descriptor or was checked before.

use base::{Error, Result};
use rpc::instance::{DiskSource, Firmware, InstanceSpec, Nic, Watchdog};
use serde_json::{Value, json};

use super::{card_name, slotted, volumes};
use crate::documents::Slots;

/// Free PCIe slots for volumes and network cards that are plugged in later.
const SPARE_SLOTS: usize = 12;
/// What becomes of a guest whose disk cannot be read or written: it stops, and goes on from there when it can. An error that reached it
/// would end its filesystems, and be no longer there to be seen when the host's disk is well again.
pub const ON_ERROR: &str = "stop";
/// Root ports share a slot of the root bus by eights.
const FIRST_PORT_SLOT: u32 = 4;

/// Everything that is open for the guest, by the number the process inherits it under.
#[derive(Clone, Debug, Default)]
pub struct Descriptors {
    pub monitor: i32,
    pub console: i32,
    pub console_log: i32,
    pub agent: i32,
    pub heartbeat: Option<i32>,
    pub messaging: Option<i32>,
    /// In the order of the spec.
    pub disks: Vec<DiskFiles>,
    pub taps: Vec<i32>,
    pub config_drive: Option<i32>,
    /// The saved memory the guest goes on from.
    pub memory: Option<i32>,
    /// The guest comes from another host.
    pub incoming: bool,
    pub firmware: Option<FirmwareFiles>,
}

#[derive(Clone, Debug)]
pub enum DiskFiles {
    /// A qcow2 overlay, and what it lies over.
    Overlay {
        writable: i32,
        readable: i32,
        /// Descriptor and format of the image.
        backing: Option<(i32, String)>,
    },
    /// The layers of a volume, the uppermost first.
    Volume(Vec<LayerFile>),
}

#[derive(Clone, Debug)]
pub struct LayerFile {
    pub node: String,
    pub format: String,
    pub descriptors: Vec<i32>,
}

#[derive(Clone, Debug)]
pub struct FirmwareFiles {
    pub code: i32,
    pub variables_writable: i32,
    pub variables_readable: i32,
}

/// Collects descriptors into sets, which is how QEMU opens by number what it thinks are files.
#[derive(Default)]
struct Sets {
    arguments: Vec<String>,
    count: usize,
}

impl Sets {
    fn add(&mut self, descriptors: &[i32]) -> String {
        self.add_named(descriptors, "")
    }

    /// With a word by which the set is found again.
    fn add_named(&mut self, descriptors: &[i32], word: &str) -> String {
        self.count += 1;
        let opaque = if word.is_empty() { String::new() } else { format!(",opaque={word}") };
        for fd in descriptors {
            self.arguments.push("-add-fd".into());
            self.arguments.push(format!("set={},fd={fd}{opaque}", self.count));
        }
        format!("/dev/fdset/{}", self.count)
    }
}

/// Checks what a document may put into names and options, so that nothing else has to.
pub fn check(spec: &InstanceSpec) -> Result<()> {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !base::id::is_uuid(&spec.id) {
        return Err(Error::invalid("instance: the id is no UUID"));
    }
    if !matches!(spec.machine.kind.as_str(), "q35" | "pc") {
        return Err(Error::invalid(format!("instance {}: machine type `{}` is not supported", spec.id, spec.machine.kind)));
    }
    if !spec.machine.cpu_model.is_empty() && !word(&spec.machine.cpu_model) {
        return Err(Error::invalid(format!("instance {}: bad processor model", spec.id)));
    }
    if spec.vcpus == 0 || spec.vcpus > 255 || spec.memory_mib == 0 {
        return Err(Error::invalid(format!("instance {}: bad number of processors or amount of memory", spec.id)));
    }
    if spec.dedicated.iter().flat_map(|d| &d.offline).any(|vcpu| *vcpu == 0 || *vcpu >= spec.vcpus) {
        return Err(Error::invalid(format!("instance {}: bad vCPUs to do without", spec.id)));
    }
    for disk in spec.disks.iter().chain(&spec.kept) {
        if !word(&disk.name) || disk.name.starts_with('.') || disk.serial.len() > 36 {
            return Err(Error::invalid(format!("instance {}: bad disk `{}`", spec.id, disk.name)));
        }
        if matches!(&disk.source, DiskSource::Volume { id, .. } if !base::id::is_uuid(id)) {
            return Err(Error::invalid(format!("instance {}: a volume's id is no UUID", spec.id)));
        }
        if disk.copy_of.as_deref().is_some_and(|file| !word(file) || file.starts_with('.')) {
            return Err(Error::invalid(format!("instance {}: bad origin of disk `{}`", spec.id, disk.name)));
        }
    }
    if spec.snapshots.iter().any(|s| !base::id::is_uuid(&s.id) || !spec.disks.iter().any(|d| d.name == s.disk)) {
        return Err(Error::invalid(format!("instance {}: bad copy of a disk", spec.id)));
    }
    for nic in &spec.nics {
        let mac: Vec<&str> = nic.mac.split(':').collect();
        if mac.len() != 6 || mac.iter().any(|b| b.len() != 2 || !b.bytes().all(|c| c.is_ascii_hexdigit())) {
            return Err(Error::invalid(format!("instance {}: bad MAC address `{}`", spec.id, nic.mac)));
        }
        nic_driver(nic)?;
    }
    Ok(())
}

/// The slots of a process that starts afresh.
pub fn slots(spec: &InstanceSpec) -> Slots {
    let devices = slotted(spec);
    let count = u32::try_from(devices.len() + SPARE_SLOTS).unwrap_or(u32::MAX);
    let mut slots = Slots { count, heartbeat: spec.heartbeat, messaging: spec.messaging, ..Slots::default() };
    for device in devices {
        slots.take(&device);
    }
    slots
}

/// Where a device in this slot is put; nothing on a machine without slots, whose one bus finds a place by itself.
pub fn bus(kind: &str, slot: u32) -> Option<String> {
    (kind == "q35").then(|| format!("port{slot}"))
}

/// The front of a card, on the command line or plugged in.
pub fn card(nic: &Nic) -> Result<Value> {
    let (driver, name) = (nic_driver(nic)?, card_name(&nic.port_id));
    let mut front = json!({"driver": driver, "netdev": format!("net-{name}"), "id": name, "mac": nic.mac, "romfile": ""});
    if driver == "virtio-net-pci" && nic.mtu > 0 {
        front["host_mtu"] = nic.mtu.into();
    }
    Ok(front)
}

pub fn nic_driver(nic: &Nic) -> Result<&'static str> {
    match nic.model.as_str() {
        "" | "virtio" => Ok("virtio-net-pci"),
        "e1000" => Ok("e1000"),
        "e1000e" => Ok("e1000e"),
        other => Err(Error::invalid(format!("network card `{other}` is not supported"))),
    }
}

/// The translation buffer of an emulated processor: large ones cost memory that idle guests never give back.
fn translation_buffer_mib(memory_mib: u64) -> u64 {
    (memory_mib / 4).clamp(32, 512)
}

/// What an emulated guest has besides its memory. While a guest moves QEMU collects which pages it has written. For memory that is a multiple
/// of 256 KiB it does so by a shortcut which (before QEMU 9.0) forgets to tell the emulated processors that they must mark those pages again:
/// what they write next is not sent, and the guest goes on with memory that is partly old. Eight KiB more, the least a board takes, and it goes
/// page by page. KVM is told in another way.
const ODD_KIB: u64 = 8;

/// The arguments, without the program's name.
pub fn arguments(spec: &InstanceSpec, accelerator: &str, open: &Descriptors, slots: &Slots) -> Result<Vec<String>> {
    let mut sets = Sets::default();
    let mut args: Vec<String> = Vec::with_capacity(128);
    let mut add = |option: &str, value: String| args.extend([option.to_string(), value]);
    let q35 = spec.machine.kind == "q35";

    add("-name", format!("guest=sturnus-{},debug-threads=on", spec.id));
    add("-uuid", spec.id.clone());
    add(
        "-smbios",
        format!(
            "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova,version={},serial={},family=Virtual Machine",
            env!("CARGO_PKG_VERSION"),
            spec.id
        ),
    );
    add("-machine", format!("{},usb=off,dump-guest-core=off,hpet=off,graphics=off", spec.machine.kind));
    match accelerator {
        "kvm" => add("-accel", "kvm".into()),
        _ => add("-accel", format!("tcg,thread=multi,tb-size={}", translation_buffer_mib(spec.memory_mib))),
    }
    let model = match (spec.machine.cpu_model.as_str(), accelerator) {
        ("", "kvm") => "host",
        ("", _) => "max",
        (model, _) => model,
    };
    add("-cpu", model.into());
    let odd = if accelerator == "kvm" { 0 } else { ODD_KIB };
    add("-m", format!("size={}K", spec.memory_mib * 1024 + odd));
    add("-smp", format!("{0},sockets={0},cores=1,threads=1", spec.vcpus));
    add("-rtc", "base=utc,driftfix=slew".into());
    add("-display", "none".into());
    add("-vga", "none".into());
    // A VNC server that listens nowhere: its clients are handed to it.
    add("-vnc", "none".into());
    add("-boot", "strict=on".into());
    // Suspended guests are of no use to anyone: nothing would wake them.
    let bridge = if q35 { "ICH9-LPC" } else { "PIIX4_PM" };
    add("-global", format!("{bridge}.disable_s3=1"));
    add("-global", format!("{bridge}.disable_s4=1"));
    // A guest that ends or panics leaves its process waiting, so that nobody has to guess later what happened.
    // The watchdog's poweroff is made of a pause for the same reason.
    let watchdog = match spec.machine.watchdog {
        Watchdog::None => "none",
        Watchdog::Reset => "reset",
        Watchdog::Poweroff | Watchdog::Pause => "pause",
    };
    add("-action", format!("reboot=reset,shutdown=pause,panic=pause,watchdog={watchdog}"));
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    add("-msg", "timestamp=on".into());

    add("-chardev", format!("socket,id=monitor,fd={},server=on,wait=off", open.monitor));
    add("-mon", "chardev=monitor,mode=control".into());
    let log = sets.add(&[open.console_log]);
    add("-chardev", format!("socket,id=console,fd={},server=on,wait=off,logfile={log},logappend=on", open.console));
    add("-device", json!({"driver": "isa-serial", "id": "serial0", "chardev": "console", "index": 0}).to_string());

    let mut device = |value: Value| add("-device", value.to_string());
    // Root ports: one for each disk and card, so that any of them can be taken out later, and some to spare.
    if q35 {
        for port in 0..slots.count {
            let function = port % 8;
            // Nothing in a slot needs ports of the old kind, of which there are few: a bridge takes 4096 of 65536 unless told.
            device(json!({
                "driver": "pcie-root-port", "id": format!("port{port}"), "bus": "pcie.0", "chassis": port + 1, "port": port + 16,
                "addr": format!("0x{:x}.{function}", FIRST_PORT_SLOT + port / 8), "multifunction": function == 0, "io-reserve": 0,
            }));
        }
    }
    let slot = |mut value: Value| {
        let name = value.get("id").and_then(Value::as_str).unwrap_or_default();
        let bus = slots.taken.get(name).and_then(|slot| bus(&spec.machine.kind, *slot));
        if let (Some(bus), Some(map)) = (bus, value.as_object_mut()) {
            map.insert("bus".into(), bus.into());
        }
        value
    };

    if let Some(firmware) = &open.firmware {
        let code = sets.add(&[firmware.code]);
        let variables = sets.add(&[firmware.variables_writable, firmware.variables_readable]);
        add("-blockdev", json!({"driver": "file", "filename": code, "node-name": "firmware-code", "read-only": true}).to_string());
        add("-blockdev", json!({"driver": "file", "filename": variables, "node-name": "firmware-variables"}).to_string());
        add("-machine", "pflash0=firmware-code,pflash1=firmware-variables".into());
    } else if spec.machine.firmware == Firmware::Uefi {
        return Err(Error::internal("a UEFI guest without firmware files"));
    }

    let mut cdroms = 0;
    for (disk, files) in spec.disks.iter().zip(&open.disks) {
        let (writable, readable, backing) = match (files, &disk.source) {
            (DiskFiles::Overlay { writable, readable, backing }, _) => (writable, readable, backing),
            (DiskFiles::Volume(layers), DiskSource::Volume { id, read_only, .. }) => {
                let opened: Vec<volumes::Opened> =
                    layers.iter().map(|l| (l.node.clone(), l.format.clone(), sets.add_named(&l.descriptors, &l.node))).collect();
                for node in volumes::nodes(&opened, *read_only) {
                    add("-blockdev", node.to_string());
                }
                let Some(head) = opened.first() else { return Err(Error::internal("a volume without layers")) };
                add("-device", slot(volumes::front(id, head, disk.boot_index)).to_string());
                continue;
            }
            (DiskFiles::Volume(_), _) => return Err(Error::internal("files of a volume for a disk that is none")),
        };
        let node = format!("disk-{}", disk.name);
        let mut overlay = json!({"driver": "qcow2", "node-name": node, "file": format!("{node}-file"), "discard": "unmap"});
        if let Some((fd, format)) = backing {
            let base = sets.add(&[*fd]);
            add(
                "-blockdev",
                json!({"driver": "file", "filename": base, "node-name": format!("{node}-base-file"), "read-only": true}).to_string(),
            );
            let mut below =
                json!({"driver": format, "node-name": format!("{node}-base"), "file": format!("{node}-base-file"), "read-only": true});
            if format == "qcow2" {
                // An image never leads to further files, whatever its header says.
                below["backing"] = Value::Null;
            }
            add("-blockdev", below.to_string());
            overlay["backing"] = format!("{node}-base").into();
        } else {
            overlay["backing"] = Value::Null;
        }
        let file = sets.add(&[*writable, *readable]);
        add("-blockdev", json!({"driver": "file", "filename": file, "node-name": format!("{node}-file"), "discard": "unmap"}).to_string());
        add("-blockdev", overlay.to_string());
        let mut front = json!({"driver": "virtio-blk-pci", "id": disk.name, "drive": node, "werror": ON_ERROR, "rerror": ON_ERROR});
        if open.incoming {
            // In the moment it begins to run its old process has its last word on the disk behind it, but is still connected to it.
            front["share-rw"] = true.into();
        }
        if let Some(index) = disk.boot_index {
            front["bootindex"] = index.into();
        }
        if !disk.serial.is_empty() {
            // virtio-blk has room for twenty bytes.
            front["serial"] = base::id::short(&disk.serial, 20.min(disk.serial.len())).into();
        }
        if disk.cdrom {
            // Every machine has such buses of its own, and nothing else is on them.
            (front["driver"], front["bus"]) = ("ide-cd".into(), format!("ide.{cdroms}").into());
            cdroms += 1;
            add("-device", front.to_string());
            continue;
        }
        add("-device", slot(front).to_string());
    }
    for (nic, fd) in spec.nics.iter().zip(&open.taps) {
        add("-netdev", format!("tap,id=net-{},fd={fd}", card_name(&nic.port_id)));
        add("-device", slot(card(nic)?).to_string());
    }
    if let Some(fd) = open.config_drive {
        let file = sets.add(&[fd]);
        add("-blockdev", json!({"driver": "file", "filename": file, "node-name": "config-file", "read-only": true}).to_string());
        add("-blockdev", json!({"driver": "raw", "node-name": "config", "file": "config-file", "read-only": true}).to_string());
        add("-device", slot(json!({"driver": "virtio-blk-pci", "id": "config-drive", "drive": "config"})).to_string());
    }

    // Devices that are never unplugged sit on the root bus.
    let mut device = |value: Value| add("-device", value.to_string());
    device(json!({"driver": "virtio-serial-pci", "id": "channels"}));
    add("-chardev", format!("socket,id=agent,fd={},server=on,wait=off", open.agent));
    let mut device = |value: Value| add("-device", value.to_string());
    device(json!({"driver": "virtserialport", "bus": "channels.0", "nr": 1, "chardev": "agent", "name": "org.qemu.guest_agent.0"}));
    if let Some(fd) = open.heartbeat {
        add("-chardev", format!("socket,id=heartbeat,fd={fd},server=on,wait=off"));
        let port = json!({"driver": "virtserialport", "bus": "channels.0", "nr": 2, "chardev": "heartbeat", "name": guest::PORT});
        add("-device", port.to_string());
    }
    if let Some(fd) = open.messaging {
        add("-chardev", format!("socket,id=messaging,fd={fd},server=on,wait=off"));
        let name = guest::messaging::PORT;
        let port = json!({"driver": "virtserialport", "bus": "channels.0", "nr": 3, "chardev": "messaging", "name": name});
        add("-device", port.to_string());
    }
    add("-object", json!({"qom-type": "rng-random", "id": "rng", "filename": "/dev/urandom"}).to_string());
    let mut device = |value: Value| add("-device", value.to_string());
    device(json!({"driver": "virtio-rng-pci", "rng": "rng"}));
    device(json!({"driver": "virtio-balloon-pci", "id": "balloon", "free-page-reporting": true, "deflate-on-oom": true}));
    device(json!({"driver": "qemu-xhci", "id": "usb"}));
    device(json!({"driver": "usb-tablet", "bus": "usb.0"}));
    device(json!({"driver": "VGA", "id": "video", "vgamem_mb": 16}));
    if q35 {
        device(json!({"driver": "pvpanic-pci"}));
    } else {
        device(json!({"driver": "pvpanic"}));
    }
    if spec.machine.watchdog != Watchdog::None {
        device(json!({"driver": "i6300esb", "id": "watchdog"}));
    }

    if let Some(fd) = open.memory {
        add("-incoming", format!("fd:{fd}"));
        args.push("-S".into());
    } else if open.incoming {
        args.extend(["-incoming".to_string(), "defer".into()]);
    }

    let mut all = vec!["-nodefaults".to_string(), "-no-user-config".to_string()];
    all.extend(sets.arguments);
    all.extend(args);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn open() -> Descriptors {
        Descriptors {
            monitor: 10,
            console: 11,
            console_log: 12,
            agent: 13,
            disks: vec![DiskFiles::Overlay { writable: 14, readable: 15, backing: Some((16, "qcow2".into())) }],
            ..Default::default()
        }
    }

    #[test]
    fn an_image_never_leads_to_other_files() {
        let args = arguments(&spec(), "tcg", &open(), &slots(&spec())).unwrap();
        let base = args.iter().find(|a| a.contains("\"disk-root-base\"") && a.contains("qcow2")).unwrap();
        assert!(base.contains("\"backing\":null"), "{base}");
        assert!(!args.iter().any(|a| a.contains("/home") || a.contains("/var/lib")), "the process gets descriptors, no paths");
    }

    #[test]
    fn memory_of_emulated_guests_is_sent_page_by_page() {
        let memory = |accelerator: &str| {
            let args = arguments(&spec(), accelerator, &open(), &slots(&spec())).unwrap();
            let at = args.iter().position(|a| a == "-m").unwrap();
            args[at + 1].strip_prefix("size=").unwrap().strip_suffix('K').unwrap().parse::<u64>().unwrap()
        };
        let mib = spec().memory_mib;
        assert_eq!(memory("kvm"), mib * 1024);
        assert!(memory("tcg") % 256 != 0 && memory("tcg") - mib * 1024 == 8);
    }

    #[test]
    fn discs_are_in_drives_of_their_own() {
        for kind in ["q35", "pc"] {
            let mut spec = spec();
            spec.machine.kind = kind.into();
            spec.disks[0].cdrom = true;
            let args = arguments(&spec, "tcg", &open(), &slots(&spec)).unwrap();
            let drive = args.iter().find(|a| a.contains("\"drive\":\"disk-root\"")).unwrap();
            assert!(
                drive.contains("\"driver\":\"ide-cd\"") && drive.contains("\"bus\":\"ide.0\"") && drive.contains("bootindex"),
                "{drive}"
            );
        }
    }

    #[test]
    fn errors_of_disks_do_not_reach_the_guest() {
        let args = arguments(&spec(), "tcg", &open(), &slots(&spec())).unwrap();
        let disk = args.iter().find(|a| a.contains("\"drive\":\"disk-root\"")).unwrap();
        assert!(disk.contains("\"werror\":\"stop\"") && disk.contains("\"rerror\":\"stop\""), "{disk}");
        let head = ("node".to_string(), "qcow2".to_string(), "file".to_string());
        let volume = volumes::front(&base::id::uuid(), &head, None);
        assert_eq!((&volume["werror"], &volume["rerror"]), (&json!("stop"), &json!("stop")));
    }

    #[test]
    fn heartbeat_and_messages_have_their_ports_where_they_are_wanted() {
        let mut spec = spec();
        let ports = |spec: &InstanceSpec| {
            let slots = slots(spec);
            let open = Descriptors { heartbeat: slots.heartbeat.then_some(17), messaging: slots.messaging.then_some(18), ..open() };
            let arguments = arguments(spec, "tcg", &open, &slots).unwrap();
            ["cgcs.heartbeat", "cgcs.messaging"].map(|port| arguments.iter().any(|a| a.contains(&format!("\"name\":\"{port}\""))))
        };
        assert_eq!(ports(&spec), [false, false]);
        spec.heartbeat = true;
        assert_eq!(ports(&spec), [true, false]);
        (spec.heartbeat, spec.messaging) = (false, true);
        assert_eq!(ports(&spec), [false, true]);
    }

    #[test]
    fn documents_cannot_smuggle_options() {
        let mut bad = spec();
        bad.disks[0].name = "../x".into();
        assert!(check(&bad).is_err());
        let mut bad = spec();
        bad.machine.cpu_model = "max,host-cache-info=on".into();
        assert!(check(&bad).is_err());
        let mut bad = spec();
        bad.id = "../../etc".into();
        assert!(check(&bad).is_err());
        let mut bad = spec();
        bad.nics = vec![Nic { port_id: base::id::uuid(), mac: "52:54:00:00:00:0".into(), mtu: 0, model: "virtio".into() }];
        assert!(check(&bad).is_err());
        let mut ok = spec();
        ok.disks[0].serial = "a,b\"c".into();
        check(&ok).unwrap();
        assert!(arguments(&ok, "tcg", &open(), &slots(&ok)).unwrap().iter().any(|a| a.contains("a,b\\\"c")), "JSON carries any serial");
    }
}
