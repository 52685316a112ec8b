//! A running server to another host: a process waits for it there, its own host sends it, and when it has come the server is one of
//! the other host. Until its host says that it has left it is where it was, whatever dies; from then on it is where it went, unless
//! the other host says that it never came.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use pki::Pair;
use rpc::instance::{DiskSource, Doors, InstanceState, InstanceStatus, MovingStatus, Power, Stage as Way};
use rpc::message::{Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::migrations::{self, Progress};
use crate::db::servers::{self as db, Live, LiveEnd, Server, Source};
use crate::db::volumes::volumes_of_in;
use crate::db::{actions, leases, nodes, tombstones};
use crate::scheduler;
use crate::spec;
use crate::states::{task as task_state, vm};
use crate::statuses::Waited;
use crate::vim::Stage;

pub const KIND: &str = "compute.server_live";
const PREPARE: Duration = Duration::from_secs(300);
/// How long a host that is needed may be away.
const AWAY: Duration = Duration::from_secs(900);
const CLEAR: Duration = Duration::from_secs(60);
/// How long a host may take to say that its guest stays.
const STOP: Duration = Duration::from_secs(30);
/// How long a guest that has left may take to come.
const ARRIVE: Duration = Duration::from_secs(20);
/// How often its progress is written down.
const LOOK: Duration = Duration::from_millis(500);
/// For migrations that may take for ever.
const LONG: Duration = Duration::from_secs(48 * 3600);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub migration: String,
    /// The host (name) that was asked for, and whether past the filters.
    pub target: Option<String>,
    pub forced: bool,
    /// Whether the caller wants the disks copied; none: as needed.
    pub block: Option<bool>,
    pub source: Source,
    pub vm_state: String,
}

/// Output of `claim`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claimed {
    host_id: String,
    host: String,
    zone: String,
}

pub struct ServerLive(pub Compute);

/// The volumes that go with a server.
fn volume_ids_in(tx: &Tx, id: &str) -> Result<Vec<String>> {
    Ok(volumes_of_in(tx, id)?.into_iter().filter_map(|row| row.volume_id).collect())
}

/// What a status says of this migration.
fn of<'a>(migration: &str, status: &'a InstanceStatus) -> Option<&'a MovingStatus> {
    status.moving.as_ref().filter(|moving| moving.id == migration)
}

#[async_trait]
impl Operation for ServerLive {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["claim", "receive", "move"]
    }
    fn deadline(&self) -> Duration {
        LONG
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "claim" => Duration::from_secs(60),
            "receive" => PREPARE,
            _ => LONG,
        })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "claim" => self.claim(cx, params).await,
            "receive" => self.receive(cx, params).await,
            _ => self.travel(cx, params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let Some(claimed) = cx.opt_output::<Claimed>("claim")? else { return Ok(Effect::none()) };
        match step {
            "claim" => Ok(self.unclaim(cx, params, claimed)),
            _ => self.back(cx, params, claimed).await,
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else {
            return migrations::migration_status_in(tx, &params.migration, "error");
        };
        if server.host_id.as_ref() != Some(&params.source.host_id) {
            // It had got there when it should have been taken back.
            return Ok(());
        }
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        let cancelled = cx.cancelled();
        migrations::migration_status_in(tx, &params.migration, if cancelled { "cancelled" } else { "error" })?;
        if !deleting {
            server.task_state = None;
            server.vm_state.clone_from(&params.vm_state);
        }
        let left = |live: &Live| {
            let said = self.0.statuses.said(&server.id);
            said.get(&params.source.host_id).and_then(|s| of(&live.migration, s)).is_some_and(|moving| moving.stage == Way::Left)
        };
        if server.doc.live.as_ref().is_some_and(left) {
            // It left, and the host that it went to says nothing: whether it runs there is not known, so nowhere else it may.
            server.vm_state = vm::ERROR.into();
            server.doc.held_failed = true;
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        self.0.vim_moving_over_in(tx, &server)?;
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        let why = (!cancelled).then(|| error.message());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, "conductor_live_migrate_instance", host, now, why)?;
        if cancelled {
            self.0.vim_log_in(tx, &server, "Live-Migrate", Stage::Cancelled, None)?;
            return crate::notify::server_event_in(tx, "live.migration.abort.end", &server, &cx.context, None);
        }
        let code = if error.is(Kind::NoCapacity) || error.is(Kind::Invalid) { 400 } else { 500 };
        db::fault_put_in(tx, &server.id, code, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, "Live-Migrate", Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "live_migration._rollback.end", &server, &cx.context, Some(error.message()))
    }
}

impl ServerLive {
    /// The other host, and room there.
    async fn claim(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let compute = self.0.clone();
        let tried: Vec<Claimed> = cx.excluded("claim")?;
        let tried: Vec<String> = tried.into_iter().map(|claimed| claimed.host_id).collect();
        let found = compute.core.store.read(|tx| {
            let server = db::server_get_in(tx, &cx.resource_id)?;
            let choice = compute.live_choose_in(tx, &server, params.target.as_deref(), params.forced, params.block, &tried);
            let returning = compute.others_returning_in(tx, std::slice::from_ref(&params.source.host_id))?;
            let choice = choice.map_err(|error| match error.kind() {
                Kind::NoCapacity if returning => {
                    Error::unavailable("Hosts are still returning after the controller's start.").caused_by(error)
                }
                _ => error,
            })?;
            let stale = tombstones::tombstone_fetch_in(tx, &choice.host_id, &server.id)?;
            Ok((scheduler::resources(&server)?, choice, stale))
        });
        let (resources, choice, stale) = found.await?;
        for volume in compute.core.store.read(|tx| volume_ids_in(tx, &cx.resource_id)).await? {
            compute.volumes.visit_cleared(&volume, &choice.host_id, CLEAR).await?;
        }
        let (id, claimed) = (cx.resource_id.clone(), Claimed { host_id: choice.host_id, host: choice.host, zone: choice.zone });
        let by = cx.operation_id.clone();
        if let Some(generation) = stale {
            // It was there before, and what it left must be gone first.
            if !compute.host_removed(&claimed.host_id, &id, generation, CLEAR).await? {
                return Err(Error::unavailable(format!("Host {} still has the server's old disks.", claimed.host)));
            }
            let (host_id, id) = (claimed.host_id.clone(), id.clone());
            compute.core.store.write(move |tx| tombstones::tombstone_drop_in(tx, &host_id, &id, generation).map(drop)).await?;
        }
        Ok(Effect::with(&claimed).commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            // By force the group does not count, as no filter does; it has its alarm.
            if !params.forced && !scheduler::group_allows_in(tx, &server, &claimed.host_id)? {
                return Err(Error::unavailable("Another server of the group was placed meanwhile."));
            }
            if tombstones::tombstone_fetch_in(tx, &claimed.host_id, &id)?.is_some() {
                return Err(Error::unavailable(format!("Host {} still has the server's old disks.", claimed.host)));
            }
            compute.placement.hand_over_in(tx, &id, &params.migration, None)?;
            let claim = compute.claim_in(tx, &server, &claimed.host_id, &resources);
            claim.map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::unavailable("The chosen host is full by now.").caused_by(error),
                _ => error,
            })?;
            compute.network.ports_visit_in(tx, &id, &claimed.host_id)?;
            for volume in volume_ids_in(tx, &id)? {
                compute.volumes.visit_begin_in(tx, &by, &volume, &claimed.host_id)?;
            }
            migrations::migration_to_in(tx, &params.migration, "preparing", &claimed.host)?;
            db::server_update_in(tx, &mut server)
        }))
    }

    fn unclaim(&self, cx: &StepContext, params: Params, claimed: Claimed) -> Effect {
        let (compute, id, cx) = (self.0.clone(), cx.resource_id.clone(), cx.clone());
        Effect::none().commit(move |tx| {
            let here = db::server_fetch_in(tx, &id, false)?.filter(|s| s.host_id.as_ref() == Some(&params.source.host_id));
            let Some(server) = here else { return Ok(()) };
            compute.network.ports_visit_end_in(tx, &id, &claimed.host_id)?;
            for volume in volume_ids_in(tx, &id)? {
                compute.volumes.visit_end_in(tx, &cx, &volume, &claimed.host_id)?;
            }
            let resources = scheduler::resources(&server)?;
            compute.claim_back_in(tx, &params.migration, &server, &params.source.host_id, &resources)
        })
    }

    /// Has a process wait for the guest on the other host.
    async fn receive(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, id) = (&self.0, cx.resource_id.as_str());
        let claimed: Claimed = cx.output("claim")?;
        let (server, document) = compute.core.store.read(|tx| Ok((db::server_get_in(tx, id)?, compute.spec_in(tx, id)?))).await?;
        if server.doc.live.as_ref().is_none_or(|live| live.migration != params.migration || live.dest != claimed.host_id) {
            let (from, to) = (&params.source.host_id, &claimed.host_id);
            for disk in &document.disks {
                if let DiskSource::Image { sha256, format } = &disk.source {
                    compute.image_bring(cx, id, from, to, sha256, format).await?;
                }
            }
            if document.metadata.config_drive {
                compute.disk_copy(cx, id, from, to, "config.iso", None).await?;
            }
            let slots = match compute.core.hosts.ask(from, Request::Slots { instance_id: id.to_string() }).await? {
                Response::Json(slots) => slots,
                _ => return Err(Error::internal("a host answered a question for slots with something else")),
            };
            for volume in compute.core.store.read(|tx| volume_ids_in(tx, id)).await? {
                compute.volumes.visit_carry(cx, &volume, to).await?;
                compute.volumes.visit_ready(&volume, to, CLEAR, || cx.cancelled()).await?;
            }
            self.introduce(cx, &params, &claimed, slots).await?;
        }
        let generation = compute.instance_send(&claimed.host_id, id).await?;
        let ready = |status: &InstanceStatus| {
            let stage = of(&params.migration, status).map(|moving| &moving.stage);
            status.generation >= generation && matches!(stage, Some(Way::Awaited(_) | Way::Failed(_)))
        };
        let status = compute.host_says(cx, &claimed.host_id, PREPARE, ready).await?;
        let doors = match of(&params.migration, &status).map(|moving| moving.stage.clone()) {
            Some(Way::Awaited(doors)) => doors,
            Some(Way::Failed(why)) if params.target.is_none() => {
                tracing::warn!(server = id, host = claimed.host, why, "a host cannot take a server; another one is tried");
                return Ok(Effect::restart_from("claim"));
            }
            Some(Way::Failed(why)) => return Err(Error::conflict(format!("Host {} cannot take it: {why}", claimed.host))),
            _ => return Err(Error::internal("a host's word is lost")),
        };
        let id = cx.resource_id.clone();
        let ctx = cx.context.clone();
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let Some(live) = &mut server.doc.live else { return Err(Error::internal("the migration is forgotten")) };
            live.doors = Some(doors);
            server.spec_generation += 1;
            migrations::migration_status_in(tx, &params.migration, "running")?;
            db::server_update_in(tx, &mut server)?;
            crate::notify::server_event_in(tx, "live_migration.pre.end", &server, &ctx, None)
        }))
    }

    /// Writes down what makes both hosts take part.
    async fn introduce(&self, cx: &StepContext, params: &Params, claimed: &Claimed, slots: Value) -> Result<()> {
        let pair = Pair::new(&params.migration)?;
        let end = |end: pki::End| LiveEnd { certificate: end.certificate, key: rpc::message::Secret(end.key) };
        let mut live = Live {
            migration: params.migration.clone(),
            dest: claimed.host_id.clone(),
            slots,
            name: pair.name,
            authority: pair.authority,
            server: end(pair.server),
            client: end(pair.client),
            doors: None,
            downtime: 0,
            force: false,
            stop: false,
        };
        let id = cx.resource_id.clone();
        self.0
            .core
            .store
            .write(move |tx| {
                let mut server = db::server_get_in(tx, &id)?;
                live.downtime = spec::live_limits(&server).downtime;
                server.doc.live = Some(live.clone());
                server.spec_generation += 1;
                db::server_save_in(tx, &mut server)
            })
            .await
    }

    /// The guest's host sends it; when it has come the server is the other host's.
    async fn travel(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, id) = (&self.0, cx.resource_id.as_str());
        let claimed: Claimed = cx.output("claim")?;
        let (source, dest) = (params.source.host_id.as_str(), claimed.host_id.as_str());
        let (mut told, mut written) = (0, Progress::default());
        let mut away: Option<std::time::Instant> = None;
        loop {
            let (server, migration, lost) = compute
                .core
                .store
                .read(|tx| {
                    let lost = |host: &str| Ok::<_, Error>(nodes::node_fetch_in(tx, host)?.is_none_or(|node| node.lost));
                    let migration = migrations::migration_fetch_in(tx, &params.migration)?;
                    Ok((db::server_get_in(tx, id)?, migration, (lost(source)?, lost(dest)?)))
                })
                .await?;
            if server.doc.live.is_none() {
                return Err(Error::internal("the migration is forgotten"));
            }
            if told < server.spec_generation && compute.core.hosts.is_connected(source) {
                told = compute.instance_send(source, id).await?;
            }
            let arrived = |host: &str, status: &InstanceStatus| {
                let stage = of(&params.migration, status).map(|moving| moving.stage.clone())?;
                match (host == dest, stage) {
                    (true, Way::Arrived) => Some(Ok(status.clone())),
                    (false, Way::Failed(why)) if host == source => Some(Err(Error::conflict(format!("The server stays: {why}")))),
                    _ => None,
                }
            };
            let began = std::time::Instant::now();
            match compute.statuses.wait(id, LOOK, arrived, || cx.cancelled() || began.elapsed() > LOOK).await {
                Waited::Found(Ok(status)) => return Ok(self.switch(cx, params, claimed, status)),
                Waited::Found(Err(error)) => return Err(error),
                _ => {}
            }
            if cx.cancelled() {
                return Err(Error::conflict("The migration was cancelled."));
            }
            let said = compute.statuses.said(id);
            let progress = |moving: &MovingStatus| Progress { memory: Some(moving.memory), disks: Some(moving.disks) };
            if let Some(now) = said.get(source).and_then(|s| of(&params.migration, s)).map(progress).filter(|now| *now != written) {
                written = now.clone();
                let uuid = params.migration.clone();
                compute.core.store.write(move |tx| migrations::migration_progress_in(tx, &uuid, &now)).await?;
            }
            let gone = said.get(dest).is_some_and(|s| match of(&params.migration, s) {
                Some(moving) => matches!(moving.stage, Way::Failed(_)),
                None => s.state == InstanceState::Absent,
            });
            let left = said.get(source).and_then(|s| of(&params.migration, s)).is_some_and(|moving| moving.stage == Way::Left);
            if gone && left {
                return Err(Error::conflict(format!("It left and did not come to host {}.", claimed.host)));
            }
            if lost.0 || (lost.1 && !left) {
                return Err(Error::conflict("A host was lost on the server's way."));
            }
            let limit = spec::live_limits(&server).timeout;
            if let (Some(limit), Some(migration), false) = (limit, migration, left)
                && Timestamp::now().since(migration.created_at) > limit
            {
                // Not a fault that goes by trying again: it has had its time.
                return Err(Error::conflict(format!("The migration did not settle within {} seconds.", limit.as_secs())));
            }
            if compute.core.hosts.is_connected(source) && compute.core.hosts.is_connected(dest) {
                away = None;
            } else if away.get_or_insert_with(std::time::Instant::now).elapsed() > AWAY {
                return Err(Error::conflict("A host was away for too long."));
            }
        }
    }

    /// The change of hosts. What the old one has goes as soon as it hears of it.
    fn switch(&self, cx: &StepContext, params: Params, claimed: Claimed, status: InstanceStatus) -> Effect {
        let (compute, id, ctx) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone());
        Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if server.host_id.as_ref() != Some(&params.source.host_id) {
                return Ok(());
            }
            let started = migrations::migration_fetch_in(tx, &params.migration)?.map_or_else(Timestamp::now, |m| m.created_at);
            compute.network.ports_bind_in(tx, &id, &claimed.host_id, &claimed.host, &claimed.zone)?;
            compute.network.ports_visit_end_in(tx, &id, &claimed.host_id)?;
            for volume in volume_ids_in(tx, &id)? {
                compute.volumes.visit_arrived_in(tx, &volume, &claimed.host_id, &claimed.host)?;
            }
            compute.placement.release_in(tx, &params.migration)?;
            server.host_id = Some(claimed.host_id.clone());
            server.node = Some(claimed.host.clone());
            server.host = Some(claimed.host.clone());
            server.availability_zone = Some(claimed.zone);
            server.doc.live = None;
            server.spec_generation += 1;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(if server.wanted == Power::Paused { vm::PAUSED } else { vm::ACTIVE });
            server.task_state = deleting;
            if status.elsewhere && spec::recovery(&server, compute.recovery).elsewhere {
                // It said so before the guest was there, and nothing of that changes with its next document.
                leases::lease_put_in(tx, &claimed.host_id, &id)?;
            } else {
                leases::lease_drop_in(tx, &id)?;
            }
            tombstones::tombstone_put_in(tx, &params.source.host_id, &id, server.spec_generation)?;
            db::server_update_in(tx, &mut server)?;
            compute.tell_after_commit(tx, &server);
            compute.host_tell_after_commit(tx, &params.source.host_id, &id);
            compute.status_again_after_commit(tx, &id);
            migrations::migration_status_in(tx, &params.migration, "completed")?;
            let source = Some(params.source.host.as_str());
            let event = |name: &str, host: Option<&str>| actions::action_event_in(tx, &id, &ctx.request_id, name, host, started, None);
            event("conductor_live_migrate_instance", None)?;
            event("compute_check_can_live_migrate_destination", Some(&claimed.host))?;
            event("compute_pre_live_migration", Some(&claimed.host))?;
            event("compute_live_migration", source)?;
            event("compute_post_live_migration_at_destination", Some(&claimed.host))?;
            compute.vim_moving_over_in(tx, &server)?;
            compute.guest_tell_after_commit(tx, &server, ::guest::message::Event::LiveMigrateEnd);
            compute.vim_log_in(tx, &server, "Live-Migrate", Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "live_migration._post.end", &server, &ctx, None)?;
            crate::notify::server_event_in(tx, "live_migration.post.dest.end", &server, &ctx, None)
        })
    }

    /// The guest stays where it is, or comes back: first nothing of it may be on the other host. If it has got there meanwhile, it
    /// stays there.
    async fn back(&self, cx: &StepContext, params: Params, claimed: Claimed) -> Result<Effect> {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        let (source, dest) = (params.source.host_id.clone(), claimed.host_id.clone());
        let ours = params.migration.clone();
        let stopped = compute
            .core
            .store
            .write(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(None) };
                let Some(live) = server.doc.live.as_mut().filter(|live| live.migration == ours) else { return Ok(None) };
                live.stop = true;
                let doors: Option<Doors> = live.doors.clone();
                server.spec_generation += 1;
                db::server_save_in(tx, &mut server)?;
                Ok(Some(doors))
            })
            .await?;
        let Some(doors) = stopped else { return Ok(Effect::none()) };
        let id = cx.resource_id.as_str();
        // Who was never told of a way out has sent nothing.
        let mut stays = doors.is_none();
        if doors.is_some() && compute.core.hosts.is_connected(&source) {
            let generation = compute.instance_send(&source, id).await?;
            // Whether it stays or has left: it has to say so, of what it had been told before or of this.
            let says = |host: &str, status: &InstanceStatus| {
                let stage = &of(&params.migration, status)?.stage;
                let said = status.generation >= generation || matches!(stage, Way::Left);
                (host == source && said && matches!(stage, Way::Left | Way::Failed(_))).then(|| *stage == Way::Left)
            };
            let off = || !compute.core.hosts.is_connected(&source);
            let said = compute.statuses.wait(id, STOP, says, off).await;
            stays = said == Waited::Found(false);
            if said == Waited::Found(true) {
                let came = |host: &str, status: &InstanceStatus| {
                    let stage = of(&params.migration, status).map(|moving| &moving.stage);
                    let over =
                        matches!(stage, Some(Way::Arrived | Way::Failed(_))) || (stage.is_none() && status.state == InstanceState::Absent);
                    (host == dest && over).then_some(())
                };
                let off = || !compute.core.hosts.is_connected(&dest);
                // If it says nothing, it is asked to be gone, which it confirms.
                let _ = compute.statuses.wait(id, ARRIVE, came, off).await;
            }
        }
        let there = compute.statuses.said(id).remove(&dest);
        if let Some(status) = there.filter(|s| of(&params.migration, s).is_some_and(|moving| moving.stage == Way::Arrived)) {
            return Ok(self.switch(cx, params, claimed, status));
        }
        let (host, server_id) = (dest.clone(), id.to_string());
        let (generation, known) = compute
            .core
            .store
            .write(move |tx| {
                let mut server = db::server_get_in(tx, &server_id)?;
                server.spec_generation += 1;
                tombstones::tombstone_put_in(tx, &host, &server_id, server.spec_generation)?;
                db::server_save_in(tx, &mut server)?;
                Ok((server.spec_generation, nodes::node_fetch_in(tx, &host)?))
            })
            .await?;
        if stays && known.as_ref().is_some_and(|node| node.lost) {
            // A process that waited there for a guest that never left runs nothing. It is told to be gone when it is back.
            let id = cx.resource_id.clone();
            return Ok(Effect::none().commit(move |tx| compute.live_over_in(tx, &id)));
        }
        let known = known.is_some();
        if !compute.host_removed(&dest, id, generation, CLEAR).await? && known {
            return Err(Error::unavailable(format!("Host {} may run the guest.", claimed.host)));
        }
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            tombstones::tombstone_drop_in(tx, &dest, &id, generation)?;
            compute.live_over_in(tx, &id)
        }))
    }
}

impl Compute {
    /// Nothing of a guest is on the host that it should have gone to: it goes on where it was.
    fn live_over_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, id, false)? else { return Ok(()) };
        server.doc.live = None;
        server.spec_generation += 1;
        db::server_save_in(tx, &mut server)?;
        self.tell_after_commit(tx, &server);
        Ok(())
    }

    /// A host has said that a guest is gone. If it was to come there and its operation has given up meanwhile, that ends here.
    pub(crate) fn live_cleared_in(&self, tx: &Tx, host_id: &str, id: &str) -> Result<()> {
        let server = db::server_fetch_in(tx, id, false)?;
        match server.and_then(|s| s.doc.live).is_some_and(|live| live.dest == host_id && live.stop) {
            true => self.live_over_in(tx, id),
            false => Ok(()),
        }
    }

    /// The best host that can take a running server: one of the same kind. `NoCapacity`, or `Invalid`, says why there is none.
    pub(crate) fn live_choose_in(
        &self,
        tx: &Tx,
        server: &Server,
        target: Option<&str>,
        forced: bool,
        block: Option<bool>,
        tried: &[String],
    ) -> Result<scheduler::Choice> {
        let own = self.server_host(server)?;
        let here = nodes::node_fetch_in(tx, &own)?.ok_or_else(|| Error::conflict("The server's host is gone."))?;
        for row in volumes_of_in(tx, &server.id)? {
            if let (Some(volume), Some(attachment)) = (&row.volume_id, &row.attachment_id) {
                self.volumes.visit_check_in(tx, volume, attachment)?;
            }
        }
        if block == Some(false) && spec::has_disks(server)? {
            return Err(Error::invalid(format!(
                "{} is not on shared storage: Shared storage live-migration requires either shared storage or boot-from-volume with no local disks.",
                here.name
            )));
        }
        let none = |why: &str| Error::new(Kind::NoCapacity, format!("No valid host was found. {why}"));
        if !here.info.live {
            return Err(none("The server's host is of a release that does not send running guests."));
        }
        let mut asked = server.clone();
        let wish = &mut asked.doc.placement;
        (wish.forced_host, wish.requested_host) = match target {
            Some(target) if forced => (Some(target.to_string()), None),
            other => (None, other.map(str::to_string)),
        };
        let mut ignored = tried.to_vec();
        ignored.push(own);
        loop {
            let choice = self.host_choose_in(tx, &asked, &ignored)?;
            let there = nodes::node_fetch_in(tx, &choice.host_id)?;
            let fits = there.as_ref().is_some_and(|there| {
                let (one, other) = (&here.info, &there.info);
                other.live && other.accelerator == one.accelerator && other.hypervisor_version >= one.hypervisor_version
            });
            if fits {
                return Ok(choice);
            }
            if target.is_some() {
                return Err(none("The host that was asked for has other processors, or an older hypervisor."));
            }
            ignored.push(choice.host_id);
        }
    }
}
