//! The host's agent: keeps the guests' reconcilers and the network going, and one session with the controller
//! that tells what is wanted and hears what is. Without a controller everything goes on as last wanted.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::error::Internal;
use base::{Config, Error, Result, Timestamp};
use futures_util::future::BoxFuture;
use guest::scale::Change;
use monitor::{Monitor, Settings};
use nix::fcntl::{Flock, FlockArg};
use rpc::instance::{InstanceSpec, InstanceState, InstanceStatus, Power};
use rpc::message::{DiskPiece, HostEventKind, HostInfo, Part, Request, Response, Secret, ToController, ToHost, VERSIONS};
use rpc::monitor::MonitorReport;
use rpc::network::NetworkDocument;
use rpc::session::HostEnd;
use rpc::stream::{Frame, Streams};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::arrivals;
use crate::consoles::{self, Holders};
use crate::cpus::Cpus;
use crate::disk_files;
use crate::documents::{self, Documents, Journal};
use crate::events::Events;
use crate::group_channel::Groups;
use crate::guard;
use crate::guarded::Guarded;
use crate::guest_channel::Channels;
use crate::hypervisor::{Abilities, Hypervisor, Machine};
use crate::info::{self, host_info};
use crate::instance::{Instance, blocking};
use crate::lease::LeaseFile;
use crate::lend::{self, Lending};
use crate::promises::{bandwidths, packet_rates};
use crate::ready::Ready;
use crate::reboot;
use crate::volume::Volumes;
use crate::volume::store::Store;
use crate::wire::{Applied, Wire};

/// Makes a new link to a controller, whichever can be reached.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Result<HostEnd>> + Send + Sync>;

/// Guests that may boot at once after the machine rebooted.
const BOOTING: usize = 2;
const WELCOME: Duration = Duration::from_secs(10);
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Different reasons for having no session that are told.
const REASONS: usize = 16;
/// The network is applied again this often, whatever happened to it meanwhile.
const REAPPLY: Duration = Duration::from_secs(30);
/// How long the machine's network may take to become as wanted.
const APPLY: Duration = Duration::from_secs(60);
/// How long a guest's task may take to end the step it is in.
const LEAVE: Duration = Duration::from_secs(10);
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How often guests that nobody knows are looked for while there is no lease.
const SWEEP: Duration = Duration::from_secs(1);
const INVENTORY: Duration = Duration::from_secs(60);
/// The largest piece of a copy in one answer; as text it must fit a message.
const PIECE: u32 = 4 << 20;
/// Questions answered at once.
const REQUESTS: usize = 16;

pub struct Options {
    pub config: Config,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub wire: Arc<dyn Wire>,
    pub dial: Dial,
    /// False for simulated hosts only: nothing is synced to disk, and there is no machine to monitor.
    pub sync: bool,
    /// The id that its certificate names; none where there is no certificate.
    pub id: Option<String>,
    /// The program that is this host's guard when it is told `guard`; none where the host and its controller are one process.
    pub guard: Option<PathBuf>,
}

/// What came of the newest network document.
#[derive(Clone, Default)]
struct NetworkState {
    generation: u64,
    ports: Vec<String>,
    error: Option<String>,
}

/// What is known of a guest now.
struct Entry {
    status: InstanceStatus,
    ports: Vec<String>,
    machine: Option<Arc<dyn Machine>>,
}

#[derive(Default)]
struct Board {
    entries: HashMap<String, Entry>,
    /// Guests whose status the controller has not been sent.
    dirty: BTreeSet<String>,
}

pub(crate) struct Shared {
    pub(crate) documents: Documents,
    pub(crate) events: Arc<Events>,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) volumes: Arc<Volumes>,
    /// Processors that guests have for themselves.
    pub(crate) cpus: Cpus,
    /// The heartbeats of guests.
    pub(crate) channels: Channels,
    /// What they say to the others of their groups.
    pub(crate) groups: Groups,
    pub(crate) boot_id: String,
    pub(crate) holders: Holders,
    lending: Lending,
    config: Config,
    host_id: String,
    board: Mutex<Board>,
    changed: Notify,
    instances: Mutex<HashMap<String, watch::Sender<Arc<InstanceSpec>>>>,
    tasks: Mutex<Tasks>,
    network: watch::Sender<Option<Arc<NetworkDocument>>>,
    network_state: watch::Sender<NetworkState>,
    /// Guests that have come here running, of which the network document does not know it yet.
    arrived: watch::Sender<BTreeSet<String>>,
    guarded: Option<Arc<Guarded>>,
    lease: watch::Sender<bool>,
    monitor: Option<Monitor>,
    ready: Ready,
}

#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<tokio::task::Id, String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A running agent. Dropping it stops the agent; guests go on.
pub struct AgentHandle {
    shared: Arc<Shared>,
    own: JoinSet<()>,
    /// One agent a home: two would fight over every guest.
    _lock: Flock<std::fs::File>,
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        lock(&self.shared.tasks).set.abort_all();
        self.shared.channels.end();
        self.shared.groups.end();
        self.shared.volumes.abort();
    }
}

pub struct Agent;

impl Agent {
    /// Takes up all guests and the network from the host's disk, then calls the controller, for ever.
    pub async fn start(options: Options) -> Result<AgentHandle> {
        let home = options.config.home();
        let documents = Documents::open(&home, options.sync)?;
        if let Some(id) = &options.id {
            remember(&home, id)?;
        }
        let lock_file = take_lock(documents.root().join("lock")).await?;
        documents.tidy()?;
        let host_id = documents.host_id()?;
        let events = Arc::new(Events::open(documents.root().join("events.jsonl"), options.sync)?);
        let network = documents.network().unwrap_or_else(|e| {
            // The controller sends it again; until then the network stays as it is.
            tracing::error!("{}", e.chain());
            None
        });
        let mut instances = documents.instances()?;
        let boot_id = options.hypervisor.boot_id();
        let guarded = options.guard.map(|program| Guarded::open(&home, program)).transpose()?.map(Arc::new);
        let monitor = options.sync.then(|| Monitor::start(Settings::of(&options.config)));
        let store = Store::open(&options.config, &host_id, options.sync);
        let holds = guarded.clone();
        let leased = Box::new(move || holds.as_ref().is_none_or(|guarded| guarded.holds()));
        let volumes = Volumes::open(&home, options.hypervisor.layers(), options.sync, store.clone(), leased)?;
        bandwidths(&options.config)?;
        packet_rates(&options.config, &info::name(&options.config))?;
        let cpus = Cpus::open(&options.config, options.hypervisor.processors())?;
        instances.iter().for_each(|(spec, journal)| cpus.restore(&spec.id, &journal.pins));
        let shared = Arc::new(Shared {
            documents,
            cpus,
            channels: Channels::new(events.clone()),
            groups: Groups::new(),
            events,
            hypervisor: options.hypervisor,
            wire: options.wire,
            volumes,
            boot_id,
            holders: Holders::default(),
            lending: Lending::default(),
            config: options.config,
            host_id,
            board: Mutex::default(),
            changed: Notify::new(),
            instances: Mutex::default(),
            tasks: Mutex::default(),
            network: watch::channel(network.map(Arc::new)).0,
            network_state: watch::channel(NetworkState::default()).0,
            arrived: watch::channel(BTreeSet::new()).0,
            guarded,
            lease: watch::channel(true).0,
            monitor,
            ready: Ready::default(),
        });

        let journal = shared.events.clone();
        shared.wire.passwords_keep(Arc::new(move |instance, password| {
            let kind = HostEventKind::PasswordPosted { instance_id: instance.into(), password: Secret(password.into()) };
            journal.record(Timestamp::now(), kind).map(drop)
        }));
        let mut own = JoinSet::new();
        own.spawn(network_task(shared.clone()));
        if let Some(store) = store {
            own.spawn(store.watch());
        }
        if shared.guarded.is_some() {
            own.spawn(guard_keep(shared.clone()));
            own.spawn(lease_watch(shared.clone()));
        }
        // Guests of an earlier boot of the machine return in order of priority, the others are only looked up.
        instances.sort_by_key(|(spec, _)| (spec.recovery.priority, spec.id.clone()));
        let mut returning = Vec::new();
        for (spec, journal) in &instances {
            shared.volumes.suspected(&spec.id, journal.volumes.iter().cloned());
        }
        shared.volumes.start();
        for (spec, journal) in instances {
            shared.wire.instance_metadata_set(&spec.id, spec.metadata.clone());
            let rebooted = journal.process.as_ref().is_some_and(|p| p.boot_id != shared.boot_id);
            let turn = (rebooted && matches!(spec.power, Power::Running | Power::Paused)).then(|| {
                let (give, turn) = oneshot::channel();
                returning.push(give);
                turn
            });
            let generation = spec.generation;
            shared.begin(spec, journal, Some(generation), turn);
        }
        own.spawn(async move {
            let places = Arc::new(Semaphore::new(BOOTING));
            for give in returning {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                // A guest that is no longer wanted has left; its place comes back at once.
                let _ = give.send(place);
            }
        });
        own.spawn(housekeeping(shared.clone()));
        own.spawn(watchdog(shared.clone()));
        own.spawn(sessions(shared.clone(), options.dial));
        Ok(AgentHandle { shared, own, _lock: lock_file })
    }
}

/// A host that joined and has no id any more has lost what it knew. It is the one that its certificate names; and as long as its
/// controller has not given it the right to, it keeps nothing that may run elsewhere.
fn remember(home: &std::path::Path, id: &str) -> Result<()> {
    if documents::id(home)?.is_some() {
        return Ok(());
    }
    tracing::error!("this host has lost what it knew ({}): its controller tells it anew", home.join("host").display());
    let lease = LeaseFile::open(home)?;
    if lease.until().is_none() {
        lease.write(heartbeat::Moment::ZERO)?;
    }
    documents::id_restore(home, id)
}

async fn take_lock(path: PathBuf) -> Result<Flock<std::fs::File>> {
    let mut tries = 0;
    loop {
        let file = std::fs::File::create(&path).internal("cannot open the host's lock")?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // An agent that is just leaving, as when sturnus is replaced by a newer one.
            Err((_, nix::Error::EWOULDBLOCK)) if tries < 100 => tries += 1,
            Err((_, e)) => return Err(Error::conflict(format!("{} is held by another agent", path.display())).caused_by(e)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl AgentHandle {
    pub fn host_id(&self) -> &str {
        &self.shared.host_id
    }

    /// What is known of every guest now.
    pub fn statuses(&self) -> Vec<InstanceStatus> {
        lock(&self.shared.board).entries.values().map(|e| e.status.clone()).collect()
    }

    /// Stops the agent and waits until nothing of it runs. Guests and network stay as they are.
    pub async fn stop(mut self) {
        self.own.shutdown().await;
        self.shared.channels.end();
        self.shared.groups.end();
        // Without their channels the guests' tasks end, each after the step it is in: work on the disk goes on
        // when its task is cut off, and must not meet that of the next agent.
        lock(&self.shared.instances).clear();
        let mut set = std::mem::take(&mut lock(&self.shared.tasks).set);
        let all = async { while set.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE, all).await.is_err() {
            tracing::warn!("guests' tasks did not end in time");
        }
        set.shutdown().await;
        self.shared.volumes.stop().await;
    }
}

impl Shared {
    /// A guest that was on its way here runs.
    pub(crate) fn arrived(&self, id: &str) {
        self.arrived.send_if_modified(|all| all.insert(id.to_string()));
    }

    /// Whether guests that could be started elsewhere may run here, at this moment.
    pub(crate) fn leased(&self) -> bool {
        self.guarded.as_ref().is_none_or(|guarded| guarded.holds())
    }

    /// Where other hosts reach this one.
    pub(crate) fn address(&self) -> String {
        let given = self.config.text("host.address");
        if given.is_empty() { self.config.listen().ip().to_string() } else { given.to_string() }
    }

    /// The host as it describes itself.
    fn info(&self, abilities: &Abilities) -> HostInfo {
        let guarded = self.guarded.is_some();
        let info = host_info(&self.config, &self.host_id, abilities);
        let (dedicated, shared, threads) = (self.cpus.dedicated(), self.cpus.shared(), self.cpus.threaded());
        let set = dedicated.len() + shared.as_ref().map_or(0, Vec::len);
        let vcpus = if set == 0 { info.vcpus } else { u32::try_from(set).unwrap_or(u32::MAX) };
        let (boot_id, tunnel_key) = (self.boot_id.clone(), self.wire.tunnel_key());
        let storage = self.volumes.storage();
        let (disk_gib, free_disk_gib) = self.hypervisor.disk(&self.config.home());
        HostInfo {
            guarded,
            waits: guarded,
            boot_id,
            tunnel_key,
            vcpus,
            dedicated,
            shared,
            threads,
            storage,
            disk_gib,
            free_disk_gib,
            ..info
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn lease_changes(&self) -> watch::Receiver<bool> {
        self.lease.subscribe()
    }

    /// Starts a guest's reconciler.
    fn begin(
        self: &Arc<Self>,
        spec: InstanceSpec,
        journal: Journal,
        stored: Option<u64>,
        turn: Option<oneshot::Receiver<tokio::sync::OwnedSemaphorePermit>>,
    ) {
        let id = spec.id.clone();
        let (sender, wanted) = watch::channel(Arc::new(spec));
        lock(&self.instances).insert(id.clone(), sender);
        self.run(id, Instance::new(self.clone(), wanted, journal, stored, turn));
    }

    fn run(&self, id: String, instance: Instance) {
        let mut tasks = lock(&self.tasks);
        let handle = tasks.set.spawn(instance.run());
        tasks.names.insert(handle.id(), id);
    }

    /// Takes a wanted document; an older one than known is ignored.
    fn instance_wanted(self: &Arc<Self>, spec: InstanceSpec) {
        if !base::id::is_uuid(&spec.id) {
            tracing::error!("a document names no instance: `{}`", spec.id);
            return;
        }
        let instances = lock(&self.instances);
        let Some(sender) = instances.get(&spec.id) else {
            drop(instances);
            self.begin(spec, Journal::default(), None, None);
            return;
        };
        let id = spec.id.clone();
        let newer = sender.send_if_modified(|known| {
            let newer = spec.generation > known.generation;
            if newer {
                *known = Arc::new(spec);
            }
            newer
        });
        drop(instances);
        if !newer {
            // The controller may have missed what we said of it.
            let mut board = lock(&self.board);
            if board.entries.contains_key(&id) {
                board.dirty.insert(id);
            }
            drop(board);
            self.changed.notify_one();
        }
    }

    /// Lets go of a guest that is gone, unless a newer document wants it again.
    pub(crate) fn forget(&self, id: &str, wanted: &watch::Receiver<Arc<InstanceSpec>>) -> bool {
        let mut instances = lock(&self.instances);
        if wanted.has_changed().unwrap_or(false) {
            return false;
        }
        instances.remove(id);
        true
    }

    pub(crate) fn report(&self, status: InstanceStatus, ports: Vec<String>, machine: Option<Arc<dyn Machine>>) {
        let mut board = lock(&self.board);
        let before = board.entries.get(&status.id);
        let same = before.is_some_and(|e| e.status == status);
        let ports_changed = before.map_or(!ports.is_empty(), |e| e.ports != ports);
        if !same {
            tracing::info!(instance = status.id, state = ?status.state, generation = status.generation, pid = status.pid, error = status.error);
            board.dirty.insert(status.id.clone());
        }
        board.entries.insert(status.id.clone(), Entry { status, ports, machine });
        drop(board);
        if !same {
            self.changed.notify_one();
        }
        if ports_changed {
            self.network_state.send_modify(|_| {});
        }
    }

    /// Changes each time the network has been applied.
    pub(crate) fn network_applied(&self) -> watch::Receiver<impl Sized + use<>> {
        self.network_state.subscribe()
    }

    /// Statuses to be sent; those of guests that are gone are forgotten with it.
    fn take_dirty(&self) -> Vec<InstanceStatus> {
        let mut board = lock(&self.board);
        let dirty = std::mem::take(&mut board.dirty);
        dirty.iter().filter_map(|id| board.entries.get(id).map(|e| e.status.clone())).collect()
    }

    fn sent(&self, status: &InstanceStatus) {
        let mut board = lock(&self.board);
        if status.state == rpc::instance::InstanceState::Absent && board.entries.get(&status.id).is_some_and(|e| e.status == *status) {
            board.entries.remove(&status.id);
        }
    }

    fn network_message(&self) -> Option<ToController> {
        let state = self.network_state.borrow().clone();
        if state.generation == 0 {
            return None;
        }
        let board = lock(&self.board);
        let attached: std::collections::HashSet<&String> = board.entries.values().flat_map(|e| &e.ports).collect();
        let ports_up = state.ports.iter().filter(|p| attached.contains(p)).cloned().collect();
        Some(ToController::Network { generation: state.generation, ports_up, error: state.error })
    }
}

/// Keeps a guard going, from the moment there is something to guard.
async fn guard_keep(shared: Arc<Shared>) {
    let Some(guarded) = &shared.guarded else { return };
    let mut pause = REDIAL.0;
    loop {
        let began = tokio::time::Instant::now();
        if let Err(e) = guarded.watch().await {
            tracing::error!("the guard: {}", e.chain());
        }
        // At once after one that has run; one that cannot, as when its port is taken, is not tried twenty times a second.
        pause = if began.elapsed() > REDIAL.1 { REDIAL.0 } else { (pause * 2).min(REDIAL.1) };
        tokio::time::sleep(pause).await;
    }
}

/// Reboots this machine when a process without which it cannot be counted on does not come back.
async fn watchdog(shared: Arc<Shared>) {
    let Some(mut lost) = shared.monitor.as_ref().map(|monitor| monitor.board.quorum()) else { return };
    while lost.changed().await.is_ok() {
        let why = format!("its process '{}' does not come back", *lost.borrow_and_update());
        if let Err(left) = reboot::unless_left(&shared.config, shared.guarded.as_deref(), &why) {
            tracing::error!("{why}; {left}");
        }
    }
}

/// Wakes the guests' tasks when the host gets or loses its lease. They end guests that may run elsewhere; of those that this host no
/// longer knows there is no task.
async fn lease_watch(shared: Arc<Shared>) {
    let mut swept: Option<tokio::time::Instant> = None;
    loop {
        let holds = shared.leased();
        if holds {
            swept = None;
        } else if swept.is_none_or(|at| at.elapsed() > SWEEP) {
            swept = Some(tokio::time::Instant::now());
            let (home, known) = (shared.config.home(), lock(&shared.instances).keys().cloned().collect::<BTreeSet<String>>());
            let _ = tokio::task::spawn_blocking(move || guard::strays_end(&home, |id| known.contains(id))).await;
        }
        let changed = shared.lease.send_if_modified(|known| std::mem::replace(known, holds) != holds);
        match (changed, holds) {
            (true, false) => tracing::warn!("this host has lost its lease: guests that may run elsewhere end here"),
            (true, true) => tracing::info!("this host has its lease again"),
            _ => {}
        }
        tokio::time::sleep(REDIAL.0).await;
    }
}

/// Stores and applies network documents; the newest wins.
async fn network_task(shared: Arc<Shared>) {
    let mut wanted = shared.network.subscribe();
    let mut lease = shared.lease_changes();
    let mut arrived = shared.arrived.subscribe();
    let mut stored = wanted.borrow().as_ref().map(|d| d.generation);
    let mut failures = 0u32;
    loop {
        let document = wanted.borrow_and_update().clone();
        let mut pause = REAPPLY;
        if let Some(document) = document {
            // Of whom the document does not say any more that it comes, it knows.
            shared.arrived.send_if_modified(|all| {
                let before = all.len();
                all.retain(|id| arrivals::awaits(&document, id));
                all.len() != before
            });
            let here = arrived.borrow_and_update().clone();
            let now = arrivals::as_it_is(&document, shared.leased(), &here);
            let apply = tokio::time::timeout(APPLY, shared.wire.apply(now.as_ref().unwrap_or(&document)));
            let store = async {
                if stored == Some(document.generation) {
                    return Ok(());
                }
                let (documents, copy) = (shared.documents.clone(), document.clone());
                blocking(move || documents.network_store(&copy)).await
            };
            // Packets do not wait for the disk.
            let (outcome, kept) = tokio::join!(apply, store);
            match kept {
                Ok(()) => stored = Some(document.generation),
                Err(e) => tracing::error!("{}", e.chain()),
            }
            let outcome = outcome.unwrap_or_else(|_| Err(Error::timeout("the network could not be applied in time")));
            let applied = outcome.unwrap_or_else(|e| Applied { errors: vec![e.chain()], ports: vec![] });
            failures = if applied.errors.is_empty() { 0 } else { failures + 1 };
            if failures > 0 {
                tracing::warn!(generation = document.generation, "network: {}", applied.errors.join("; "));
                pause = Duration::from_millis(250 << failures.min(7)).min(REAPPLY);
            }
            let error = (!applied.errors.is_empty()).then(|| applied.errors.join("; "));
            let mut ports = applied.ports;
            ports.sort();
            let state = NetworkState { generation: document.generation, ports, error };
            shared.network_state.send_replace(state);
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            _ = lease.changed() => {}
            _ = arrived.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Console logs, image cache, and reconcilers that ended as they should not.
async fn housekeeping(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let wanted: Vec<InstanceSpec> = lock(&shared.instances).values().map(|s| (**s.borrow()).clone()).collect();
        if let Err(e) = shared.hypervisor.maintain(&wanted, &shared.volumes.images()).await {
            tracing::warn!("{}", e.chain());
        }
        let mut broken = Vec::new();
        {
            let mut tasks = lock(&shared.tasks);
            while let Some(ended) = tasks.set.try_join_next_with_id() {
                let (task, panicked) = match ended {
                    Ok((task, ())) => (task, false),
                    Err(e) => (e.id(), e.is_panic()),
                };
                if let Some(id) = tasks.names.remove(&task).filter(|_| panicked) {
                    broken.push(id);
                }
            }
        }
        if broken.is_empty() {
            continue;
        }
        let documents = shared.documents.clone();
        match blocking(move || documents.instances()).await {
            Ok(stored) => {
                for (spec, journal) in stored.into_iter().filter(|(s, _)| broken.contains(&s.id)) {
                    tracing::error!(instance = spec.id, "its reconciler broke; starting it again");
                    // The newest document may not have reached the disk.
                    let known = lock(&shared.instances).get(&spec.id).map(|s| (**s.borrow()).clone());
                    let generation = spec.generation;
                    let newest = known.filter(|k| k.generation > generation).unwrap_or(spec);
                    shared.begin(newest, journal, Some(generation), None);
                }
            }
            Err(e) => tracing::error!("{}", e.chain()),
        }
    }
}

/// Calls the controller until it answers, again and again.
async fn sessions(shared: Arc<Shared>, dial: Dial) {
    let mut pause = REDIAL.0;
    // A controller may be away for days: each reason is told once until there has been a session again.
    let mut told: BTreeSet<String> = BTreeSet::new();
    loop {
        let failure = match dial().await {
            Ok(end) => match session(&shared, end).await {
                Ok(()) => {
                    pause = REDIAL.0;
                    told.clear();
                    None
                }
                Err(e) => Some(e.chain()),
            },
            Err(e) => Some(e.chain()),
        };
        if let Some(reason) = failure.filter(|reason| told.len() < REASONS && !told.contains(reason)) {
            tracing::warn!("no session with the controller: {reason}");
            told.insert(reason);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REDIAL.1);
    }
}

/// One session, until either side ends it. Ok when it had begun.
async fn session(shared: &Arc<Shared>, end: HostEnd) -> Result<()> {
    let HostEnd { outgoing, mut incoming } = end;
    let info = shared.info(&shared.hypervisor.abilities());
    say(&outgoing, ToController::Hello { versions: (*VERSIONS.start(), *VERSIONS.end()), host: info }).await?;
    match tokio::time::timeout(WELCOME, incoming.recv()).await {
        Ok(Some(ToHost::Welcome { version })) if VERSIONS.contains(&version) => {}
        Ok(Some(ToHost::Refused { reason })) => return Err(Error::unavailable(format!("refused: {reason}"))),
        Ok(_) => return Err(Error::unavailable("no welcome")),
        Err(_) => return Err(Error::timeout("the controller does not greet")),
    }
    {
        let mut board = lock(&shared.board);
        board.dirty = board.entries.keys().cloned().collect();
    }
    shared.volumes.all_dirty();
    shared.channels.all_dirty();
    // What was said while there was no session is late news.
    shared.groups.take();
    // Two halves that never wait for each other: a controller that is slow to hear is still heard.
    let outcome = tokio::select! {
        () = listen(shared, incoming, &outgoing) => Ok(()),
        spoken = speak(shared, &outgoing) => spoken,
    };
    if let Err(e) = outcome {
        tracing::debug!("session ended: {}", e.chain());
    }
    Ok(())
}

async fn say(outgoing: &mpsc::Sender<ToController>, message: ToController) -> Result<()> {
    outgoing.send(message).await.map_err(|_| Error::unavailable("the controller has gone"))
}

async fn listen(shared: &Arc<Shared>, mut incoming: mpsc::Receiver<ToHost>, outgoing: &mpsc::Sender<ToController>) {
    let mut answers = JoinSet::new();
    let places = Arc::new(Semaphore::new(REQUESTS));
    let streams = Streams::default();
    let mut carriers = JoinSet::new();
    while let Some(message) = incoming.recv().await {
        match message {
            ToHost::Instance(spec) => shared.instance_wanted(*spec),
            ToHost::Network(document) => {
                shared.network.send_if_modified(|known| {
                    let newer = known.as_ref().is_none_or(|k| document.generation > k.generation);
                    if newer {
                        *known = Some(Arc::new(*document));
                    }
                    newer
                });
            }
            ToHost::Volume(spec) => shared.volumes.wanted(*spec),
            ToHost::Heartbeat(document) => {
                if let Some(guarded) = &shared.guarded
                    && let Err(e) = guarded.take(&document)
                {
                    tracing::error!("{}", e.chain());
                }
            }
            ToHost::Group { instance_id, tell } => shared.groups.tell(&instance_id, tell),
            ToHost::EventsStored { up_to } => {
                if let Err(e) = shared.events.stored(up_to) {
                    tracing::error!("{}", e.chain());
                }
            }
            ToHost::Request { id, request } => {
                let (shared, outgoing, places) = (shared.clone(), outgoing.clone(), places.clone());
                answers.spawn(async move {
                    // Guests take their time, and no place.
                    let _place = match request {
                        Request::GuestAsk { .. } | Request::GuestScale { .. } => None,
                        _ => places.acquire().await.ok(),
                    };
                    let response = answer(&shared, request).await.map_err(|e| e.chain());
                    // When the session ended meanwhile nobody waits any more.
                    let _ = outgoing.send(ToController::Response { id, response }).await;
                });
                while answers.try_join_next().is_some() {}
            }
            ToHost::Stream { id, frame: Frame::Open(target) } if streams.len() < consoles::MOST => {
                let end = streams.enter(id);
                carriers.spawn(consoles::serve(shared.clone(), outgoing.clone(), id, target, end));
                while carriers.try_join_next().is_some() {}
            }
            ToHost::Stream { id, frame } => {
                if !streams.deliver(id, frame) {
                    // When there is no room now, its next frame says the same again.
                    let _ = outgoing.try_send(ToController::Stream { id, frame: Frame::Closed(None) });
                }
            }
            ToHost::Welcome { .. } => {}
            ToHost::Refused { reason } => {
                tracing::warn!("the controller ended the session: {reason}");
                return;
            }
        }
    }
}

async fn speak(shared: &Arc<Shared>, outgoing: &mpsc::Sender<ToController>) -> Result<()> {
    let mut network = shared.network_state.subscribe();
    let mut newest = shared.events.watch();
    let mut told = 0;
    let mut abilities = shared.hypervisor.abilities();
    // Nothing yet: what the first word did not know is said at the first look.
    let mut storage = None;
    let mut last_network = None;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut inventory = tokio::time::Instant::now();
    let monitor = shared.monitor.as_ref();
    let mut seen = monitor.map(|monitor| monitor.board.changes());
    if let (Some(monitor), Some(seen)) = (monitor, &mut seen) {
        seen.borrow_and_update();
        say(outgoing, monitored(shared, monitor)).await?;
    }
    loop {
        // Events go before the states they led to.
        newest.borrow_and_update();
        for (number, event) in shared.events.after(told) {
            told = number;
            say(outgoing, ToController::Event { number, event }).await?;
        }
        for status in shared.take_dirty() {
            let copy = status.clone();
            if let Err(e) = say(outgoing, ToController::Status(status)).await {
                lock(&shared.board).dirty.insert(copy.id);
                return Err(e);
            }
            shared.sent(&copy);
        }
        for status in shared.volumes.take_dirty() {
            let copy = status.clone();
            if let Err(e) = say(outgoing, ToController::Volume(status)).await {
                shared.volumes.unsent(&copy.id);
                return Err(e);
            }
            shared.volumes.sent(&copy);
        }
        for status in shared.channels.take_dirty() {
            say(outgoing, ToController::Guest(status)).await?;
        }
        for (instance_id, said) in shared.groups.take() {
            say(outgoing, ToController::Group { instance_id, said }).await?;
        }
        network.borrow_and_update();
        let message = shared.network_message();
        if message != last_network {
            if let Some(message) = message.clone() {
                say(outgoing, message).await?;
            }
            last_network = message;
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = shared.volumes.changed.notified() => {}
            () = shared.channels.changed.notified() => {}
            () = shared.groups.changed.notified() => {}
            changed = newest.changed() => changed.internal("the event journal is closed")?,
            changed = network.changed() => changed.internal("the network is closed")?,
            () = changed(&mut seen) => {
                if let Some(monitor) = monitor {
                    say(outgoing, monitored(shared, monitor)).await?;
                }
            }
            _ = tick.tick() => {
                let storage_now = shared.volumes.storage().map(|storage| storage.id);
                if shared.hypervisor.abilities() != abilities || storage_now != storage || inventory.elapsed() > INVENTORY {
                    abilities = shared.hypervisor.abilities();
                    storage = storage_now;
                    inventory = tokio::time::Instant::now();
                    say(outgoing, ToController::Host(shared.info(&abilities))).await?;
                    if let Some(monitor) = monitor {
                        say(outgoing, monitored(shared, monitor)).await?;
                    }
                }
            }
            () = outgoing.closed() => return Err(Error::unavailable("the controller has gone")),
        }
    }
}

/// All that the monitors see, and what the ports have dropped.
fn monitored(shared: &Shared, monitor: &Monitor) -> ToController {
    ToController::Monitor(MonitorReport { dropped: shared.wire.dropped(), ..monitor.board.report() })
}

/// Waits until what the monitors see is something else.
async fn changed(seen: &mut Option<watch::Receiver<u64>>) {
    if let Some(seen) = seen {
        if seen.changed().await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

pub(crate) fn machine_of(shared: &Shared, instance_id: &str) -> Result<Arc<dyn Machine>> {
    let machine = lock(&shared.board).entries.get(instance_id).and_then(|e| e.machine.clone());
    machine.ok_or_else(|| Error::conflict(format!("Instance {instance_id} does not run.")))
}

/// A guest whose disks nobody writes to.
fn off(shared: &Shared, instance_id: &str) -> Result<()> {
    let stopped = |e: &Entry| e.machine.is_none() && e.status.state == InstanceState::Stopped;
    match lock(&shared.board).entries.get(instance_id).is_some_and(stopped) {
        true => Ok(()),
        false => Err(Error::conflict(format!("Instance {instance_id} is not off."))),
    }
}

/// A guest that this host does not have.
fn absent(shared: &Shared, instance_id: &str) -> Result<()> {
    match lock(&shared.instances).contains_key(instance_id) {
        false => Ok(()),
        true => Err(Error::conflict(format!("Instance {instance_id} is on this host."))),
    }
}

async fn answer(shared: &Shared, request: Request) -> Result<Response> {
    match request {
        Request::ConsoleLog { instance_id, lines } => Ok(Response::Text(shared.hypervisor.console_log(&instance_id, lines).await?)),
        Request::Diagnostics { instance_id } => Ok(Response::Json(machine_of(shared, &instance_id)?.diagnostics().await?)),
        Request::ReadSnapshot { instance_id, snapshot_id, offset, length } => {
            use base64::Engine;
            let bytes = shared.hypervisor.snapshot_read(&instance_id, &snapshot_id, offset, length.min(PIECE)).await?;
            Ok(Response::Text(base64::engine::general_purpose::STANDARD.encode(bytes)))
        }
        Request::SetPassword { instance_id, user, password } => {
            let refused = machine_of(shared, &instance_id)?.set_password(&user, &password.0).await?;
            Ok(refused.map_or(Response::Done, Response::Refused))
        }
        Request::Interrupt { instance_id } => machine_of(shared, &instance_id)?.interrupt().await.map(|()| Response::Done),
        Request::ExportRead { export_id, offset, length } => {
            use base64::Engine;
            let bytes = shared.volumes.export_read(&export_id, offset, length).await?;
            Ok(Response::Text(base64::engine::general_purpose::STANDARD.encode(bytes)))
        }
        Request::ExportPiece { export_id, offset, length } => {
            let bytes = shared.volumes.export_read(&export_id, offset, length).await?;
            serde_json::to_value(DiskPiece::of(&bytes)).internal("writing an answer").map(Response::Json)
        }
        Request::ParcelWrite { parcel_id, volume_id, offset, piece } => {
            shared.volumes.parcel_write(&parcel_id, &volume_id, offset, &piece).await.map(|()| Response::Done)
        }
        Request::ParcelKeep { parcel_id, bytes } => shared.volumes.parcel_keep(&parcel_id, bytes).await.map(|()| Response::Done),
        Request::DiskFiles { instance_id } => {
            off(shared, &instance_id)?;
            let files = shared.hypervisor.disk_files(&instance_id).await?;
            serde_json::to_value(files).internal("writing an answer").map(Response::Json)
        }
        Request::DiskRead { instance_id, file, offset, length } => {
            if !disk_files::is_fixed(&file) {
                off(shared, &instance_id)?;
            }
            let piece = shared.hypervisor.disk_read(&instance_id, &file, offset, length.min(PIECE)).await?;
            serde_json::to_value(piece).internal("writing an answer").map(Response::Json)
        }
        Request::DiskWrite { instance_id, file, offset, piece } => {
            absent(shared, &instance_id)?;
            shared.hypervisor.disk_write(&instance_id, &file, offset, &piece).await.map(|()| Response::Done)
        }
        Request::DiskKeep { instance_id, file, bytes } => {
            absent(shared, &instance_id)?;
            shared.hypervisor.disk_keep(&instance_id, &file, bytes).await.map(|()| Response::Done)
        }
        Request::Reboot => Ok(reboot::begin(&shared.config, shared.guarded.is_some(), "its controller asks for it")
            .map_or_else(Response::Refused, |()| Response::Done)),
        Request::Ready { part, run, seconds } => {
            let key = if part == Part::Tests { "host.tests" } else { "host.services" };
            let directories = shared.config.text(key).split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from);
            let readiness = shared.ready.ask(directories.collect(), part, run, Duration::from_secs(seconds)).await;
            serde_json::to_value(readiness).internal("writing an answer").map(Response::Json)
        }
        Request::Slots { instance_id } => {
            let documents = shared.documents.clone();
            let id = instance_id.clone();
            if !base::id::is_uuid(&instance_id) {
                return Err(Error::invalid("instance: the id is no UUID"));
            }
            let journal = blocking(move || documents.journal(&id)).await?;
            let slots = journal.ok_or_else(|| Error::not_found("Instance", &instance_id))?.slots;
            serde_json::to_value(slots).internal("writing an answer").map(Response::Json)
        }
        Request::GuestAsk { instance_id, event, vote } => {
            let event = guest::message::Event::parse(&event).ok_or_else(|| Error::invalid("guests know no such event"))?;
            serde_json::to_value(shared.channels.ask(&instance_id, event, vote).await).internal("writing an answer").map(Response::Json)
        }
        Request::GuestScale { instance_id, cpu, online } => {
            let change = match cpu {
                Some(cpu) => Change::Up { cpu, online },
                None => Change::Down { online },
            };
            serde_json::to_value(shared.groups.scale(&instance_id, change).await).internal("writing an answer").map(Response::Json)
        }
        Request::CacheImage { sha256, format } => shared.hypervisor.cache_image(&sha256, &format).await.map(|()| Response::Done),
        Request::ImageLend { sha256, authority, certificate, key } => {
            let Some(cache) = shared.hypervisor.cache() else { return Err(Error::not_found("Image data", &sha256)) };
            let end = lend::End { authority, certificate, key };
            shared.lending.offer(cache, &sha256, &shared.address(), end).await.map(|at| Response::Text(at.to_string()))
        }
    }
}
