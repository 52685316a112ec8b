//! A guest on its way between two hosts, on either of them. What has been done is in the journal, so that whoever takes up the guest
//! after a crash knows whether it may run here: until `Left` is written there it runs where it was, and from then on not again.

use std::sync::Arc;
use std::time::Duration;

use base::{Result, Timestamp};
use rpc::instance::{Amount, Doors, InstanceSpec, InstanceState, Moving, MovingStatus, Power, Stage, Way};

use super::volumes::wanted;
use super::{Instance, Next, blocking, ports_ready};
use crate::documents::{Documents, Moved, Progress, layout};
use crate::hypervisor::{At, Launch, Machine, RunState, Side};

/// How often a guest that is under way is looked at, besides when it makes itself heard.
const LOOK: Duration = Duration::from_millis(250);
/// The downtime that is tried first, in milliseconds, and how long until twice as much is. A guest stops as soon as what is left of its
/// memory can be sent in that time: with more of it also one that is idle waits for memory that it could have sent while it ran.
const SHORT: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a guest under way beside the journal.
#[derive(Default)]
pub(super) struct Travel {
    memory: Amount,
    disks: Amount,
    downtime: u32,
    since: Option<tokio::time::Instant>,
    /// This agent has begun it: all that serves the way is there.
    departed: bool,
}

impl Instance {
    /// What a migration asks of this host now, before all else. None: nothing.
    pub(super) async fn moving_step(&mut self, spec: &Arc<InstanceSpec>, state: Option<RunState>) -> Result<Option<Next>> {
        let unleased = spec.recovery.elsewhere && !self.shared.leased();
        if spec.power == Power::Absent || unleased || (spec.moving.is_none() && self.journal.moved.is_none()) {
            return Ok(None);
        }
        self.left().await?;
        let done = self.journal.moved.clone();
        let Some(moving) = &spec.moving else { return self.moving_over(done).await };
        let done = done.filter(|done| done.id == moving.id).map(|done| done.progress);
        match &moving.way {
            Way::Here { slots } => self.coming(spec, moving, slots, done).await,
            Way::Away { doors, downtime, force, stop } => {
                let away = Away { moving, doors, downtime: *downtime, force: *force, stop: *stop };
                self.going(spec, &away, done, state).await
            }
        }
    }

    async fn note(&mut self, id: &str, progress: Progress) -> Result<Option<Next>> {
        tracing::info!(instance = self.id, migration = id, "{progress:?}");
        self.journal.moved = Some(Moved { id: id.to_string(), progress });
        self.write().await?;
        Ok(Some(Next::Again))
    }

    /// The document speaks of no migration any more.
    async fn moving_over(&mut self, done: Option<Moved>) -> Result<Option<Next>> {
        let Some(Moved { id, progress }) = done else { return Ok(None) };
        if let Some(machine) = self.machine.clone() {
            match progress {
                // Told too early: what waits here is not this guest yet.
                Progress::Awaited(_) => match machine.transit(Side::Here).await?.at {
                    At::Here => return self.note(&id, Progress::Arrived).await,
                    _ => {
                        self.wait(Some(Timestamp::now().plus(LOOK))).await;
                        return Ok(Some(Next::Again));
                    }
                },
                // It stays, or comes back: the plan lets it go on.
                Progress::Going { .. } | Progress::Left => machine.moved_clear().await?,
                Progress::Arrived | Progress::Failed(_) => {}
            }
        }
        self.journal.moved = None;
        self.write().await?;
        self.left_work(|documents, id| documents.left_remove(id)).await?;
        Ok(Some(Next::Again))
    }

    async fn left_work(&self, work: impl FnOnce(&Documents, &str) -> Result<()> + Send + 'static) -> Result<()> {
        let (documents, id) = (self.shared.documents.clone(), self.id.clone());
        blocking(move || work(&documents, &id)).await
    }

    async fn coming(
        &mut self,
        spec: &Arc<InstanceSpec>,
        moving: &Moving,
        slots: &serde_json::Value,
        done: Option<Progress>,
    ) -> Result<Option<Next>> {
        let failed = |why: String| Progress::Failed(why);
        match (done, self.machine.clone()) {
            (Some(Progress::Arrived), _) => Ok(None),
            (Some(Progress::Awaited(_)), Some(machine)) => {
                let transit = machine.transit(Side::Here).await?;
                match transit.at {
                    At::Here => {
                        self.shared.arrived(&self.id);
                        self.note(&moving.id, Progress::Arrived).await?;
                        let state = self.as_seen(spec, &machine).await?;
                        self.report(spec, state, None);
                        // It runs already: what served its way can wait until now.
                        machine.moved_clear().await?;
                        Ok(Some(Next::Again))
                    }
                    At::Failed(why) => {
                        machine.end().await?;
                        self.gone(why);
                        Ok(Some(Next::Again))
                    }
                    _ => {
                        self.journal.generation = spec.generation;
                        self.report(spec, InstanceState::Building, None);
                        self.wait(Some(Timestamp::now().plus(LOOK))).await;
                        Ok(Some(Next::Again))
                    }
                }
            }
            (Some(Progress::Awaited(_)), None) => {
                let why = self.obituary.take().map_or_else(|| "the process that waited for it ended".into(), |(_, why)| why);
                self.journal.process = None;
                self.note(&moving.id, failed(why)).await
            }
            (Some(Progress::Failed(why)), _) => {
                self.journal.generation = spec.generation;
                self.report(spec, InstanceState::Stopped, Some(why));
                self.wait(None).await;
                Ok(Some(Next::Again))
            }
            // Begun by an agent that did not live to say where it listens: nobody has been told.
            (_, Some(machine)) => {
                machine.end().await?;
                self.gone(String::new());
                self.journal.process = None;
                self.write().await?;
                Ok(Some(Next::Again))
            }
            (_, None) => match self.receive(spec, moving, slots).await {
                Ok(next) => Ok(next),
                Err(e) => {
                    tracing::warn!(instance = self.id, "a guest cannot come: {}", e.chain());
                    if let Some(machine) = self.machine.clone() {
                        machine.end().await?;
                        self.gone(String::new());
                    }
                    self.looked = false;
                    self.journal.process = None;
                    self.note(&moving.id, failed(e.chain())).await
                }
            },
        }
    }

    /// Starts the process that the guest will go on in.
    async fn receive(&mut self, spec: &Arc<InstanceSpec>, moving: &Moving, slots: &serde_json::Value) -> Result<Option<Next>> {
        self.report(spec, InstanceState::Building, None);
        let (shared, wanted) = (self.shared.clone(), wanted(spec));
        let gathered = {
            let gather = async {
                tokio::try_join!(shared.hypervisor.fetch(spec), ports_ready(&shared, spec), shared.volumes.ready(&wanted, true)).map(drop)
            };
            tokio::select! {
                biased;
                gathered = gather => gathered,
                _ = self.wanted.changed() => return Ok(Some(Next::Again)),
            }
        };
        gathered?;
        if !self.looked {
            self.look().await?;
        }
        self.journal.slots = serde_json::from_value(slots.clone()).map_err(|e| base::Error::invalid("slots of devices").caused_by(e))?;
        self.journal.boot = self.journal.boot.max(spec.boot);
        self.journal.cards = Some(spec.nics.iter().map(|n| n.port_id.clone()).collect());
        self.journal.layout = layout(spec);
        (self.journal.pressed, self.journal.hold, self.journal.ending, self.journal.memory) = (None, None, None, false);
        let claims = shared.volumes.claim(&self.id, &wanted, true).await?;
        self.journal.volumes = wanted.into_iter().collect();
        let affinity = self.pins_claim(spec)?;
        self.write().await?;
        shared.hypervisor.prepare(spec).await?;
        let slots = self.journal.slots.clone();
        let launch = Launch { slots, incoming: true, volumes: claims.volumes.clone(), affinity, ..Launch::default() };
        let machine = shared.hypervisor.start(spec, &launch).await?;
        self.pins_kept(launch.affinity);
        self.plugged.clone_from(&self.journal.volumes);
        shared.volumes.adopted(&self.id, &machine, &self.plugged);
        drop(claims);
        self.journal.process = Some(machine.process().clone());
        (self.machine, self.looked, self.panic_told) = (Some(machine.clone()), true, false);
        self.write().await?;
        let doors = machine.await_guest(moving, &spec.disks, &shared.address()).await?;
        self.journal.generation = spec.generation;
        self.note(&moving.id, Progress::Awaited(doors)).await
    }

    async fn as_seen(&self, spec: &InstanceSpec, machine: &Arc<dyn Machine>) -> Result<InstanceState> {
        Ok(match machine.state().await? {
            RunState::Running => InstanceState::Running,
            // One whose last moments had to be made still goes on at once.
            _ if spec.power == Power::Running => InstanceState::Running,
            _ => InstanceState::Paused,
        })
    }

    async fn going(
        &mut self,
        spec: &Arc<InstanceSpec>,
        away: &Away<'_>,
        done: Option<Progress>,
        state: Option<RunState>,
    ) -> Result<Option<Next>> {
        let id = &away.moving.id;
        let shown = if spec.power == Power::Paused { InstanceState::Paused } else { InstanceState::Running };
        let machine = self.machine.clone();
        match (done, machine) {
            (Some(Progress::Failed(_)), _) => Ok(None),
            (None | Some(Progress::Awaited(_) | Progress::Arrived), machine) => {
                let runs = matches!(state, Some(RunState::Running | RunState::Paused)) && self.journal.ending.is_none();
                let Some(machine) = machine.filter(|_| runs && !away.stop) else {
                    let why = if away.stop { "it was cancelled" } else { "the guest does not run" };
                    return self.note(id, Progress::Failed(why.into())).await;
                };
                self.travel = Travel::default();
                self.note(id, Progress::Going { memory: false }).await?;
                self.depart(spec, away, &machine).await
            }
            (Some(Progress::Going { .. }), None) => self.note(id, Progress::Failed("the guest ended on its way".into())).await,
            (Some(Progress::Going { memory }), Some(machine)) => {
                if away.stop {
                    return self.stays(&machine, id, "it was cancelled".into()).await;
                }
                if !matches!(state, Some(RunState::Running | RunState::Paused)) {
                    return self.stays(&machine, id, "the guest ended on its way".into()).await;
                }
                if !memory && !self.travel.departed {
                    // An agent before this one may have died while it prepared the way.
                    return self.depart(spec, away, &machine).await;
                }
                match self.go_on(spec, away, memory, &machine).await {
                    Ok(next) => {
                        if next == Going::Wait {
                            self.journal.generation = spec.generation;
                            self.report(spec, shown, None);
                            self.wait(Some(Timestamp::now().plus(LOOK))).await;
                        }
                        Ok(Some(Next::Again))
                    }
                    Err(e) => self.stays(&machine, id, e.chain()).await,
                }
            }
            (Some(Progress::Left), machine) => {
                if let Some(machine) = machine {
                    if matches!(machine.transit(Side::Away { memory: true }).await?.at, At::Door) {
                        machine.depart_go().await?;
                    } else if state == Some(RunState::Running) {
                        // QEMU takes up a guest whose last bytes it could not send. Whether they are there, only the other side knows.
                        machine.pause().await?;
                    }
                } else if self.journal.process.take().is_some() {
                    self.write().await?;
                }
                self.journal.generation = spec.generation;
                self.report(spec, shown, None);
                self.wait(None).await;
                Ok(Some(Next::Again))
            }
        }
    }

    /// Prepares the way, and begins with the disks. What an attempt before has left is taken away first.
    async fn depart(&mut self, spec: &InstanceSpec, away: &Away<'_>, machine: &Arc<dyn Machine>) -> Result<Option<Next>> {
        let ahead = self.shared.volumes.went_ahead();
        match machine.depart(away.moving, away.doors, &spec.disks, &ahead).await {
            Ok(()) => {
                self.travel.departed = true;
                Ok(Some(Next::Again))
            }
            Err(e) => self.stays(machine, &away.moving.id, e.chain()).await,
        }
    }

    /// One look at a guest under way.
    async fn go_on(&mut self, spec: &InstanceSpec, away: &Away<'_>, memory: bool, machine: &Arc<dyn Machine>) -> Result<Going> {
        let id = &away.moving.id;
        let transit = machine.transit(Side::Away { memory }).await?;
        if transit.disks.total > 0 {
            self.travel.disks = transit.disks;
        }
        if memory {
            self.travel.memory = transit.memory;
        }
        match transit.at {
            At::Ready => {
                self.left_work(|documents, id| documents.left_prepare(id)).await?;
                if !memory {
                    self.note(id, Progress::Going { memory: true }).await?;
                }
                (self.travel.downtime, self.travel.since) = (SHORT.min(away.downtime), Some(tokio::time::Instant::now()));
                machine.depart_memory(away.moving, away.doors, self.travel.downtime).await?;
                Ok(Going::Again)
            }
            At::Memory => {
                if away.force && machine.state().await? == RunState::Running {
                    machine.pause().await?;
                }
                let waited = self.travel.since.is_none_or(|since| since.elapsed() > PATIENCE);
                if waited && self.travel.downtime < away.downtime {
                    self.travel.downtime = (self.travel.downtime.max(SHORT) * 2).min(away.downtime);
                    self.travel.since = Some(tokio::time::Instant::now());
                    machine.depart_downtime(self.travel.downtime).await?;
                }
                Ok(Going::Wait)
            }
            At::Door => {
                machine.depart_last().await?;
                // From here on it is for the other host to say whether the guest runs: written down before it can, in short.
                let migration = id.clone();
                self.left_work(move |documents, id| documents.left_mark(id, &migration)).await?;
                self.journal.moved = Some(Moved { id: id.clone(), progress: Progress::Left });
                machine.depart_go().await?;
                self.note(id, Progress::Left).await?;
                self.travel.memory.left = 0;
                let shown = if spec.power == Power::Paused { InstanceState::Paused } else { InstanceState::Running };
                self.report(spec, shown, None);
                Ok(Going::Again)
            }
            At::Gone => {
                self.note(id, Progress::Left).await?;
                Ok(Going::Again)
            }
            At::Failed(why) => Err(base::Error::conflict(why)),
            At::Disks | At::Awaited | At::Here => Ok(Going::Wait),
        }
    }

    /// The guest stays where it is.
    async fn stays(&mut self, machine: &Arc<dyn Machine>, id: &str, why: String) -> Result<Option<Next>> {
        // An error after which it may be on its way all the same.
        if matches!(&self.journal.moved, Some(Moved { progress: Progress::Left, .. })) {
            tracing::warn!(instance = self.id, "{why}");
            return Ok(Some(Next::Again));
        }
        machine.moved_clear().await?;
        self.note(id, Progress::Failed(why)).await
    }

    /// What the controller is told of it.
    pub(super) fn moving_status(&self, spec: &InstanceSpec) -> Option<MovingStatus> {
        let moving = spec.moving.as_ref()?;
        let moved = self.journal.moved.as_ref().filter(|moved| moved.id == moving.id)?;
        let stage = match &moved.progress {
            Progress::Awaited(doors) => Stage::Awaited(doors.clone()),
            Progress::Going { .. } => Stage::Going,
            Progress::Left => Stage::Left,
            Progress::Arrived => Stage::Arrived,
            Progress::Failed(why) => Stage::Failed(why.clone()),
        };
        Some(MovingStatus { id: moved.id.clone(), stage, memory: self.travel.memory, disks: self.travel.disks })
    }
}

/// The document's word on a guest that goes.
struct Away<'a> {
    moving: &'a Moving,
    doors: &'a Doors,
    downtime: u32,
    force: bool,
    stop: bool,
}

#[derive(PartialEq)]
enum Going {
    Again,
    Wait,
}
