//! One guest's reconciler: a task that makes its document so, and keeps it so. Boot, reboot, healing, adoption
//! and removal are the same loop: look, plan one step, do it.

pub mod disk_trouble;
mod moving;
mod pinning;
pub mod plan;
mod silence;
mod volumes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Kind, Result, Timestamp};
use rpc::instance::{InstanceSpec, InstanceState, InstanceStatus, Power, Restart, SnapshotStatus, Watchdog};
use rpc::message::HostEventKind;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::agent::Shared;
use crate::cpus::Affinity;
use crate::documents::{Ending, Hold, Journal, layout};
use crate::hypervisor::{Found, Launch, Machine, MachineEvent, RunState, card_name, command};
use disk_trouble::DiskTrouble;
use plan::{Seen, Step, plan};
use silence::{Patience, Silence};

/// How long a start waits for the switch to make the guest's taps.
const PORTS: Duration = Duration::from_secs(60);
/// How long a process that has died may take to be gone: the kernel takes its memory down first.
const LEAVE: Duration = Duration::from_secs(30);
/// Pause after something that should have worked did not.
const RETRY: Duration = Duration::from_secs(2);
/// How often a guest that stands still looks whether it may go on.
const STILL: Duration = Duration::from_millis(20);

pub(crate) struct Instance {
    shared: Arc<Shared>,
    id: String,
    wanted: watch::Receiver<Arc<InstanceSpec>>,
    journal: Journal,
    /// Generation of the document on the host's disk.
    stored: Option<u64>,
    machine: Option<Arc<dyn Machine>>,
    /// A process that has died and may still hold its files.
    leaving: Option<Arc<dyn Machine>>,
    /// Whether it is certain that there is no process but `machine`.
    looked: bool,
    /// When and how the last process ended, if we saw it.
    obituary: Option<(Timestamp, String)>,
    last_press: Option<Timestamp>,
    disk_trouble: Option<DiskTrouble>,
    /// After a reboot of the machine: the right to start, given in order of priority, a few at a time.
    turn: Option<oneshot::Receiver<OwnedSemaphorePermit>>,
    permit: Option<OwnedSemaphorePermit>,
    panic_told: bool,
    /// The document of this generation wanted the guest suspended, and this is why it is not.
    not_suspended: Option<(u64, String)>,
    /// Where the process' threads were put by this task.
    affinity: Option<Affinity>,
    /// The document of this generation wants them elsewhere, and this is why they are not.
    not_pinned: Option<(u64, String)>,
    /// Volumes that the process has.
    plugged: BTreeSet<String>,
    travel: moving::Travel,
    silence: Silence,
    /// Changes when the host gets or loses its lease.
    lease: watch::Receiver<bool>,
}

/// Whether the loop goes on.
#[derive(PartialEq)]
enum Next {
    Again,
    Done,
}

impl Instance {
    pub(crate) fn new(
        shared: Arc<Shared>,
        wanted: watch::Receiver<Arc<InstanceSpec>>,
        journal: Journal,
        stored: Option<u64>,
        turn: Option<oneshot::Receiver<OwnedSemaphorePermit>>,
    ) -> Instance {
        let id = wanted.borrow().id.clone();
        let lease = shared.lease_changes();
        let silence = Silence::new(Patience::of(shared.config()));
        Instance {
            lease,
            silence,
            shared,
            id,
            wanted,
            journal,
            stored,
            machine: None,
            leaving: None,
            looked: false,
            obituary: None,
            last_press: None,
            disk_trouble: None,
            turn,
            permit: None,
            panic_told: false,
            not_suspended: None,
            affinity: None,
            not_pinned: None,
            plugged: BTreeSet::new(),
            travel: moving::Travel::default(),
        }
    }

    /// Runs until the guest is absent, or the agent lets go of it.
    pub(crate) async fn run(mut self) {
        // A closed channel: the agent stops, and lets each task come to the end of its step.
        while self.wanted.has_changed().is_ok() {
            match self.round().await {
                Ok(Next::Again) => {}
                Ok(Next::Done) => return,
                Err(e) => {
                    tracing::warn!(instance = self.id, "{}", e.chain());
                    let spec = self.wanted.borrow().clone();
                    let known = if self.machine.is_some() { InstanceState::Running } else { InstanceState::Building };
                    let state = self.silence.told().unwrap_or(known);
                    self.report(&spec, state, Some(e.chain()));
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        _ = self.wanted.changed() => {}
                    }
                }
            }
        }
    }

    async fn round(&mut self) -> Result<Next> {
        let spec = self.wanted.borrow_and_update().clone();
        if self.stored != Some(spec.generation) {
            if spec.power != Power::Absent {
                self.shared.wire.instance_metadata_set(&self.id, spec.metadata.clone());
            }
            let (documents, document) = (self.shared.documents.clone(), spec.clone());
            match blocking(move || documents.instance_store(&document)).await {
                Ok(()) => self.stored = Some(spec.generation),
                // A disk that is full is not to keep what would make room. That it is gone is not said before its older document is.
                Err(e) if spec.power == Power::Absent => tracing::warn!(instance = self.id, "{}", e.chain()),
                Err(e) => return Err(e),
            }
        }
        if self.machine.is_none() && !self.looked {
            self.look().await?;
        }
        if let Some(next) = self.silent_step(&spec).await? {
            return Ok(next);
        }
        let state = match &self.machine {
            None => None,
            Some(machine) => match machine.state().await {
                Ok(state) => {
                    self.silence.over();
                    Some(state)
                }
                // Dead, or not answering: find out which.
                Err(e) => {
                    let machine = machine.clone();
                    if e.is(Kind::Timeout) && !self.is_held(&spec) {
                        self.silence.missed();
                    }
                    match tokio::time::timeout(RETRY, machine.event()).await {
                        Ok(MachineEvent::Died { reason }) => self.dead(reason),
                        _ if self.ends_anyway(&spec) => self.end(Ending::AsWanted).await?,
                        // It may answer yet. How long that is borne is counted.
                        Err(_) if e.is(Kind::Timeout) => return Err(e),
                        _ => {
                            (self.machine, self.looked) = (None, false);
                            return Err(e);
                        }
                    }
                    return Ok(Next::Again);
                }
            },
        };
        if let Some(next) = self.moving_step(&spec, state).await? {
            return Ok(next);
        }
        self.disk_trouble = DiskTrouble::seen(self.disk_trouble.take(), state, Timestamp::now());
        if state == Some(RunState::Watchdog) && spec.machine.watchdog == Watchdog::Pause && !self.panic_told {
            self.event(HostEventKind::InstancePanicked { instance_id: self.id.clone(), cause: "watchdog: paused".into() }).await?;
            self.panic_told = true;
        }
        if state == Some(RunState::Paused) && spec.power != Power::Absent && self.shared.volumes.stands_still(&self.id) {
            // Neither let go on nor taken for one that would not hear its power button.
            self.wait(Some(Timestamp::now().plus(STILL))).await;
            return Ok(Next::Again);
        }
        if let Some(state) = state
            && let Some(next) = self.volumes_step(&spec, state).await?
        {
            return Ok(next);
        }
        let not_suspended = self.not_suspended.as_ref().filter(|(generation, _)| *generation == spec.generation);
        let seen = Seen {
            state,
            boot_id: &self.shared.boot_id,
            now: Timestamp::now(),
            last_press: self.last_press,
            disk_trouble: self.disk_trouble.as_ref(),
            leased: self.shared.leased(),
            not_suspended: not_suspended.map(|(_, why)| why.as_str()),
            pinned: self.pinned(&spec),
            not_pinned: self.not_pinned.as_ref().filter(|(generation, _)| *generation == spec.generation).map(|(_, why)| why.as_str()),
        };
        let step = plan(&spec, &self.journal, &seen);
        tracing::debug!(instance = self.id, ?state, ?step);
        // A death is told at once; whatever else is to be done waits for the process to have let go of everything.
        if !matches!(step, Step::Mourn { .. }) {
            self.left().await?;
        }
        self.step(&spec, state, step).await
    }

    async fn step(&mut self, spec: &Arc<InstanceSpec>, state: Option<RunState>, step: Step) -> Result<Next> {
        match step {
            Step::Wait { until, state, error, settled } => {
                if settled {
                    self.journal.generation = spec.generation;
                    if matches!(state, InstanceState::Stopped) && self.journal.hold.is_none() {
                        self.journal.boot = self.journal.boot.max(spec.boot);
                    }
                    self.permit = None;
                    if self.machine.is_none()
                        && let Err(e) = self.shared.hypervisor.rest(&self.id).await
                    {
                        tracing::warn!(instance = self.id, "{}", e.chain());
                    }
                }
                self.report(spec, state, error);
                self.wait(until).await;
            }
            Step::Mourn { reason } => self.mourn(spec, reason).await?,
            Step::Settle(ending) => {
                let pid = self.journal.process.as_ref().map_or(0, |p| p.pid);
                (self.journal.process, self.journal.ending, self.journal.pressed) = (None, None, None);
                match ending {
                    Ending::AsWanted => {}
                    Ending::ShutDown => {
                        // The event first: a crash in between tells it twice rather than never.
                        self.event(HostEventKind::InstanceShutDown { instance_id: self.id.clone() }).await?;
                        self.journal.hold = Some(Hold::ShutDown);
                    }
                    Ending::Dead { reason } => self.died(spec, Timestamp::now(), pid, reason).await?,
                }
                self.write().await?;
            }
            Step::Lift => {
                (self.journal.hold, self.journal.recovering) = (None, false);
                self.journal.deaths.clear();
                self.write().await?;
            }
            Step::ForgetPress => {
                self.journal.pressed = None;
                self.write().await?;
            }
            Step::Press => {
                if self.journal.pressed.is_none() {
                    self.journal.pressed = Some(Timestamp::now());
                    self.write().await?;
                }
                self.last_press = Some(Timestamp::now());
                if let Some(machine) = &self.machine
                    && let Err(e) = machine.power_button().await
                {
                    // The grace ends all the same.
                    tracing::warn!(instance = self.id, "the power button does not work: {}", e.chain());
                }
            }
            Step::End(ending) => {
                if let (Some(RunState::Panicked | RunState::Watchdog), false) = (state, self.panic_told) {
                    let cause = if state == Some(RunState::Panicked) { "kernel panic" } else { "watchdog" };
                    self.event(HostEventKind::InstancePanicked { instance_id: self.id.clone(), cause: cause.into() }).await?;
                    self.panic_told = true;
                }
                self.end(ending).await?;
            }
            Step::Pause => {
                if let Some(machine) = &self.machine {
                    machine.pause().await?;
                }
            }
            Step::Resume => {
                self.disk_trouble = self.disk_trouble.take().map(|known| DiskTrouble::new(&known.why, Timestamp::now()));
                if let Some(machine) = &self.machine {
                    machine.resume().await?;
                }
            }
            Step::Suspend => self.suspend(spec).await?,
            Step::ForgetMemory => self.forget_memory().await?,
            Step::Prepare => {
                self.shared.hypervisor.fetch(spec).await?;
                self.shared.hypervisor.prepare(spec).await?;
                self.journal.layout = layout(spec);
                self.write().await?;
            }
            Step::Sweep => {
                self.shared.hypervisor.sweep(spec).await?;
                self.journal.layout = layout(spec);
                self.write().await?;
            }
            Step::Pin => self.pin(spec).await?,
            Step::Plug(port) => self.plug(spec, &port).await?,
            Step::Unplug(port) => self.unplug(&port).await?,
            Step::Snapshot(id) => self.snapshot(spec, &id).await?,
            Step::ForgetSnapshot(id) => {
                self.shared.hypervisor.snapshot_remove(&self.id, &id).await?;
                self.journal.snapshots.retain(|had| had.id != id);
                self.write().await?;
            }
            Step::Start => self.start(spec).await?,
            Step::Remove => return self.remove(spec).await,
        }
        Ok(Next::Again)
    }

    /// Looks whether there is a process; adopts it.
    async fn look(&mut self) -> Result<()> {
        match self.shared.hypervisor.find(&self.id, self.journal.process.as_ref()).await? {
            Found::Nothing => {
                self.looked = true;
                self.volumes_released();
            }
            Found::Machine(machine) => {
                if self.journal.process.as_ref() != Some(machine.process()) {
                    // Started just before a crash, or the journal was lost.
                    self.journal.process = Some(machine.process().clone());
                    self.write().await?;
                }
                tracing::info!(instance = self.id, pid = machine.process().pid, "guest adopted");
                self.volumes_adopted(&machine).await?;
                (self.machine, self.looked) = (Some(machine), true);
            }
            Found::Silent(process) => {
                // Alive and ours, but its monitor does not answer. It may recover; what must end it need not wait.
                let spec = self.wanted.borrow().clone();
                let wanted = self.ends_anyway(&spec);
                if wanted {
                    self.journal.ending = Some(Ending::AsWanted);
                }
                // One whose end was begun is ended.
                if wanted || self.journal.ending.is_some() || self.silent_look(&spec, &process).await? {
                    self.write().await?;
                    process.kill().await?;
                    self.gone(String::new());
                    self.obituary = None;
                } else {
                    return Err(Error::unavailable(format!("process {} does not answer on its monitor", process.pid())));
                }
            }
        }
        Ok(())
    }

    /// Whether the process is to end, answer or not.
    fn ends_anyway(&self, spec: &InstanceSpec) -> bool {
        let reboot = spec.boot > self.journal.boot && spec.restart == Restart::Hard;
        let unleased = spec.recovery.elsewhere && !self.shared.leased();
        matches!(spec.power, Power::Absent | Power::Stopped) || reboot || unleased
    }

    fn gone(&mut self, reason: String) {
        self.obituary = Some((Timestamp::now(), reason));
        self.volumes_released();
        (self.machine, self.looked, self.last_press, self.panic_told) = (None, true, None, false);
        self.affinity = None;
        self.silence.over();
    }

    /// The process has died and is about to be gone.
    fn dead(&mut self, reason: String) {
        self.obituary = Some((Timestamp::now(), reason));
        self.leaving = self.machine.take();
        self.affinity = None;
        self.silence.over();
        (self.looked, self.last_press, self.panic_told) = (true, None, false);
    }

    /// Waits until a process that has died is gone.
    async fn left(&mut self) -> Result<()> {
        let Some(machine) = &self.leaving else { return Ok(()) };
        if tokio::time::timeout(LEAVE, machine.gone()).await.is_err() {
            return Err(Error::timeout(format!("process {} does not end", machine.process().pid)));
        }
        self.leaving = None;
        self.volumes_released();
        Ok(())
    }

    async fn wait(&mut self, until: Option<Timestamp>) {
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep(until.since(Timestamp::now())).await,
                None => std::future::pending().await,
            }
        };
        let machine = self.machine.clone();
        let event = async {
            match &machine {
                Some(machine) => machine.event().await,
                None => std::future::pending().await,
            }
        };
        let held = self.is_held(&self.wanted.borrow());
        let silence = &mut self.silence;
        let silent = async {
            match &machine {
                Some(machine) if !held => silence.watch(machine.as_ref()).await,
                _ => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            event = event => event,
            _ = self.wanted.changed() => return,
            _ = self.lease.changed() => return,
            () = timer => return,
            () = silent => return,
        };
        match event {
            MachineEvent::Changed => {}
            MachineEvent::DiskFailed { why } => self.disk_trouble = Some(DiskTrouble::new(&why, Timestamp::now())),
            MachineEvent::WatchdogReset => {
                let cause = "watchdog: reset".to_string();
                if let Err(e) = self.event(HostEventKind::InstancePanicked { instance_id: self.id.clone(), cause }).await {
                    tracing::error!(instance = self.id, "{}", e.chain());
                }
            }
            MachineEvent::Died { reason } => self.dead(reason),
            MachineEvent::Lost => (self.machine, self.looked, self.affinity) = (None, false, None),
        }
    }

    async fn mourn(&mut self, spec: &InstanceSpec, reason: Option<String>) -> Result<()> {
        let pid = self.journal.process.as_ref().map_or(0, |p| p.pid);
        let rebooted = reason.is_some();
        let now = Timestamp::now();
        let (at, seen) = self.obituary.take().unwrap_or_else(|| (now, "ended while nobody watched".into()));
        let reason = reason.unwrap_or(seen);
        if spec.power == Power::Stopped {
            // Wanted, only not by this way.
        } else if rebooted {
            self.event_at(at, HostEventKind::InstanceDied { instance_id: self.id.clone(), pid, reason, will_recover: true }).await?;
            self.journal.recovering = true;
        } else {
            self.died(spec, at, pid, reason).await?;
        }
        (self.journal.process, self.journal.pressed) = (None, None);
        self.write().await
    }

    /// Notes a death and decides whether the guest is started again.
    async fn died(&mut self, spec: &InstanceSpec, at: Timestamp, pid: i32, reason: String) -> Result<()> {
        let will_recover = self.count_death(spec);
        tracing::warn!(instance = self.id, pid, will_recover, "guest died: {reason}");
        self.event_at(at, HostEventKind::InstanceDied { instance_id: self.id.clone(), pid, reason: reason.clone(), will_recover }).await?;
        if will_recover {
            self.journal.recovering = true;
            return Ok(());
        }
        self.give_up(spec, reason).await
    }

    /// Counts one more; false when that is too many.
    fn count_death(&mut self, spec: &InstanceSpec) -> bool {
        let now = Timestamp::now();
        let window = Duration::from_secs(spec.recovery.window_seconds.into());
        self.journal.deaths.retain(|at| now.since(*at) < window);
        self.journal.deaths.push(now);
        spec.recovery.auto && self.journal.deaths.len() <= spec.recovery.attempts as usize
    }

    async fn give_up(&mut self, spec: &InstanceSpec, reason: String) -> Result<()> {
        let reason = match spec.recovery.auto {
            true => format!("given up after {} restarts; last: {reason}", self.journal.deaths.len().saturating_sub(1)),
            false => format!("{reason}; this guest is not restarted by itself"),
        };
        self.event(HostEventKind::InstanceRecoveryFailed { instance_id: self.id.clone(), reason: reason.clone() }).await?;
        self.journal.recovering = false;
        self.journal.hold = Some(Hold::GaveUp { reason });
        Ok(())
    }

    async fn end(&mut self, ending: Ending) -> Result<()> {
        if self.journal.ending.as_ref() != Some(&ending) {
            // Before the act, so that after a crash a missing process is known to be our doing. Where nothing can be written, one that
            // may run elsewhere, or is to be gone, ends all the same.
            self.journal.ending = Some(ending);
            let outcome = self.write().await;
            let must = !self.shared.leased() || self.wanted.borrow().power == Power::Absent;
            match outcome {
                Err(e) if must => tracing::warn!(instance = self.id, "{}", e.chain()),
                outcome => outcome?,
            }
        }
        if let Some(machine) = self.machine.clone() {
            machine.end().await?;
        }
        self.gone(String::new());
        self.obituary = None;
        Ok(())
    }

    async fn start(&mut self, spec: &Arc<InstanceSpec>) -> Result<()> {
        let attempt = self.journal.recovering;
        let state = if attempt { InstanceState::Recovering } else { InstanceState::Building };
        self.report(spec, state, None);
        if let Some(turn) = self.turn.as_mut() {
            tokio::select! {
                permit = turn => {
                    self.permit = permit.ok();
                    self.turn = None;
                }
                _ = self.wanted.changed() => return Ok(()),
            }
        }
        let shared = self.shared.clone();
        // Only what may take long is cut short by a newer document.
        let gathered = {
            let volumes = volumes::wanted(spec);
            let gather = async {
                tokio::try_join!(shared.hypervisor.fetch(spec), ports_ready(&shared, spec), shared.volumes.ready(&volumes, false))
                    .map(|_| ())
            };
            tokio::select! {
                biased;
                gathered = gather => gathered,
                _ = self.wanted.changed() => return Ok(()),
            }
        };
        self.journal.boot = self.journal.boot.max(spec.boot);
        (self.journal.pressed, self.journal.hold) = (None, None);
        if !self.journal.memory {
            self.journal.slots = command::slots(spec);
        }
        let mut launch = Launch { slots: self.journal.slots.clone(), memory: self.journal.memory, ..Launch::default() };
        // From here on nothing is cancelled: half a step on the disk could meet the next one.
        let wanted = volumes::wanted(spec);
        let claims = match gathered {
            Ok(()) => shared.volumes.claim(&self.id, &wanted, false).await,
            Err(e) => Err(e),
        };
        let mut held = None;
        let pinned = self.pins_claim(spec);
        let started = match claims.and_then(|claims| pinned.map(|affinity| (claims, affinity))) {
            Ok((claims, affinity)) => {
                launch.affinity = affinity;
                self.journal.volumes = wanted.into_iter().collect();
                launch.volumes.clone_from(&held.insert(claims).volumes);
                match tokio::join!(self.write(), shared.hypervisor.prepare(spec)) {
                    (Ok(()), Ok(())) => shared.hypervisor.start(spec, &launch).await,
                    (Err(e), _) | (_, Err(e)) => Err(e),
                }
            }
            Err(e) => Err(e),
        };
        match started {
            Ok(machine) => {
                let pid = machine.process().pid;
                self.journal.process = Some(machine.process().clone());
                self.journal.recovering = false;
                self.journal.cards = Some(spec.nics.iter().map(|n| n.port_id.clone()).collect());
                self.journal.layout = layout(spec);
                self.plugged.clone_from(&self.journal.volumes);
                shared.volumes.adopted(&self.id, &machine, &self.plugged);
                drop(held);
                self.pins_kept(launch.affinity.take());
                (self.machine, self.looked, self.panic_told) = (Some(machine), true, false);
                if launch.memory {
                    // Before it goes on: memory that the guest has left behind must never come back.
                    self.forget_memory().await?;
                } else if spec.power == Power::Running && spec.snapshots.is_empty() {
                    self.journal.generation = spec.generation;
                    self.report(spec, InstanceState::Running, None);
                }
                self.write().await?;
                if attempt {
                    let attempt = self.journal.deaths.len().max(1) as u32;
                    self.event(HostEventKind::InstanceRecovered { instance_id: self.id.clone(), pid, attempt }).await?;
                }
                Ok(())
            }
            Err(e) => {
                let reason = e.chain();
                tracing::warn!(instance = self.id, "guest did not start: {reason}");
                // A start whose outcome is unknown: look before anything else.
                self.looked = false;
                if !attempt {
                    self.journal.hold = Some(Hold::StartFailed { reason, generation: spec.generation });
                } else if !self.count_death(spec) {
                    self.give_up(spec, reason).await?;
                }
                self.write().await
            }
        }
    }

    /// Saves the guest's memory and ends its process. When that cannot be, the guest goes on.
    async fn suspend(&mut self, spec: &InstanceSpec) -> Result<()> {
        let Some(machine) = self.machine.clone() else { return Ok(()) };
        if let Err(e) = machine.save().await {
            tracing::warn!(instance = self.id, "guest not suspended: {}", e.chain());
            self.not_suspended = Some((spec.generation, e.chain()));
            return machine.resume().await;
        }
        self.journal.memory = true;
        self.end(Ending::AsWanted).await
    }

    async fn forget_memory(&mut self) -> Result<()> {
        self.journal.memory = false;
        self.write().await?;
        // It does no harm any more, and the next suspend replaces it.
        if let Err(e) = self.shared.hypervisor.forget_memory(&self.id).await {
            tracing::warn!(instance = self.id, "{}", e.chain());
        }
        Ok(())
    }

    async fn plug(&mut self, spec: &InstanceSpec, port: &str) -> Result<()> {
        let (Some(machine), Some(nic)) = (self.machine.clone(), spec.nics.iter().find(|n| n.port_id == port)) else { return Ok(()) };
        tokio::select! {
            ready = ports_ready(&self.shared, spec) => ready?,
            _ = self.wanted.changed() => return Ok(()),
        }
        let Some(slot) = self.journal.slots.take(&card_name(port)) else {
            return Err(Error::conflict("the guest has no free slot for a network card"));
        };
        // The slot first: after a crash it is known where the card may sit.
        self.write().await?;
        machine.plug(nic, command::bus(&spec.machine.kind, slot).as_deref()).await?;
        self.journal.cards.get_or_insert_default().push(port.to_string());
        self.write().await
    }

    async fn unplug(&mut self, port: &str) -> Result<()> {
        let Some(machine) = self.machine.clone() else { return Ok(()) };
        machine.unplug(port).await?;
        if let Some(cards) = self.journal.cards.as_mut() {
            cards.retain(|card| card != port);
        }
        self.journal.slots.taken.remove(&card_name(port));
        self.write().await
    }

    /// Makes one copy of a disk. One that cannot be made is told, and not tried again.
    async fn snapshot(&mut self, spec: &InstanceSpec, id: &str) -> Result<()> {
        let Some(snapshot) = spec.snapshots.iter().find(|s| s.id == id) else { return Ok(()) };
        let Some(disk) = spec.disks.iter().find(|d| d.name == snapshot.disk) else {
            return Err(Error::invalid(format!("there is no disk {} to copy", snapshot.disk)));
        };
        let shared = self.shared.clone();
        let outcome = match self.machine.clone() {
            None => shared.hypervisor.snapshot_cold(spec, snapshot, disk).await,
            Some(machine) => tokio::select! {
                outcome = machine.snapshot(snapshot, disk) => outcome,
                // It may be wanted no more, and what else is wanted does not wait for a copy.
                _ = self.wanted.changed() => return machine.snapshot_stop().await,
            },
        };
        let (bytes, error) = match outcome {
            Ok(bytes) => (bytes, None),
            Err(e) => (0, Some(e.chain())),
        };
        self.journal.snapshots.push(SnapshotStatus { id: id.to_string(), bytes, error });
        self.write().await
    }

    async fn remove(&mut self, spec: &InstanceSpec) -> Result<Next> {
        self.shared.wire.instance_metadata_remove(&self.id);
        self.shared.hypervisor.remove(&self.id).await?;
        self.shared.cpus.release(&self.id);
        let (documents, id) = (self.shared.documents.clone(), self.id.clone());
        blocking(move || documents.instance_remove(&id)).await?;
        self.stored = None;
        self.journal = Journal { generation: spec.generation, boot: spec.boot, ..Default::default() };
        // Wanted again in this very instant: go on with the new document.
        if self.shared.forget(&self.id, &self.wanted) {
            self.report(spec, InstanceState::Absent, None);
            return Ok(Next::Done);
        }
        Ok(Next::Again)
    }

    async fn write(&self) -> Result<()> {
        let (documents, id, journal) = (self.shared.documents.clone(), self.id.clone(), self.journal.clone());
        blocking(move || documents.journal_store(&id, &journal)).await
    }

    async fn event(&self, kind: HostEventKind) -> Result<()> {
        self.event_at(Timestamp::now(), kind).await
    }

    async fn event_at(&self, at: Timestamp, kind: HostEventKind) -> Result<()> {
        let events = self.shared.events.clone();
        blocking(move || events.record(at, kind).map(|_| ())).await
    }

    fn report(&self, spec: &InstanceSpec, state: InstanceState, error: Option<String>) {
        let process = self.machine.as_ref().map(|m| m.process().clone());
        let attached = process.is_some();
        let heartbeat = self.machine.as_ref().filter(|_| self.journal.slots.heartbeat);
        self.shared.channels.seen(&self.id, heartbeat, state == InstanceState::Running);
        let messaging = self.machine.as_ref().filter(|_| self.journal.slots.messaging);
        self.shared.groups.seen(&self.id, messaging, state == InstanceState::Running);
        self.shared.report(
            InstanceStatus {
                id: self.id.clone(),
                generation: self.journal.generation,
                boot: self.journal.boot,
                state,
                pid: process.as_ref().map(|p| p.pid),
                started_at: process.map(|p| p.started_at),
                error,
                snapshots: self.journal.snapshots.clone(),
                elsewhere: spec.recovery.elsewhere,
                moving: self.moving_status(spec),
            },
            match (&self.journal.cards, attached) {
                (_, false) => vec![],
                (Some(cards), true) => cards.clone(),
                (None, true) => spec.nics.iter().map(|n| n.port_id.clone()).collect(),
            },
            self.machine.clone(),
        );
    }
}

/// Waits until the switch has made every tap of the guest.
async fn ports_ready(shared: &Shared, spec: &InstanceSpec) -> Result<()> {
    let mut applied = shared.network_applied();
    let wait = async {
        loop {
            applied.borrow_and_update();
            if spec.nics.iter().all(|n| shared.wire.port_ready(&n.port_id)) {
                return;
            }
            // A tap may also come without a document, when the switch heals itself.
            let _ = tokio::time::timeout(Duration::from_millis(200), applied.changed()).await;
        }
    };
    if tokio::time::timeout(PORTS, wait).await.is_ok() {
        return Ok(());
    }
    let missing = spec.nics.iter().find(|n| !shared.wire.port_ready(&n.port_id)).map_or("", |n| &n.port_id);
    Err(Error::unavailable(format!("port {missing} has no tap on this host")))
}

/// Runs what syncs files, on threads that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.internal("work on the host's disk broke off")?
}
