//! A machine that is only played: the same agent and the same reconcilers over guests that are entries in a map.
//!
//! It can be told to fail, delay, lie or vanish. It outlives the agent, as real guests do, so restarts of the
//! agent and of the machine can be played too; one with a directory outlives the whole process. Thousands fit in
//! a process: a guest is no thread and no task.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use rpc::instance::{Amount, Disk, Doors, InstanceSpec, Metadata, Moving, Nic, Snapshot};
use rpc::message::{DiskFile, DiskPiece};
use rpc::network::NetworkDocument;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::consoles::Console;
use crate::cpus::Affinity;
use crate::cpus::machine::Processors;
use crate::hypervisor::{Abilities, At, Found, Hypervisor, Launch, Machine, MachineEvent, Process, RunState, Side, Transit};
use crate::simulated_consoles;
use crate::simulated_disk::{self, StoredGuest, StoredInstance, Travel};
use crate::simulated_guest;
pub use crate::simulated_guest::{Manner, Members, Mood, Scales};
use crate::volume::index::{Below, Layer, Stack, is_raw, is_stored};
use crate::volume::layers::Layers;
use crate::wire::{Applied, Keep, Wire};

/// What a simulated host does wrong.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// The next starts, of any guest, end with these errors.
    pub starts_fail: VecDeque<String>,
    /// Every start and end takes this long.
    pub delay: Duration,
    /// Guests do not hear their power button.
    pub deaf: bool,
    /// Disks cannot be written, for this reason: guests that go on are stopped at once.
    pub bad_disks: Option<String>,
    /// Says of every guest that it is paused.
    pub lie: bool,
    /// The next look at any guest panics: the host's own code is at fault.
    pub broken: bool,
    /// No memory can be saved and no disk copied: the machine is full.
    pub full: bool,
    /// Guests have an agent that sets passwords.
    pub agent: bool,
    /// Guests do not let go of volumes.
    pub clinging: bool,
    /// The next layers of volumes cannot be made, with these errors.
    pub layers_fail: VecDeque<String>,
    /// Guests write to their memory faster than it can be sent, as long as they run.
    pub restless: bool,
    /// The next guests that come do not survive it: their new processes end with the last step.
    pub arrivals_fail: u32,
    /// Guests cannot be sent: the way to other hosts is broken.
    pub no_way: bool,
}

struct Guest {
    cards: BTreeSet<String>,
    process: Process,
    state: RunState,
    /// It answers nothing, and does nothing.
    hung: bool,
    end: Option<String>,
    events: VecDeque<MachineEvent>,
    changed: Arc<Notify>,
    /// Volumes with the layer that each writes to.
    volumes: BTreeMap<String, String>,
    travel: Travel,
    /// Where its threads run.
    affinity: Option<Affinity>,
}

/// Processors of a simulated machine.
const PROCESSORS: u32 = 64;
/// What its disk has, in GiB.
const DISK_GIB: u64 = 1024;

#[derive(Default)]
struct World {
    /// Layers of volumes, with their sizes.
    layers: BTreeMap<String, u64>,
    exports: BTreeMap<String, u64>,
    /// What came from other hosts for volumes, with its size so far.
    parcels: BTreeMap<String, u64>,
    /// What is in those that came, and in the raw layers that they have become; what is in all others is made up.
    contents: HashMap<String, Vec<u8>>,
    guests: HashMap<String, Guest>,
    /// Guests that have disks, by file: what `remove` must take away.
    disks: HashMap<String, BTreeSet<String>>,
    /// Guests whose memory is saved.
    memory: HashSet<String>,
    /// Disks that came from other hosts.
    came: Vec<(String, String)>,
    /// Copies of disks, by guest.
    copies: HashSet<(String, String)>,
    /// The passwords set, by guest.
    passwords: HashMap<String, String>,
    trouble: Trouble,
    /// How guests speak to their hosts.
    manner: Option<Manner>,
    /// What they hear from their groups, and say to them.
    members: Members,
    boot: u32,
    starts: u64,
    /// Who was started, in order, and how many starts were under way at most.
    started: Vec<String>,
    starting: u32,
    most_starting: u32,
    /// Where all this is written down, if it is to outlive the process.
    disk: Option<simulated_disk::Disk>,
}

/// See the module's description. Cheap to clone; all clones are the same machine.
#[derive(Clone, Default)]
pub struct SimulatedHypervisor(Arc<Mutex<World>>);

/// What every copy of a disk holds: an empty qcow2 disk of a MiB, as far as its header.
static COPY: &[u8] = &{
    let mut bytes = [0u8; 65536 * 4];
    (bytes[0], bytes[1], bytes[2], bytes[3], bytes[7]) = (b'Q', b'F', b'I', 0xfb, 3);
    // Cluster bits, size, entries and place of the first-level table.
    (bytes[23], bytes[29], bytes[39], bytes[45]) = (16, 0x10, 1, 3);
    // Place and clusters of the refcount table, width of a refcount, length of the header.
    (bytes[53], bytes[59], bytes[99], bytes[103]) = (1, 1, 4, 104);
    bytes
};

static NEXT_PID: AtomicI32 = AtomicI32::new(100_000);
static NEXT_DOOR: AtomicU16 = AtomicU16::new(1);

/// Who waits for a guest behind which door: on real machines the network knows.
static DOORS: Mutex<BTreeMap<u16, (SimulatedHypervisor, String)>> = Mutex::new(BTreeMap::new());

/// Layers in storage that simulated machines share, with their sizes. Their names come only once.
static STORED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

fn stored() -> MutexGuard<'static, BTreeMap<String, u64>> {
    STORED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn doors() -> MutexGuard<'static, BTreeMap<u16, (SimulatedHypervisor, String)>> {
    DOORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl SimulatedHypervisor {
    /// The machine that lies in this directory; a new one when there is none.
    pub fn open(directory: &Path) -> Result<SimulatedHypervisor> {
        let disk = simulated_disk::Disk::open(directory)?;
        let mut world =
            World { boot: disk.boot()?, layers: disk.layers()?, exports: disk.exports()?, parcels: disk.parcels()?, ..World::default() };
        for (id, stored) in disk.instances()? {
            world.disks.extend(stored.disks.map(|disks| (id.clone(), disks)));
            world.copies.extend(stored.copies.into_iter().map(|copy| (id.clone(), copy)));
            if stored.memory {
                world.memory.insert(id.clone());
            }
            if let Some(StoredGuest { process, state, cards, volumes, travel }) = stored.guest {
                let (end, events, changed, affinity) = (None, VecDeque::new(), Arc::default(), None);
                let guest = Guest { cards, process, state, hung: false, end, events, changed, volumes, travel, affinity };
                world.guests.insert(id, guest);
            }
        }
        world.disk = Some(disk);
        Ok(SimulatedHypervisor(Arc::new(Mutex::new(world))))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.world().trouble);
    }

    fn with(&self, id: &str, change: impl FnOnce(&mut Guest)) -> bool {
        let mut world = self.world();
        let Some(guest) = world.guests.get_mut(id).filter(|g| g.end.is_none()) else { return false };
        change(guest);
        guest.changed.notify_waiters();
        world.keep(id);
        true
    }

    /// The guest's process dies. False when there is none.
    pub fn kill(&self, id: &str, reason: &str) -> bool {
        self.with(id, |g| g.end = Some(reason.to_string()))
    }
    /// The guest switches itself off.
    pub fn shut_down(&self, id: &str) -> bool {
        self.with(id, |g| {
            g.state = RunState::ShutDown;
            g.events.push_back(MachineEvent::Changed);
        })
    }
    /// The guest's watchdog fires: it was reset, or it is stopped.
    pub fn watchdog(&self, id: &str, reset: bool) -> bool {
        self.with(id, |g| match reset {
            true => g.events.push_back(MachineEvent::WatchdogReset),
            false => {
                g.state = RunState::Watchdog;
                g.events.push_back(MachineEvent::Changed);
            }
        })
    }
    /// The guest's kernel panics.
    pub fn panic(&self, id: &str) -> bool {
        self.with(id, |g| {
            g.state = RunState::Panicked;
            g.events.push_back(MachineEvent::Changed);
        })
    }
    /// From now on disks cannot be written, for this reason, and all guests try to; none: they can be again.
    pub fn disks_fail(&self, why: Option<&str>) {
        let mut world = self.world();
        world.trouble.bad_disks = why.map(str::to_string);
        let Some(why) = why else { return };
        for guest in world.guests.values_mut().filter(|g| g.end.is_none() && g.state == RunState::Running) {
            guest.state = RunState::IoError;
            guest.events.push_back(MachineEvent::DiskFailed { why: why.to_string() });
            guest.changed.notify_waiters();
        }
    }
    /// The guest's process stands still, or goes on. False when there is none.
    pub fn hang(&self, id: &str, hung: bool) -> bool {
        self.with(id, |g| g.hung = hung)
    }
    /// The machine loses power: all processes are gone, and what is known of them belongs to an earlier boot.
    pub fn power_cut(&self) {
        let mut world = self.world();
        world.boot += 1;
        for guest in world.guests.values_mut() {
            guest.end = Some("power cut".into());
            guest.changed.notify_waiters();
        }
        world.guests.clear();
        let boot = world.boot;
        if let Some(disk) = &mut world.disk {
            disk.boot_set(boot);
        }
        let stored: Vec<String> = world.disks.keys().cloned().collect();
        stored.iter().for_each(|id| world.keep(id));
    }
    /// Live processes.
    pub fn running(&self) -> Vec<String> {
        let mut all: Vec<String> = self.world().guests.iter().filter(|(_, g)| g.end.is_none()).map(|(id, _)| id.clone()).collect();
        all.sort();
        all
    }
    /// Guests with anything left on this machine.
    pub fn traces(&self) -> Vec<String> {
        let world = self.world();
        let live = world.guests.iter().filter(|(_, g)| g.end.is_none()).map(|(id, _)| id);
        let all: BTreeSet<&String> = world.disks.keys().chain(live).collect();
        all.into_iter().cloned().collect()
    }
    /// Files of volumes on this machine.
    pub fn layer_files(&self) -> Vec<String> {
        let world = self.world();
        world.layers.keys().chain(world.exports.keys()).chain(world.parcels.keys()).cloned().collect()
    }
    /// Damages what is in raw layers that came from elsewhere.
    pub fn contents_damage(&self) {
        self.world().contents.values_mut().filter_map(|content| content.first_mut()).for_each(|byte| *byte ^= 1);
    }
    /// The volumes that a guest's process has, each with the layer it writes to.
    pub fn plugged(&self, id: &str) -> BTreeMap<String, String> {
        self.world().guests.get(id).filter(|g| g.end.is_none()).map(|g| g.volumes.clone()).unwrap_or_default()
    }
    /// How many processes were ever started.
    pub fn starts(&self) -> u64 {
        self.world().starts
    }
    /// Who was started, in order.
    pub fn started(&self) -> Vec<String> {
        self.world().started.clone()
    }
    /// The most starts that were under way at once.
    pub fn most_starting(&self) -> u32 {
        self.world().most_starting
    }
    pub fn state(&self, id: &str) -> Option<RunState> {
        self.world().guests.get(id).filter(|g| g.end.is_none()).map(|g| g.state)
    }

    /// Files of the guest's disks.
    pub fn disks(&self, id: &str) -> Vec<String> {
        self.world().disks.get(id).into_iter().flatten().cloned().collect()
    }
    /// The guest's disks that came from another host, each time they did.
    pub fn came(&self, id: &str) -> Vec<String> {
        self.world().came.iter().filter(|(of, _)| of == id).map(|(_, file)| file.clone()).collect()
    }
    /// Ports whose card the guest has.
    pub fn cards(&self, id: &str) -> Vec<String> {
        self.world().guests.get(id).map(|g| g.cards.iter().cloned().collect()).unwrap_or_default()
    }
    /// The processors that each of the guest's vCPUs runs on, and its process besides; none when they are not told where.
    pub fn affinity(&self, id: &str) -> Option<(Vec<BTreeSet<u32>>, BTreeSet<u32>)> {
        self.world().guests.get(id)?.affinity.clone().map(|affinity| (affinity.vcpus, affinity.others))
    }
    /// Whether the guest's memory lies on the disk.
    pub fn has_memory(&self, id: &str) -> bool {
        self.world().memory.contains(id)
    }
    /// How many copies of disks lie around.
    pub fn copies(&self) -> usize {
        self.world().copies.len()
    }
    pub fn password(&self, id: &str) -> Option<String> {
        self.world().passwords.get(id).cloned()
    }

    /// From now on guests have a client that speaks to their host in this manner.
    pub fn speaking(&self, manner: Manner) {
        self.world().manner = Some(manner);
    }

    /// The guests here as members of their groups.
    pub fn members(&self) -> Members {
        self.world().members.clone()
    }

    fn copy(&self, id: &str, snapshot: &Snapshot) -> Result<u64> {
        let mut world = self.world();
        if world.trouble.full {
            return Err(Error::internal("no space left on device"));
        }
        world.copies.insert((id.to_string(), snapshot.id.clone()));
        world.keep(id);
        Ok(COPY.len() as u64)
    }

    fn machine(&self, id: &str, guest: &Guest) -> Arc<dyn Machine> {
        let (process, changed) = (guest.process.clone(), guest.changed.clone());
        Arc::new(SimulatedMachine { world: self.clone(), id: id.to_string(), process, changed })
    }

    async fn delay(&self) {
        let began = tokio::time::Instant::now();
        loop {
            // Who shortens it has not to wait for what has begun.
            let left = self.world().trouble.delay.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(10))).await;
        }
    }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    fn boot_id(&self) -> String {
        format!("simulated-{}", self.world().boot)
    }

    fn abilities(&self) -> Abilities {
        Abilities { accelerator: "tcg".into(), version: 7_002_000 }
    }

    /// All hosts have the same, whatever else is written to the disk that they are played on.
    fn disk(&self, _home: &Path) -> (u64, u64) {
        (DISK_GIB, DISK_GIB)
    }

    fn processors(&self) -> Processors {
        Processors { online: (0..PROCESSORS).collect(), ..Processors::default() }
    }

    async fn find(&self, instance_id: &str, _known: Option<&Process>) -> Result<Found> {
        let world = self.world();
        Ok(match world.guests.get(instance_id).filter(|g| g.end.is_none()) {
            Some(guest) => Found::Machine(self.machine(instance_id, guest)),
            None => Found::Nothing,
        })
    }

    async fn fetch(&self, spec: &InstanceSpec) -> Result<()> {
        crate::hypervisor::command::check(spec)
    }

    async fn prepare(&self, spec: &InstanceSpec) -> Result<()> {
        let mut world = self.world();
        let had = world.disks.remove(&spec.id).unwrap_or_default();
        let files = |disks: &[Disk]| disks.iter().map(Disk::file).collect::<BTreeSet<_>>();
        let (wanted, kept) = (files(&spec.disks), files(&spec.kept));
        if let Some(origin) = spec.disks.iter().filter(|d| !had.contains(&d.file())).find_map(|d| d.copy_of.as_ref())
            && !had.contains(origin)
        {
            world.disks.insert(spec.id.clone(), had);
            return Err(Error::internal("there is no disk to copy"));
        }
        world.disks.insert(spec.id.clone(), wanted.into_iter().chain(had.intersection(&kept).cloned()).collect());
        world.keep(&spec.id);
        Ok(())
    }

    async fn start(&self, spec: &InstanceSpec, launch: &Launch) -> Result<Arc<dyn Machine>> {
        {
            let mut world = self.world();
            world.started.push(spec.id.clone());
            world.starting += 1;
            world.most_starting = world.most_starting.max(world.starting);
        }
        self.delay().await;
        let mut world = self.world();
        world.starting = world.starting.saturating_sub(1);
        if let Some(text) = world.trouble.starts_fail.pop_front() {
            return Err(Error::internal(text));
        }
        if world.guests.get(&spec.id).is_some_and(|g| g.end.is_none()) {
            return Err(Error::internal("two processes for one guest"));
        }
        world.starts += 1;
        let pid = NEXT_PID.fetch_add(1, Ordering::Relaxed);
        // Pids come again after a restart of this process, instants do not.
        let start_ticks = Timestamp::now().micros().unsigned_abs();
        let process = Process { pid, start_ticks, boot_id: format!("simulated-{}", world.boot), started_at: Timestamp::now() };
        if launch.memory && !world.memory.contains(&spec.id) {
            return Err(Error::internal("there is no memory to go on from"));
        }
        for (id, stack) in &launch.volumes {
            world.check(id, stack)?;
        }
        let volumes = launch.volumes.iter().filter_map(|(id, stack)| Some((id.clone(), stack.layers.first()?.clone()))).collect();
        let state = if launch.memory || launch.incoming { RunState::Paused } else { RunState::Running };
        let cards = spec.nics.iter().map(|n| n.port_id.clone()).collect();
        let travel = Travel::default();
        let (end, events, changed, affinity) = (None, VecDeque::new(), Arc::default(), launch.affinity.clone());
        let guest = Guest { cards, process, state, hung: false, end, events, changed, volumes, travel, affinity };
        let machine = self.machine(&spec.id, &guest);
        world.guests.insert(spec.id.clone(), guest);
        world.keep(&spec.id);
        Ok(machine)
    }

    async fn disk_files(&self, instance_id: &str) -> Result<Vec<DiskFile>> {
        let files = self.world().disks.get(instance_id).cloned().unwrap_or_default();
        Ok(files.into_iter().map(|file| DiskFile { name: format!("{file}.qcow2"), bytes: COPY.len() as u64 }).collect())
    }

    async fn disk_read(&self, instance_id: &str, file: &str, offset: u64, length: u32) -> Result<DiskPiece> {
        self.delay().await;
        let there = self.world().disks.get(instance_id).is_some_and(|files| files.iter().any(|f| file == format!("{f}.qcow2")));
        if !there {
            return Err(Error::not_found("Disk", file));
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(COPY.len());
        Ok(DiskPiece::of(&COPY[from..COPY.len().min(from + length as usize)]))
    }

    async fn disk_write(&self, instance_id: &str, file: &str, _offset: u64, piece: &DiskPiece) -> Result<()> {
        crate::disk_files::check(instance_id, file)?;
        piece.data()?;
        match self.world().trouble.full {
            true => Err(Error::internal("no space left on device")),
            false => Ok(()),
        }
    }

    async fn disk_keep(&self, instance_id: &str, file: &str, bytes: u64) -> Result<()> {
        crate::disk_files::check(instance_id, file)?;
        if bytes != COPY.len() as u64 {
            return Err(Error::internal("the file is not whole"));
        }
        let mut world = self.world();
        let name = file.trim_end_matches(".qcow2").to_string();
        world.disks.entry(instance_id.to_string()).or_default().insert(name.clone());
        world.came.push((instance_id.to_string(), name));
        world.keep(instance_id);
        Ok(())
    }

    async fn rest(&self, _instance_id: &str) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, instance_id: &str) -> Result<()> {
        let mut world = self.world();
        if world.guests.get(instance_id).is_some_and(|g| g.end.is_none()) {
            return Err(Error::internal("removing a guest that runs"));
        }
        world.guests.remove(instance_id);
        world.disks.remove(instance_id);
        world.memory.remove(instance_id);
        world.copies.retain(|(id, _)| id != instance_id);
        world.keep(instance_id);
        Ok(())
    }

    async fn sweep(&self, spec: &InstanceSpec) -> Result<()> {
        let wanted: BTreeSet<String> = spec.disks.iter().chain(&spec.kept).map(Disk::file).collect();
        let mut world = self.world();
        if let Some(files) = world.disks.get_mut(&spec.id) {
            files.retain(|file| wanted.contains(file));
        }
        world.keep(&spec.id);
        Ok(())
    }

    async fn forget_memory(&self, instance_id: &str) -> Result<()> {
        let mut world = self.world();
        world.memory.remove(instance_id);
        world.keep(instance_id);
        Ok(())
    }

    async fn snapshot_cold(&self, spec: &InstanceSpec, snapshot: &Snapshot, _disk: &Disk) -> Result<u64> {
        self.copy(&spec.id, snapshot)
    }

    async fn snapshot_read(&self, instance_id: &str, snapshot_id: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        if !self.world().copies.contains(&(instance_id.to_string(), snapshot_id.to_string())) {
            return Err(Error::not_found("Snapshot", snapshot_id));
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(COPY.len());
        Ok(COPY[from..COPY.len().min(from + length as usize)].to_vec())
    }

    async fn snapshot_remove(&self, instance_id: &str, snapshot_id: &str) -> Result<()> {
        let mut world = self.world();
        world.copies.remove(&(instance_id.to_string(), snapshot_id.to_string()));
        world.keep(instance_id);
        Ok(())
    }

    async fn console_log(&self, instance_id: &str, lines: Option<u32>) -> Result<String> {
        let text = format!("simulated guest {instance_id}\nlogin: \n");
        let all: Vec<&str> = text.lines().collect();
        let keep = lines.map_or(all.len(), |n| n as usize).min(all.len());
        Ok(all[all.len() - keep..].iter().map(|l| format!("{l}\n")).collect())
    }

    async fn cache_image(&self, _sha256: &str, _format: &str) -> Result<()> {
        Ok(())
    }

    async fn maintain(&self, _wanted: &[InstanceSpec], _images: &BTreeSet<String>) -> Result<()> {
        Ok(())
    }

    fn layers(&self) -> Arc<dyn Layers> {
        Arc::new(self.clone())
    }
}

impl World {
    /// Writes down what there is of this guest now.
    fn keep(&mut self, id: &str) {
        let Some(disk) = &mut self.disk else { return };
        let guest = self.guests.get(id).filter(|g| g.end.is_none()).map(|g| StoredGuest {
            process: g.process.clone(),
            state: g.state,
            cards: g.cards.clone(),
            volumes: g.volumes.clone(),
            travel: g.travel,
        });
        let copies = self.copies.iter().filter(|(of, _)| of == id).map(|(_, copy)| copy.clone()).collect();
        let stored = StoredInstance { guest, disks: self.disks.get(id).cloned(), memory: self.memory.contains(id), copies };
        disk.instance_set(id, &stored);
    }

    fn has(&self, layer: &str) -> bool {
        self.layers.contains_key(layer) || stored().contains_key(layer)
    }

    fn layer_keep(&mut self, name: &str) {
        if let Some(disk) = &mut self.disk {
            disk.layer_set(name, self.layers.get(name).copied());
        }
    }

    fn export_keep(&mut self, id: &str) {
        if let Some(disk) = &mut self.disk {
            disk.export_set(id, self.exports.get(id).copied());
        }
    }

    fn parcel_keep(&mut self, id: &str) {
        if let Some(disk) = &mut self.disk {
            disk.parcel_set(id, self.parcels.get(id).copied());
        }
    }

    /// What the real hypervisor would trip over.
    fn check(&self, volume: &str, stack: &Stack) -> Result<()> {
        if let Some(missing) = stack.layers.iter().find(|layer| !self.has(layer)) {
            return Err(Error::internal(format!("volume {volume}: there is no layer {missing}")));
        }
        // A raw head may be written to by several.
        let alone = |head: &&String| !is_raw(head);
        let twice = |g: &&Guest| g.end.is_none() && g.volumes.values().filter(alone).any(|head| stack.layers.contains(head));
        match self.guests.values().find(twice) {
            Some(_) => Err(Error::internal(format!("volume {volume} is written to by another guest"))),
            None => Ok(()),
        }
    }
}

/// Layers that are names with a size.
#[async_trait]
impl Layers for SimulatedHypervisor {
    async fn image(&self, _sha256: &str, _format: &str) -> Result<u64> {
        Ok(0)
    }
    async fn make(&self, name: &str, layer: &Layer) -> Result<()> {
        self.delay().await;
        let mut world = self.world();
        if let Some(text) = world.trouble.layers_fail.pop_front() {
            return Err(Error::internal(text));
        }
        if is_stored(name) {
            stored().entry(name.to_string()).or_insert(layer.bytes);
            return Ok(());
        }
        world.layers.entry(name.to_string()).or_insert(layer.bytes);
        world.layer_keep(name);
        Ok(())
    }
    async fn copy(&self, stack: &Stack, name: &str, bytes: u64) -> Result<()> {
        if let Some(missing) = stack.layers.iter().find(|layer| !self.world().has(layer)) {
            return Err(Error::internal(format!("there is no layer {missing}")));
        }
        self.make(name, &Layer { below: Below::Nothing, bytes, volume: None }).await
    }
    async fn grow(&self, name: &str, bytes: u64) -> Result<()> {
        let (mut world, mut stored) = (self.world(), stored());
        match world.layers.get_mut(name).or(stored.get_mut(name)) {
            Some(size) => *size = bytes.max(*size),
            None => return Err(Error::internal(format!("there is no layer {name}"))),
        }
        drop(stored);
        world.layer_keep(name);
        Ok(())
    }
    async fn remove(&self, name: &str) -> Result<()> {
        let mut world = self.world();
        stored().remove(name);
        world.contents.remove(name);
        world.layers.remove(name);
        world.layer_keep(name);
        Ok(())
    }
    async fn export(&self, stack: &Stack, id: &str, _format: &str) -> Result<u64> {
        self.delay().await;
        let bytes = stack.bytes.min(1 << 20);
        let mut world = self.world();
        world.exports.insert(id.to_string(), bytes);
        world.export_keep(id);
        Ok(bytes)
    }
    async fn share(&self, layer: &str, id: &str) -> Result<u64> {
        self.delay().await;
        let mut world = self.world();
        let all = world.layers.get(layer).copied().ok_or_else(|| Error::internal(format!("there is no layer {layer}")))?;
        let content = world.contents.get(layer).cloned();
        let bytes = content.as_ref().map_or(all.min(1 << 20), |content| content.len() as u64);
        if let Some(content) = content {
            world.contents.insert(id.to_string(), content);
        }
        world.exports.insert(id.to_string(), bytes);
        world.export_keep(id);
        Ok(bytes)
    }
    async fn export_read(&self, id: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        let world = self.world();
        let size = world.exports.get(id).copied().ok_or_else(|| Error::not_found("Export", id))?;
        let count = usize::try_from(size.saturating_sub(offset).min(length.into())).unwrap_or(0);
        let content = world.contents.get(id).map(|content| content.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)));
        Ok(content.map_or_else(|| vec![7; count], |content| content.take(count).copied().collect()))
    }
    async fn export_remove(&self, id: &str) -> Result<()> {
        let mut world = self.world();
        world.contents.remove(id);
        world.exports.remove(id);
        world.export_keep(id);
        Ok(())
    }
    async fn parcel_write(&self, id: &str, offset: u64, piece: &DiskPiece) -> Result<()> {
        let bytes = piece.content()?;
        let mut world = self.world();
        if world.trouble.full {
            return Err(Error::internal("cannot write a disk file: no space left on device"));
        }
        let content = world.contents.entry(id.to_string()).or_default();
        content.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
        content.extend(bytes);
        world.parcels.insert(id.to_string(), offset + piece.bytes);
        world.parcel_keep(id);
        Ok(())
    }
    async fn parcel_keep(&self, id: &str, bytes: u64) -> Result<()> {
        match self.world().parcels.get(id) {
            Some(have) if *have == bytes => Ok(()),
            _ => Err(Error::internal("a parcel is not whole")),
        }
    }
    async fn parcel_take(&self, id: &str, layer: &str) -> Result<()> {
        let mut world = self.world();
        let content = world.contents.remove(id);
        if let Some(content) = content.filter(|_| is_raw(layer)) {
            world.contents.insert(layer.to_string(), content);
        }
        match world.parcels.remove(id) {
            Some(bytes) => drop(world.layers.insert(layer.to_string(), bytes)),
            None if world.layers.contains_key(layer) => {}
            None => return Err(Error::not_found("Parcel", id)),
        }
        world.parcel_keep(id);
        world.layer_keep(layer);
        Ok(())
    }
    async fn lay_over(&self, name: &str, below: &str) -> Result<()> {
        let world = self.world();
        match [name, below].into_iter().find(|layer| !world.layers.contains_key(*layer)) {
            Some(missing) => Err(Error::internal(format!("there is no layer {missing}"))),
            None => Ok(()),
        }
    }
    async fn parcel_remove(&self, id: &str) -> Result<()> {
        let mut world = self.world();
        world.contents.remove(id);
        world.parcels.remove(id);
        world.parcel_keep(id);
        Ok(())
    }
}

struct SimulatedMachine {
    world: SimulatedHypervisor,
    id: String,
    process: Process,
    changed: Arc<Notify>,
}

impl SimulatedMachine {
    /// Does something with the guest, if it is still this process.
    fn with<T>(&self, work: impl FnOnce(&mut Guest, &Trouble) -> T) -> Result<T> {
        let mut world = self.world.world();
        let trouble = world.trouble.clone();
        match world.guests.get_mut(&self.id).filter(|g| g.end.is_none() && g.process == self.process) {
            Some(guest) if guest.hung => Err(Error::timeout("no answer from the monitor")),
            Some(guest) => {
                let done = work(guest, &trouble);
                world.keep(&self.id);
                Ok(done)
            }
            None => Err(Error::unavailable("the monitor is closed")),
        }
    }

    /// Resolves when this process is no more.
    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let (world, id, process, changed) = (self.world.clone(), self.id.clone(), self.process.clone(), self.changed.clone());
        async move {
            loop {
                let heard = changed.notified();
                tokio::pin!(heard);
                heard.as_mut().enable();
                if !world.world().guests.get(&id).is_some_and(|g| g.end.is_none() && g.process == process) {
                    return;
                }
                heard.await;
            }
        }
    }

    fn set(&self, state: RunState) -> Result<()> {
        self.with(|g, _| {
            g.state = state;
            g.events.push_back(MachineEvent::Changed);
            g.changed.notify_waiters();
        })
    }
}

#[async_trait]
impl Machine for SimulatedMachine {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn state(&self) -> Result<RunState> {
        let broken = std::mem::take(&mut self.world.world().trouble.broken);
        assert!(!broken, "broken on purpose");
        self.with(|g, trouble| if trouble.lie { RunState::Paused } else { g.state })
    }

    async fn answers(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.with(|_, _| ()) {
                Err(e) if e.is(Kind::Timeout) => changed.await,
                outcome => return outcome.is_ok(),
            }
        }
    }

    fn waits_for_device(&self) -> bool {
        false
    }

    async fn event(&self) -> MachineEvent {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listening begins before looking, so that nothing falls in between.
            changed.as_mut().enable();
            {
                let mut world = self.world.world();
                match world.guests.get_mut(&self.id).filter(|g| g.process == self.process) {
                    None => return MachineEvent::Died { reason: "ended".into() },
                    Some(guest) => {
                        if let Some(reason) = &guest.end {
                            return MachineEvent::Died { reason: reason.clone() };
                        }
                        if let Some(event) = guest.events.pop_front() {
                            return event;
                        }
                    }
                }
            }
            changed.await;
        }
    }

    async fn power_button(&self) -> Result<()> {
        self.with(|g, trouble| {
            if !trouble.deaf {
                g.state = RunState::ShutDown;
                g.events.push_back(MachineEvent::Changed);
                g.changed.notify_waiters();
            }
        })
    }

    async fn pause(&self) -> Result<()> {
        self.set(RunState::Paused)
    }

    async fn resume(&self) -> Result<()> {
        self.with(|g, trouble| {
            g.travel = Travel::None;
            g.state = if trouble.bad_disks.is_some() { RunState::IoError } else { RunState::Running };
            let why = trouble.bad_disks.clone();
            g.events.push_back(why.map_or(MachineEvent::Changed, |why| MachineEvent::DiskFailed { why }));
            g.changed.notify_waiters();
        })
    }

    async fn end(&self) -> Result<()> {
        self.world.delay().await;
        self.kill().await
    }

    async fn kill(&self) -> Result<()> {
        let mut world = self.world.world();
        if world.guests.get(&self.id).is_some_and(|g| g.process == self.process) {
            world.guests.remove(&self.id);
            world.keep(&self.id);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn save(&self) -> Result<()> {
        self.set(RunState::Paused)?;
        let mut world = self.world.world();
        if world.trouble.full {
            return Err(Error::internal("no space left on device"));
        }
        world.memory.insert(self.id.clone());
        world.keep(&self.id);
        Ok(())
    }

    async fn snapshot(&self, snapshot: &Snapshot, _disk: &Disk) -> Result<u64> {
        self.world.delay().await;
        self.with(|_, _| ())?;
        self.world.copy(&self.id, snapshot)
    }

    async fn snapshot_stop(&self) -> Result<()> {
        Ok(())
    }

    async fn plug(&self, nic: &Nic, _bus: Option<&str>) -> Result<()> {
        self.with(|g, _| {
            g.cards.insert(nic.port_id.clone());
        })
    }

    async fn unplug(&self, port_id: &str) -> Result<()> {
        self.with(|g, _| {
            g.cards.remove(port_id);
        })
    }

    async fn set_password(&self, _user: &str, password: &str) -> Result<Option<String>> {
        let agent = self.with(|_, trouble| trouble.agent)?;
        if !agent {
            return Ok(Some("the guest's agent does not answer".into()));
        }
        self.world.world().passwords.insert(self.id.clone(), password.to_string());
        Ok(None)
    }

    async fn interrupt(&self) -> Result<()> {
        self.with(|_, _| ())
    }

    async fn diagnostics(&self) -> Result<Value> {
        self.with(|g, _| json!({"status": {"running": g.state == RunState::Running}, "simulated": true}))
    }

    async fn pin(&self, affinity: &Affinity) -> Result<()> {
        self.with(|g, _| g.affinity = Some(affinity.clone()))
    }

    async fn volumes(&self) -> Result<Vec<String>> {
        self.with(|g, _| g.volumes.keys().cloned().collect())
    }

    async fn volume_plug(&self, _disk: &Disk, volume: &str, stack: &Stack, _bus: Option<&str>) -> Result<()> {
        self.world.delay().await;
        if self.with(|g, _| g.volumes.contains_key(volume))? {
            return Ok(());
        }
        self.world.world().check(volume, stack)?;
        let head = stack.layers.first().cloned().ok_or_else(|| Error::internal("a volume without layers"))?;
        self.with(|g, _| drop(g.volumes.insert(volume.to_string(), head)))
    }

    async fn volume_unplug(&self, volume: &str) -> Result<bool> {
        self.world.delay().await;
        self.with(|g, trouble| {
            if !trouble.clinging {
                g.volumes.remove(volume);
            }
            !trouble.clinging
        })
    }

    async fn volume_head(&self, volume: &str) -> Result<Option<String>> {
        self.with(|g, _| g.volumes.get(volume).cloned())
    }

    async fn volume_switch(&self, volume: &str, from: &str, to: &str) -> Result<()> {
        self.with(|g, _| match g.volumes.get_mut(volume) {
            Some(head) if head == from => {
                *head = to.to_string();
                Ok(())
            }
            _ => Err(Error::internal(format!("volume {volume} does not write to {from}"))),
        })?
    }

    async fn volume_resize(&self, volume: &str, head: &str, bytes: u64) -> Result<()> {
        if self.with(|g, _| g.volumes.get(volume).map(String::as_str) != Some(head))? {
            return Err(Error::internal(format!("volume {volume} does not write to {head}")));
        }
        self.world.grow(head, bytes).await
    }

    async fn await_guest(&self, _moving: &Moving, _disks: &[Disk], address: &str) -> Result<Doors> {
        let door = NEXT_DOOR.fetch_add(1, Ordering::Relaxed);
        self.with(|g, _| g.travel = Travel::Awaits(door))?;
        doors().insert(door, (self.world.clone(), self.id.clone()));
        Ok(Doors { address: address.to_string(), memory: door, disks: door })
    }

    async fn transit(&self, _side: Side) -> Result<Transit> {
        self.world.delay().await;
        let full = Amount { total: 1 << 26, done: 1 << 26, left: 0 };
        let at = self.with(|g, trouble| {
            if let (Travel::Memory(door), false) = (g.travel, trouble.restless && g.state == RunState::Running) {
                g.travel = Travel::Door(door);
            }
            match g.travel {
                Travel::Awaits(_) => At::Awaited,
                Travel::Arrived => At::Here,
                Travel::Disks(_) => At::Ready,
                Travel::Memory(_) => At::Memory,
                Travel::Door(_) => At::Door,
                Travel::Gone => At::Gone,
                Travel::None | Travel::Failed => At::Failed("the connection broke off".into()),
            }
        })?;
        Ok(Transit { at, memory: full, disks: full })
    }

    async fn depart(&self, _moving: &Moving, doors: &Doors, _disks: &[Disk], _ahead: &BTreeSet<String>) -> Result<()> {
        self.with(|g, trouble| match trouble.no_way {
            true => Err(Error::internal("no route to host")),
            false => {
                g.travel = Travel::Disks(doors.disks);
                Ok(())
            }
        })?
    }

    async fn depart_memory(&self, _moving: &Moving, doors: &Doors, _downtime: u32) -> Result<()> {
        self.with(|g, _| g.travel = Travel::Memory(doors.memory))
    }

    async fn depart_downtime(&self, _downtime: u32) -> Result<()> {
        Ok(())
    }

    async fn depart_last(&self) -> Result<()> {
        Ok(())
    }

    async fn depart_go(&self) -> Result<()> {
        let going = self.with(|g, _| match g.travel {
            Travel::Door(door) => {
                let state = std::mem::replace(&mut g.state, RunState::Paused);
                g.travel = Travel::Gone;
                Some((door, state))
            }
            _ => None,
        })?;
        let Some((door, state)) = going else { return Ok(()) };
        let there = doors().remove(&door);
        let Some((world, id)) = there else { return Ok(()) };
        let mut there = world.world();
        let dies = there.trouble.arrivals_fail > 0;
        there.trouble.arrivals_fail = there.trouble.arrivals_fail.saturating_sub(1);
        if let Some(guest) = there.guests.get_mut(&id).filter(|g| g.end.is_none() && g.travel == Travel::Awaits(door)) {
            if dies {
                guest.end = Some("the guest's state cannot be read".into());
            } else {
                (guest.state, guest.travel) = (state, Travel::Arrived);
                guest.events.push_back(MachineEvent::Changed);
            }
            guest.changed.notify_waiters();
        }
        there.keep(&id);
        Ok(())
    }

    async fn moved_clear(&self) -> Result<()> {
        self.with(|g, _| g.travel = Travel::None)
    }

    async fn display(&self) -> Result<Box<dyn Console>> {
        self.with(|_, _| Box::new(simulated_consoles::display(self.id.clone(), self.gone())) as Box<dyn Console>)
    }

    async fn heartbeat(&self) -> Result<Box<dyn Console>> {
        let manner = self.with(|_, _| ()).map(|()| self.world.world().manner.clone())?;
        match manner {
            Some(manner) => Ok(Box::new(simulated_guest::speak(self.id.clone(), manner, self.gone()))),
            None => Err(Error::not_found("Client", &self.id)),
        }
    }

    async fn messaging(&self) -> Result<Box<dyn Console>> {
        let members = self.with(|_, _| ()).map(|()| self.world.world().members.clone())?;
        Ok(Box::new(members.join(self.id.clone(), self.gone())))
    }

    async fn serial(&self) -> Result<Box<dyn Console>> {
        self.with(|_, _| Box::new(simulated_consoles::serial(self.id.clone(), self.gone())) as Box<dyn Console>)
    }
}

#[derive(Default)]
struct Net {
    ports: HashSet<String>,
    metadata: HashMap<String, Metadata>,
    generation: u64,
    /// Errors that every document meets, until cleared.
    errors: Vec<String>,
    keep: Option<Keep>,
}

/// A network that has every port its document names.
#[derive(Clone, Default)]
pub struct SimulatedWire(Arc<Mutex<Net>>);

impl SimulatedWire {
    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    pub fn fail(&self, errors: Vec<String>) {
        self.net().errors = errors;
    }
    pub fn generation(&self) -> u64 {
        self.net().generation
    }
    pub fn metadata(&self, instance_id: &str) -> Option<Metadata> {
        self.net().metadata.get(instance_id).cloned()
    }
    /// The guest posts its password to the metadata address.
    pub fn password_post(&self, instance_id: &str, password: &str) -> Result<()> {
        let keep = self.net().keep.clone();
        keep.map_or(Ok(()), |keep| keep(instance_id, password))
    }
}

#[async_trait]
impl Wire for SimulatedWire {
    async fn apply(&self, document: &NetworkDocument) -> Result<Applied> {
        let mut net = self.net();
        if net.errors.is_empty() {
            net.ports = document.ports.iter().map(|p| p.id.clone()).collect();
            net.generation = document.generation;
        }
        Ok(Applied { errors: net.errors.clone(), ports: net.ports.iter().cloned().collect() })
    }
    fn port_ready(&self, port_id: &str) -> bool {
        self.net().ports.contains(port_id)
    }
    fn instance_metadata_set(&self, instance_id: &str, metadata: Metadata) {
        self.net().metadata.insert(instance_id.to_string(), metadata);
    }
    fn instance_metadata_remove(&self, instance_id: &str) {
        self.net().metadata.remove(instance_id);
    }
    fn passwords_keep(&self, keep: Keep) {
        self.net().keep = Some(keep);
    }
}
