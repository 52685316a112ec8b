//! Volumes on this host's own disk, and in storage that it shares with other hosts ([`store`]).
//!
//! A volume is a chain of qcow2 *layers*. Only the head, the uppermost, is written to. A snapshot freezes the head and lays
//! an empty one over it; a volume made from a snapshot, from another volume or from an image is an empty head over what is
//! there already. So nothing is ever copied, and a layer goes when nothing lies over it any more.
//!
//! A volume that several guests may have open at once is written to in a raw file, which, unlike qcow2, has nothing in it that
//! two processes would keep in mind differently. Snapshots and copies of such a volume are whole copies; guests that have it open
//! stand still until one is made.
//!
//! In shared storage no two volumes have a layer together, so that each can be passed from host to host alone: what is made of another
//! one, or of an image, begins as a whole copy.
//!
//! A volume that a running guest has open is changed through the guest's process, with the guest going on. Who has
//! which volume open is told by the guests' reconcilers ([`Volumes::claim`], [`Volumes::adopted`], [`Volumes::release`]).

mod carry;
pub mod index;
pub mod layers;
pub mod store;
mod stored;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Error, Result};
use rpc::message::{DiskPiece, SharedStorage};
use rpc::volume::{VolumeSpec, VolumeState, VolumeStatus};
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::task::JoinSet;

use crate::documents::{read, replace};
use crate::hypervisor::Machine;
use crate::instance::blocking;
use index::{Index, Stack, Volume, is_raw, is_stored};
use layers::Layers;
use store::Store;

/// The guest that has a volume open, or may have.
#[derive(Clone)]
struct User {
    instance_id: String,
    /// None as long as it is not certain whether there is a process.
    machine: Option<Arc<dyn Machine>>,
}

#[derive(Default)]
struct Board {
    statuses: BTreeMap<String, VolumeStatus>,
    dirty: BTreeSet<String>,
}

/// All volumes of a host.
pub struct Volumes {
    layers: Arc<dyn Layers>,
    file: PathBuf,
    sync: bool,
    /// The storage that this host shares with others, if it has one.
    store: Option<Arc<Store>>,
    /// Whether this host may work on what other hosts may keep by now.
    leased: Leased,
    index: Mutex<Index>,
    /// Held while the index is being written: one version after the other reaches the disk.
    writer: tokio::sync::Mutex<()>,
    /// One piece of work on a volume at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    users: watch::Sender<HashMap<String, Vec<User>>>,
    /// Guests that stand still for a copy of what they share, with the number of such copies.
    still: Mutex<HashMap<String, usize>>,
    board: Mutex<Board>,
    pub(crate) changed: Notify,
    /// Volumes whose newest document is being worked on, with its channel.
    wanted: Mutex<HashMap<String, watch::Sender<Arc<VolumeSpec>>>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Whether a host holds its lease, at this moment.
pub type Leased = Box<dyn Fn() -> bool + Send + Sync>;

/// Volumes that a guest is about to open: nobody else touches them before this is dropped.
pub struct Claims {
    pub volumes: Vec<(String, Stack)>,
    _turns: Vec<OwnedMutexGuard<()>>,
}

/// How long the start of a guest waits for its volumes, and how often it looks.
const READY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Volumes {
    /// Takes up the volumes of this home. A damaged index is an error: without it nobody knows what the files are.
    pub fn open(
        home: &std::path::Path,
        layers: Arc<dyn Layers>,
        sync: bool,
        store: Option<Arc<Store>>,
        leased: Leased,
    ) -> Result<Arc<Volumes>> {
        let file = home.join("host").join("volumes.json");
        let index: Index = read(&file)?.unwrap_or_default();
        Ok(Arc::new(Volumes {
            layers,
            file,
            sync,
            store,
            leased,
            index: Mutex::new(index),
            writer: tokio::sync::Mutex::default(),
            turns: Mutex::default(),
            users: watch::channel(HashMap::new()).0,
            still: Mutex::default(),
            board: Mutex::default(),
            changed: Notify::new(),
            wanted: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// Goes on with what was under way, and clears away what broke off. Guests that may have volumes open are known by now.
    pub fn start(self: &Arc<Self>) {
        let specs: Vec<VolumeSpec> = {
            let index = lock(&self.index);
            index.volumes.values().map(|v| &v.spec).chain(index.stored.values()).cloned().collect()
        };
        for spec in specs {
            self.work(spec);
        }
        let this = self.clone();
        lock(&self.tasks).spawn(async move {
            if let Err(e) = this.sweep().await {
                tracing::warn!("volumes: {}", e.chain());
            }
        });
    }

    /// Lets each piece of work come to the end of its step.
    pub async fn stop(&self) {
        lock(&self.wanted).clear();
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(std::time::Duration::from_secs(10), all).await.is_err() {
            tracing::warn!("work on volumes did not end in time");
        }
        tasks.shutdown().await;
    }

    pub fn abort(&self) {
        lock(&self.tasks).abort_all();
    }

    /// Takes a wanted document; an older one than known is ignored.
    pub fn wanted(self: &Arc<Self>, spec: VolumeSpec) {
        if !base::id::is_uuid(&spec.id) || spec.exports.iter().any(|e| !base::id::is_uuid(&e.id)) {
            tracing::error!("a document names no volume: `{}`", spec.id);
            return;
        }
        let known = {
            let index = lock(&self.index);
            index.stored.get(&spec.id).or(index.volumes.get(&spec.id).map(|v| &v.spec)).map(|known| known.generation)
        };
        if known.is_some_and(|known| known >= spec.generation) && lock(&self.board).statuses.contains_key(&spec.id) {
            // The controller may have missed what we said of it.
            lock(&self.board).dirty.insert(spec.id);
            self.changed.notify_one();
            return;
        }
        self.work(spec);
    }

    fn work(self: &Arc<Self>, spec: VolumeSpec) {
        let mut wanted = lock(&self.wanted);
        if let Some(sender) = wanted.get(&spec.id) {
            sender.send_if_modified(|known| {
                let newer = spec.generation > known.generation;
                if newer {
                    *known = Arc::new(spec);
                }
                newer
            });
            return;
        }
        let id = spec.id.clone();
        let (sender, receiver) = watch::channel(Arc::new(spec));
        wanted.insert(id.clone(), sender);
        drop(wanted);
        let this = self.clone();
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { this.run(id, receiver).await });
    }

    /// Statuses to be sent.
    pub fn take_dirty(&self) -> Vec<VolumeStatus> {
        let mut board = lock(&self.board);
        let dirty = std::mem::take(&mut board.dirty);
        dirty.iter().filter_map(|id| board.statuses.get(id).cloned()).collect()
    }

    /// One that could not be sent.
    pub fn unsent(&self, id: &str) {
        lock(&self.board).dirty.insert(id.to_string());
    }

    /// A volume that is gone is forgotten once this has been said.
    pub fn sent(&self, status: &VolumeStatus) {
        let mut board = lock(&self.board);
        if status.state == VolumeState::Absent && board.statuses.get(&status.id) == Some(status) {
            board.statuses.remove(&status.id);
        }
    }

    /// A session begins: everything is said again.
    pub fn all_dirty(&self) {
        let mut board = lock(&self.board);
        board.dirty = board.statuses.keys().cloned().collect();
    }

    /// The storage that this host shares with others, as long as it is there.
    pub fn storage(&self) -> Option<SharedStorage> {
        self.store.as_ref()?.seen()
    }

    /// Images that volumes lie over: the cache keeps them.
    pub fn images(&self) -> BTreeSet<String> {
        lock(&self.index).images()
    }

    pub async fn export_read(&self, id: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        {
            let index = lock(&self.index);
            let of = carry::whole_of(id).unwrap_or_default();
            let whole = index.exports.get(of).is_some_and(|e| e.bytes.is_some());
            if !whole || !index.export_files(of).iter().any(|file| file == id) {
                return Err(Error::not_found("Export", id));
            }
        }
        self.layers.export_read(id, offset, length.min(4 << 20)).await
    }

    /// Takes a part of what a volume that comes from another host will hold.
    pub async fn parcel_write(&self, id: &str, volume: &str, offset: u64, piece: &DiskPiece) -> Result<()> {
        if carry::whole_of(id).is_none() || !base::id::is_uuid(volume) {
            return Err(Error::invalid("a parcel has a UUID, and so has its volume"));
        }
        let _turn = self.turn(volume).await;
        if self.volume(volume).is_some() {
            return Err(Error::conflict(format!("volume {volume} is here already")));
        }
        let known = lock(&self.index).parcels.get(id).map(|of| of == volume);
        match known {
            Some(true) => {}
            None if offset == 0 => self.update(|index| index.parcels.insert(id.to_string(), volume.to_string())).await.map(drop)?,
            _ => return Err(Error::invalid(format!("nothing came before this part of parcel {id}"))),
        }
        self.layers.parcel_write(id, offset, piece).await
    }

    pub async fn parcel_keep(&self, id: &str, bytes: u64) -> Result<()> {
        let volume = lock(&self.index).parcels.get(id).cloned().ok_or_else(|| Error::not_found("Parcel", id))?;
        let _turn = self.turn(&volume).await;
        self.layers.parcel_keep(id, bytes).await
    }

    fn report(&self, status: VolumeStatus) {
        let mut board = lock(&self.board);
        if board.statuses.get(&status.id) != Some(&status) {
            tracing::info!(volume = status.id, state = ?status.state, generation = status.generation, error = status.error);
            board.dirty.insert(status.id.clone());
            board.statuses.insert(status.id.clone(), status);
            drop(board);
            self.changed.notify_one();
        }
    }

    /// Changes the index, on disk first.
    async fn update<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T> {
        let _writer = self.writer.lock().await;
        let before = lock(&self.index).clone();
        let mut index = before.clone();
        let value = change(&mut index);
        self.records_write(&before, &index).await?;
        let own = index.own();
        if own != before.own() {
            let bytes = serde_json::to_vec(&own).map_err(|e| Error::internal("cannot write the index of volumes").caused_by(e))?;
            let (file, sync) = (self.file.clone(), self.sync);
            blocking(move || replace(&file, &bytes, sync)).await?;
        }
        *lock(&self.index) = index;
        Ok(value)
    }

    fn volume(&self, id: &str) -> Option<Volume> {
        lock(&self.index).volumes.get(id).cloned()
    }

    /// Removes files that nothing needs any more.
    async fn sweep(&self) -> Result<()> {
        let (layers, exports, files) = {
            let index = lock(&self.index);
            let exports = index.unused_exports();
            let files: Vec<String> = exports.iter().flat_map(|id| index.export_files(id)).collect();
            (index.unused_layers(), exports, files)
        };
        let reached = self.storage().is_some() && (self.leased)();
        let layers: Vec<String> = layers.into_iter().filter(|layer| reached || !is_stored(layer)).collect();
        if layers.is_empty() && exports.is_empty() {
            return Ok(());
        }
        for layer in &layers {
            self.layers.remove(layer).await?;
        }
        for file in &files {
            self.layers.export_remove(file).await?;
        }
        self.update(|index| {
            index.layers.retain(|name, _| !layers.contains(name));
            index.exports.retain(|id, _| !exports.contains(id));
        })
        .await
    }

    async fn turn(&self, id: &str) -> OwnedMutexGuard<()> {
        let turn = lock(&self.turns).entry(id.to_string()).or_default().clone();
        turn.lock_owned().await
    }
}

/// What guests' reconcilers say.
impl Volumes {
    /// A guest that may have these open, of an earlier life of this agent: nobody knows before its reconciler has looked.
    pub fn suspected(&self, instance_id: &str, volumes: impl Iterator<Item = String>) {
        self.users.send_modify(|users| {
            for id in volumes {
                user_set(users, &id, instance_id, None);
            }
        });
    }

    /// Waits until all of these are made: a guest's document may come before theirs. `comes`: the guest comes running from another host,
    /// which may keep them yet.
    pub async fn ready(&self, ids: &[String], comes: bool) -> Result<()> {
        let end = tokio::time::Instant::now() + READY;
        loop {
            let missing = {
                let index = lock(&self.index);
                let there = |v: &Volume| v.head.is_some() && !v.spec.absent && (comes || !v.is_visited());
                ids.iter().find(|id| !index.volumes.get(*id).is_some_and(there)).cloned()
            };
            match missing {
                None => return Ok(()),
                Some(id) if tokio::time::Instant::now() > end => return Err(Error::unavailable(format!("volume {id} is not there"))),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Takes volumes for a guest that is about to open them; `comes` as in [`Volumes::ready`].
    pub async fn claim(&self, instance_id: &str, ids: &[String], comes: bool) -> Result<Claims> {
        let mut sorted: Vec<&String> = ids.iter().collect();
        // Always in the same order, so that two guests never wait for each other.
        sorted.sort();
        sorted.dedup();
        let mut turns = Vec::new();
        for id in sorted {
            turns.push(self.turn(id).await);
        }
        let (mut volumes, mut shared) = (Vec::new(), BTreeSet::new());
        for id in ids {
            let index = lock(&self.index);
            let volume = index.volumes.get(id).filter(|v| !v.spec.absent && (comes || !v.is_visited()));
            let head = volume.and_then(|v| v.head.clone()).ok_or_else(|| Error::unavailable(format!("volume {id} is not there")))?;
            volumes.push((id.clone(), index.stack(&head)?));
            if volume.is_some_and(|v| v.spec.shared) && is_raw(&head) {
                shared.insert(id.clone());
            }
        }
        let mut taken = None;
        self.users.send_modify(|users| {
            let others = |id: &&String| users.get(*id).is_some_and(|all| all.iter().any(|u| u.instance_id != instance_id));
            taken = ids.iter().filter(|id| !shared.contains(*id)).find(others).cloned();
            if taken.is_none() {
                for id in ids {
                    user_set(users, id, instance_id, None);
                }
            }
        });
        match taken {
            Some(id) => Err(Error::unavailable(format!("volume {id} is in use by another guest"))),
            None => Ok(Claims { volumes, _turns: turns }),
        }
    }

    /// A guest's process has these open, and no others.
    pub fn adopted(&self, instance_id: &str, machine: &Arc<dyn Machine>, open: &BTreeSet<String>) {
        self.users.send_modify(|users| {
            user_gone(users, instance_id, |id| !open.contains(id));
            for id in open {
                user_set(users, id, instance_id, Some(machine.clone()));
            }
        });
    }

    /// A guest has no process.
    pub fn release(&self, instance_id: &str) {
        self.users.send_if_modified(|users| user_gone(users, instance_id, |_| true));
    }

    /// The guests that have a volume open, with their machines; waits until that is certain.
    async fn users(&self, id: &str) -> Result<Vec<(String, Arc<dyn Machine>)>> {
        let mut users = self.users.subscribe();
        loop {
            let all = users.borrow_and_update().get(id).cloned().unwrap_or_default();
            let Some(unsure) = all.iter().find(|u| u.machine.is_none()) else {
                return Ok(all.into_iter().filter_map(|u| Some((u.instance_id, u.machine?))).collect());
            };
            if tokio::time::timeout(Duration::from_secs(5), users.changed()).await.is_err() {
                let guest = &unsure.instance_id;
                return Err(Error::unavailable(format!("guest {guest}, which may have volume {id} open, does not answer")));
            }
        }
    }

    /// An error as long as a guest has the volume open.
    async fn unused(&self, id: &str) -> Result<()> {
        match self.users(id).await?.first() {
            None => Ok(()),
            Some((guest, _)) => Err(Error::unavailable(format!("guest {guest} has volume {id} open"))),
        }
    }

    /// Whether a guest stands still for a copy: then nobody lets it go on.
    pub fn stands_still(&self, instance_id: &str) -> bool {
        lock(&self.still).contains_key(instance_id)
    }

    /// Stops all who write to a volume, each with everything written that it had begun to write. They go on when their
    /// reconcilers find that nothing holds them any more, which is the case as soon as what this answers is dropped.
    async fn stand_still(&self, id: &str) -> Result<Still<'_>> {
        let users = self.users(id).await?;
        let guests: Vec<String> = users.iter().map(|(guest, _)| guest.clone()).collect();
        for guest in &guests {
            *lock(&self.still).entry(guest.clone()).or_default() += 1;
        }
        let still = Still { volumes: self, guests };
        for (_, machine) in users {
            machine.pause().await?;
        }
        Ok(still)
    }
}

struct Still<'a> {
    volumes: &'a Volumes,
    guests: Vec<String>,
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let mut still = lock(&self.volumes.still);
        for guest in &self.guests {
            match still.get_mut(guest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(still.remove(guest)),
            }
        }
    }
}

type Users = HashMap<String, Vec<User>>;

fn user_set(users: &mut Users, volume: &str, instance_id: &str, machine: Option<Arc<dyn Machine>>) {
    let all = users.entry(volume.to_string()).or_default();
    all.retain(|u| u.instance_id != instance_id);
    all.push(User { instance_id: instance_id.to_string(), machine });
}

/// A guest has these open no more; answers whether it had any.
fn user_gone(users: &mut Users, instance_id: &str, which: impl Fn(&String) -> bool) -> bool {
    let mut changed = false;
    users.retain(|id, all| {
        let before = all.len();
        all.retain(|u| u.instance_id != instance_id || !which(id));
        changed |= all.len() != before;
        !all.is_empty()
    });
    changed
}
