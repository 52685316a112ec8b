//! The seam below the guests' reconcilers: what a guest's machine can be asked, whoever plays it.
//!
//! Implemented by [`qemu::Qemu`] and by [`crate::simulated::SimulatedHypervisor`]. Everything that decides
//! (restart, hold, give up) lies above it and is shared.

pub mod command;
mod consoles;
mod guest_agent;
mod moving;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod qmp;
mod spawn;
pub mod volumes;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Result, Timestamp};
use rpc::instance::{Amount, Disk, DiskSource, Doors, InstanceSpec, Moving, Nic, Snapshot};
use rpc::message::{DiskFile, DiskPiece};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::Cache;
use crate::consoles::Console;
use crate::cpus::Affinity;
use crate::cpus::machine::Processors;
use crate::documents::Slots;
use crate::volume::index::Stack;
use crate::volume::layers::Layers;

/// Where the kernel shows the machine's processors.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// What a guest's process is known by. A pid alone proves nothing: numbers come again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after the machine's boot at which it started (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The machine's boot it belongs to.
    pub boot_id: String,
    pub started_at: Timestamp,
}

impl PartialEq for Process {
    fn eq(&self, other: &Process) -> bool {
        // `started_at` is computed from the wall clock, which moves.
        (self.pid, self.start_ticks, &self.boot_id) == (other.pid, other.start_ticks, &other.boot_id)
    }
}

/// What a machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    Running,
    Paused,
    /// The guest switched itself off; the process waits to be ended.
    ShutDown,
    /// The guest's kernel panicked; the process waits.
    Panicked,
    /// The guest's watchdog fired and the machine was stopped for it.
    Watchdog,
    /// Stopped because a disk could not be read or written.
    IoError,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// Ask for the state again.
    Changed,
    /// It is stopped because a disk could not be read or written.
    DiskFailed { why: String },
    /// The watchdog fired and the machine was reset.
    WatchdogReset,
    /// The process ends, that is certain; it may hold its files a moment longer ([`Machine::gone`]).
    Died { reason: String },
    /// The process may live, but the connection to it is lost: find it again.
    Lost,
}

/// One guest's process.
#[async_trait]
pub trait Machine: Send + Sync {
    fn process(&self) -> &Process;
    async fn state(&self) -> Result<RunState>;
    /// Asks something small and waits for the answer, however long that takes. False: none can come any more. May be cancelled.
    async fn answers(&self) -> bool;
    /// Whether it waits in the kernel for a device, as for a disk that hangs.
    fn waits_for_device(&self) -> bool;
    /// Waits for the next event. May be cancelled without losing one.
    async fn event(&self) -> MachineEvent;
    /// Waits until a process that ends is gone with all it had.
    async fn gone(&self) {}
    /// Presses the ACPI power button.
    async fn power_button(&self) -> Result<()>;
    async fn pause(&self) -> Result<()>;
    async fn resume(&self) -> Result<()>;
    /// Ends the process, politely first; returns when it is gone.
    async fn end(&self) -> Result<()>;
    /// The same without asking it.
    async fn kill(&self) -> Result<()>;
    /// Stops the guest and writes its memory to the disk; whole and durable when this returns. The guest stays stopped.
    async fn save(&self) -> Result<()>;
    /// Copies a disk as it is now into the file of `snapshot`; answers the file's size. May be cancelled and asked again.
    async fn snapshot(&self, snapshot: &Snapshot, disk: &Disk) -> Result<u64>;
    /// Ends a copy that is under way.
    async fn snapshot_stop(&self) -> Result<()>;
    /// Plugs a card in, if it is not there.
    async fn plug(&self, nic: &Nic, bus: Option<&str>) -> Result<()>;
    /// Asks the guest to let go of a card, and cuts the card off when it does not. Fine when there is none.
    async fn unplug(&self, port_id: &str) -> Result<()>;
    /// None when it is done, else why the guest refuses.
    async fn set_password(&self, user: &str, password: &str) -> Result<Option<String>>;
    async fn interrupt(&self) -> Result<()>;
    async fn diagnostics(&self) -> Result<Value>;
    /// Has the threads of its process run where they are to.
    async fn pin(&self, affinity: &Affinity) -> Result<()>;
    /// The volumes that the process has.
    async fn volumes(&self) -> Result<Vec<String>>;
    /// Plugs in a volume. Idempotent.
    async fn volume_plug(&self, disk: &Disk, volume: &str, stack: &Stack, bus: Option<&str>) -> Result<()>;
    /// Takes out a volume; false when the guest has not let go of it yet.
    async fn volume_unplug(&self, volume: &str) -> Result<bool>;
    /// The layer that a volume's writes go to.
    async fn volume_head(&self, volume: &str) -> Result<Option<String>>;
    /// Lays the layer `to` over `from`, the present head, with the guest going on.
    async fn volume_switch(&self, volume: &str, from: &str, to: &str) -> Result<()>;
    async fn volume_resize(&self, volume: &str, head: &str, bytes: u64) -> Result<()>;
    /// Begins to listen for the guest that this process was started for.
    async fn await_guest(&self, moving: &Moving, disks: &[Disk], address: &str) -> Result<Doors>;
    /// How far the guest is on its way, from here or to here.
    async fn transit(&self, side: Side) -> Result<Transit>;
    /// Begins to copy the guest's disks to where it goes.
    async fn depart(&self, moving: &Moving, doors: &Doors, disks: &[Disk], ahead: &BTreeSet<String>) -> Result<()>;
    /// Begins to send its memory; it may stand still for `downtime` milliseconds then.
    async fn depart_memory(&self, moving: &Moving, doors: &Doors, downtime: u32) -> Result<()>;
    async fn depart_downtime(&self, downtime: u32) -> Result<()>;
    /// The guest stands still ([`At::Door`]): the disks are equal when this returns.
    async fn depart_last(&self) -> Result<()>;
    /// The last step, after which the guest may run there.
    async fn depart_go(&self) -> Result<()>;
    /// Ends what is under way and takes away what served it, on either side. A guest that stood still for it goes on here.
    async fn moved_clear(&self) -> Result<()>;
    /// A new connection to the guest's screen, keyboard and pointer, in the protocol of VNC, without a password.
    async fn display(&self) -> Result<Box<dyn Console>>;
    /// A connection to the port of its heartbeat. The port serves one at a time.
    async fn heartbeat(&self) -> Result<Box<dyn Console>>;
    /// A connection to the port of its messages. The port serves one at a time.
    async fn messaging(&self) -> Result<Box<dyn Console>>;
    /// A connection to the guest's first serial port. The port serves one at a time.
    async fn serial(&self) -> Result<Box<dyn Console>>;
}

/// From which end a guest on its way is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Here,
    /// `memory`: it is being sent already.
    Away {
        memory: bool,
    },
}

/// How far a guest is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transit {
    pub at: At,
    pub memory: Amount,
    pub disks: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Its disks are being copied.
    Disks,
    /// Nothing is left to be copied but what it writes now: its memory can follow.
    Ready,
    Memory,
    /// It stands still and waits for the last step.
    Door,
    /// All of it has been sent.
    Gone,
    Failed(String),
    /// This process waits for it.
    Awaited,
    /// All of it has come.
    Here,
}

/// What a look for a guest's process found.
pub enum Found {
    Machine(Arc<dyn Machine>),
    /// There is one, proven to be the guest's, that does not answer.
    Silent(process::Silent),
    /// There is none: this is certain.
    Nothing,
}

/// What a hypervisor can do, for the host's inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// `kvm` or `tcg`; empty while the probe runs.
    pub accelerator: String,
    pub version: u32,
}

/// How a process is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    pub slots: Slots,
    /// From the saved memory.
    pub memory: bool,
    /// For a guest that comes from another host.
    pub incoming: bool,
    /// The guest's volumes, which the caller has claimed.
    pub volumes: Vec<(String, Stack)>,
    /// Where its threads are to run; none: anywhere.
    pub affinity: Option<Affinity>,
}

/// Names of the devices that take a slot at the start, in order.
pub fn slotted(spec: &InstanceSpec) -> Vec<String> {
    let disks = spec.disks.iter().map(disk_name);
    let cards = spec.nics.iter().map(|n| card_name(&n.port_id));
    disks.chain(cards).chain(spec.metadata.config_drive.then(|| "config-drive".to_string())).collect()
}

/// The device's name of a disk.
pub fn disk_name(disk: &Disk) -> String {
    match &disk.source {
        DiskSource::Volume { id, .. } => volumes::device(id),
        _ => disk.name.clone(),
    }
}

/// The device's name of a port's card.
pub fn card_name(port_id: &str) -> String {
    format!("nic-{}", base::id::short(port_id, 11))
}

#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// The machine's present boot: processes of an earlier one are gone.
    fn boot_id(&self) -> String {
        boot_id()
    }
    fn abilities(&self) -> Abilities;
    /// What the disk under this directory has, and how much of that is free, in GiB.
    fn disk(&self, home: &Path) -> (u64, u64) {
        crate::info::disk(home)
    }
    /// The machine's processors.
    fn processors(&self) -> Processors {
        Processors::read(Path::new(PROCESSORS))
    }
    /// Looks for the guest's process. `known` is what the journal says of it, if anything.
    async fn find(&self, instance_id: &str, known: Option<&Process>) -> Result<Found>;
    /// Brings the guest's images to this host. May take long and may be cancelled.
    async fn fetch(&self, spec: &InstanceSpec) -> Result<()>;
    /// Makes disks and config drive, as far as they are missing, and removes disks that are wanted no more. Idempotent; long
    /// only where a disk begins as a copy.
    async fn prepare(&self, spec: &InstanceSpec) -> Result<()>;
    /// Removes disks that are neither wanted nor kept, beside a process that may run.
    async fn sweep(&self, spec: &InstanceSpec) -> Result<()>;
    /// Starts the process and waits until the guest runs; with `memory` until it is as it was saved, and stopped.
    /// The caller has looked that there is none.
    async fn start(&self, spec: &InstanceSpec, launch: &Launch) -> Result<Arc<dyn Machine>>;
    /// What keeps the layers of volumes here.
    fn layers(&self) -> Arc<dyn Layers>;
    /// Removes the saved memory.
    async fn forget_memory(&self, instance_id: &str) -> Result<()>;
    /// Copies a disk of a guest that has no process into the file of `snapshot`; answers the file's size.
    async fn snapshot_cold(&self, spec: &InstanceSpec, snapshot: &Snapshot, disk: &Disk) -> Result<u64>;
    /// A piece of a whole copy; empty behind its end.
    async fn snapshot_read(&self, instance_id: &str, snapshot_id: &str, offset: u64, length: u32) -> Result<Vec<u8>>;
    async fn snapshot_remove(&self, instance_id: &str, snapshot_id: &str) -> Result<()>;
    /// The files of a guest that may go to another host; the caller has seen to it that it is off.
    async fn disk_files(&self, instance_id: &str) -> Result<Vec<DiskFile>>;
    async fn disk_read(&self, instance_id: &str, file: &str, offset: u64, length: u32) -> Result<DiskPiece>;
    async fn disk_write(&self, instance_id: &str, file: &str, offset: u64, piece: &DiskPiece) -> Result<()>;
    async fn disk_keep(&self, instance_id: &str, file: &str, bytes: u64) -> Result<()>;
    /// The guest is off and stays so for now: gives up what only a process needs.
    async fn rest(&self, instance_id: &str) -> Result<()>;
    /// Removes every trace of a guest that has no process.
    async fn remove(&self, instance_id: &str) -> Result<()>;
    /// The end of the serial console.
    async fn console_log(&self, instance_id: &str, lines: Option<u32>) -> Result<String>;
    async fn cache_image(&self, sha256: &str, format: &str) -> Result<()>;
    /// The cache that other hosts may have images from, where there is one.
    fn cache(&self) -> Option<Arc<Cache>> {
        None
    }
    /// Housekeeping, called now and then with the guests that have documents and the images that volumes lie over: console
    /// logs kept short, unused images dropped.
    async fn maintain(&self, wanted: &[InstanceSpec], images: &BTreeSet<String>) -> Result<()>;
}

/// The present boot of this machine.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_string()).unwrap_or_default()
}
