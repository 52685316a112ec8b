//! What a host needs to know to run a guest, and what it says about one.

use std::collections::BTreeSet;

use base::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::Secret;

/// The wanted state of one guest. A document with a lower generation than one already stored is ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: String,
    pub generation: u64,
    /// What users called it; used in logs and alarms only.
    pub name: String,
    pub project_id: String,
    pub power: Power,
    /// Raised by one for each wanted restart; a start of the guest's process catches up with it. Raise it with
    /// a wanted start too: it also ends the state of a guest that switched itself off or was given up.
    pub boot: u64,
    /// How the restart that `boot` asks for is made, and how long a guest may take to shut itself down.
    pub restart: Restart,
    pub shutdown_seconds: u32,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub machine: Machine,
    pub disks: Vec<Disk>,
    /// Disks that are not the guest's now but may be again: what a resize or a rescue goes back to. Disk files that
    /// neither list names are removed when the guest's process next starts.
    #[serde(default)]
    pub kept: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub metadata: Metadata,
    pub recovery: Recovery,
    /// Copies of disks to be had; made once, kept as long as they are named here.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// The guest goes from one host to another while it runs; both have its document meanwhile.
    #[serde(default)]
    pub moving: Option<Moving>,
    /// Whether it has a port for its heartbeat (`sw:wrs:guest:heartbeat`).
    #[serde(default)]
    pub heartbeat: bool,
    /// Whether it has a port for messages of its group (`sw:wrs:srv_grp_messaging`).
    #[serde(default)]
    pub messaging: bool,
    /// It has processors for itself (`hw:cpu_policy=dedicated`).
    #[serde(default)]
    pub dedicated: Option<Dedicated>,
}

/// How a guest has processors for itself: one for each vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedicated {
    /// vCPUs that the guest does without: they have none, and are where vCPU 0 is.
    pub offline: BTreeSet<u32>,
}

/// What the guest should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    Running,
    Paused,
    /// Its memory on the host's disk and no process; running again it goes on where it was.
    Suspended,
    Stopped,
    /// Process, disks and every trace removed; the host reports `Absent` and then forgets the document.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Ask the guest (ACPI), then reset after `shutdown_seconds`.
    Soft,
    /// A new process.
    #[default]
    Hard,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// QEMU machine type: `q35` or `pc`.
    pub kind: String,
    pub firmware: Firmware,
    /// QEMU processor model; empty: the best the accelerator gives.
    pub cpu_model: String,
    pub watchdog: Watchdog,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { kind: "q35".into(), firmware: Firmware::Bios, cpu_model: String::new(), watchdog: Watchdog::None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

/// Action of the guest's watchdog device (`hw:watchdog_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watchdog {
    #[default]
    None,
    Reset,
    Poweroff,
    Pause,
}

/// A disk of the guest, in the order of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The device's name: `root`, `ephemeral0`, `swap`, `rescue`.
    pub name: String,
    /// Raised when the disk is to be a new one, see [`Disk::file`].
    #[serde(default)]
    pub revision: u32,
    /// The file a new one begins as a copy of, so that the old one is there to go back to. It has the same source.
    #[serde(default)]
    pub copy_of: Option<String>,
    /// Virtual size; an image is grown to it, never cut.
    pub bytes: u64,
    pub source: DiskSource,
    pub boot_index: Option<u32>,
    /// Serial number the guest sees.
    pub serial: String,
    /// The guest sees a CD-ROM; hosts of earlier releases show it a disk.
    #[serde(default)]
    pub cdrom: bool,
}

impl Disk {
    /// File name under the instance's directory, without suffix.
    pub fn file(&self) -> String {
        match self.revision {
            0 => self.name.clone(),
            revision => format!("{}-{revision}", self.name),
        }
    }
}

/// A copy of a disk as it is at some moment after it is first wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    /// Name of the disk.
    pub disk: String,
}

/// A guest on its way between two hosts, as the document of either says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The migration. What a host has done for one says nothing of another.
    pub id: String,
    pub tls: MovingTls,
    pub way: Way,
}

/// What the two processes know each other by, in PEM: an authority that this migration alone has, and what it has signed for this
/// end. The certificate of the host that the guest goes to is for the name [`MovingTls::name`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovingTls {
    pub name: String,
    pub authority: String,
    pub certificate: String,
    pub key: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It comes here: a process waits for it, its devices in these slots. Nothing of it runs here before all of it has come.
    Here { slots: serde_json::Value },
    /// It goes to where such a process waits. Until the host has said [`Stage::Left`] the guest is here and runs; from then on it
    /// does not run here again before a document without `moving` says so.
    Away {
        doors: Doors,
        /// How long it may stand still at the end, in milliseconds.
        downtime: u32,
        /// It stands still from now on: so the rest of its memory is soon there.
        force: bool,
        /// It stays after all, unless it has left.
        stop: bool,
    },
}

/// Where a process waits for a guest: for its memory, and for its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    pub address: String,
    pub memory: u16,
    pub disks: u16,
}

/// How far a guest is on its way, as its host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovingStatus {
    /// See [`Moving::id`].
    pub id: String,
    pub stage: Stage,
    pub memory: Amount,
    pub disks: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Here: it can come.
    Awaited(Doors),
    /// Away: under way, and running here yet.
    Going,
    /// Away: it has stopped here for good; whether it runs there, only the other host knows.
    Left,
    /// Here: all of it has come.
    Arrived,
    /// It came to nothing: the guest is where it was. On the host that it should have come to nothing has run.
    Failed(String),
}

/// Bytes on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub total: u64,
    pub done: u64,
    pub left: u64,
}

/// What came of a wanted copy: its file is whole (`error` is none), or will not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    pub id: String,
    pub bytes: u64,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSource {
    /// A writable overlay over the cached image with this SHA-256; `format` is `raw` or `qcow2`.
    Image {
        sha256: String,
        format: String,
    },
    Blank,
    /// A volume of this host, made from its own document; size and name of the disk mean nothing then. May come and go
    /// while the guest runs.
    Volume {
        id: String,
        read_only: bool,
        /// Its files are where other hosts see them too: a guest that goes to another host finds it there.
        #[serde(default)]
        stored: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The port; its tap is made by the switch from the network document.
    pub port_id: String,
    pub mac: String,
    pub mtu: u32,
    /// `virtio`, `e1000`, `e1000e`.
    pub model: String,
}

/// Name of the tap of a port: `tap` and the port id's first 11 characters, as OpenStack does.
pub fn tap_name(port_id: &str) -> String {
    format!("tap{}", base::id::short(port_id, 11))
}

/// What the guest may ask the metadata address or read from its config drive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// OpenStack's `meta_data.json`.
    pub meta_data: Value,
    /// OpenStack's `network_data.json`.
    pub network_data: Value,
    /// OpenStack's `vendor_data.json`.
    pub vendor_data: Value,
    /// User data, decoded; base64 here so that any bytes survive.
    pub user_data_base64: Option<String>,
    /// The EC2-style tree: path below `/latest/meta-data/` → text.
    pub ec2: std::collections::BTreeMap<String, String>,
    pub config_drive: bool,
    /// Files the user gave along, by content, as base64: `meta_data.json` names the `n`th `/content/000n`.
    #[serde(default)]
    pub files: Vec<String>,
    /// What the guest has posted as its password; empty: nothing yet.
    #[serde(default)]
    pub password: String,
}

/// How the host treats the guest's death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// `sw:wrs:auto_recovery`; false: a dead guest stays dead and is reported failed.
    pub auto: bool,
    /// 1 first .. 10 last: the order in which guests return after the machine rebooted.
    pub priority: u8,
    /// Restarts within `window_seconds` before the guest is held failed.
    pub attempts: u32,
    pub window_seconds: u32,
    /// It is started on another host when this one is lost: here it runs only as long as the host has its lease.
    #[serde(default)]
    pub elsewhere: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Recovery { auto: true, priority: 10, attempts: 5, window_seconds: 300, elsewhere: false }
    }
}

/// What a host observes of a guest. Sent whenever it changes, and for all guests when a session starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: String,
    /// Generation of the document that has been fully applied (0: none yet), or of the one `Failed` speaks of.
    pub generation: u64,
    /// Restarts done, see [`InstanceSpec::boot`].
    pub boot: u64,
    pub state: InstanceState,
    /// Process id and start of the present QEMU.
    pub pid: Option<i32>,
    pub started_at: Option<Timestamp>,
    /// Why `state` is `Failed`, or what holds up the work on the newest document.
    pub error: Option<String>,
    #[serde(default)]
    pub snapshots: Vec<SnapshotStatus>,
    /// Whether the host goes by [`Recovery::elsewhere`].
    #[serde(default)]
    pub elsewhere: bool,
    /// What has become of [`InstanceSpec::moving`].
    #[serde(default)]
    pub moving: Option<MovingStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Being made or started.
    Building,
    Running,
    Paused,
    Suspended,
    /// Off, as wanted or because the guest shut itself down.
    Stopped,
    /// Died and is being restarted.
    Recovering,
    /// The document could not be applied, or recovery gave up; `error` says why.
    Failed,
    /// Gone without trace.
    Absent,
}
