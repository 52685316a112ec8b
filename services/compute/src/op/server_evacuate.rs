//! Evacuation: the server of a host that is lost is made anew on another one. Whoever asks for it has made sure that the lost
//! host runs the guest no more; should that host come back, it is told first of all that the guest must be gone.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use block_storage::bring::Destination;
use rpc::instance::{InstanceState, Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::servers::{self as db, DiskRevisions, ImageFacts, Rescue};
use crate::db::{actions, leases, migrations, nodes, tombstones};
use crate::scheduler;
use crate::spec;
use crate::states::{power, task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_evacuate";
/// Hosts on which a server is tried before it is given up.
const ATTEMPTS: u32 = 3;
/// How long a host may take to get a guest running: an image may have to be fetched first.
const SPAWN: Duration = Duration::from_secs(600);
/// How long a guest that is not to be may take to be cleared away.
const CLEAR: Duration = Duration::from_secs(60);
/// How long an image is awaited that the host may have already: the server is down until then.
const IMAGE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub migration: String,
    /// The host (name) that was asked for.
    pub target: Option<String>,
    /// Past the filters.
    pub forced: bool,
    /// The caller says that the disks are on storage that the hosts share.
    pub shared: Option<bool>,
    /// It stays off, whatever it was.
    pub stopped: bool,
    pub before: Before,
}

/// The server as it was: what an evacuation that fails goes back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Before {
    pub host_id: String,
    pub host: String,
    pub zone: Option<String>,
    pub wanted: Power,
    pub boot: u64,
    pub disks: DiskRevisions,
    pub root_image: Option<ImageFacts>,
    pub rescue: Option<Rescue>,
}

/// Output of `place`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Placed {
    host_id: String,
    host: String,
}

pub struct ServerEvacuate(pub Compute);

#[async_trait]
impl Operation for ServerEvacuate {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["place", "image", "spawn"]
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "image" => IMAGE + Duration::from_secs(120),
            "spawn" => SPAWN,
            _ => Duration::from_secs(60),
        })
    }

    fn pure(&self, step: &str) -> bool {
        step == "image"
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "place" => self.place(cx, params).await,
            "image" => self.0.images_bring(cx, Some(IMAGE)).await,
            _ => self.spawn(cx, params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let Some(placed) = cx.opt_output::<Placed>("place")? else { return Ok(Effect::none()) };
        match step {
            "place" => self.unplace(cx, placed),
            "image" => Ok(Effect::none()),
            _ => self.unspawn(cx, placed).await,
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        let status = if error.is(Kind::NoCapacity) { "error" } else { "failed" };
        migrations::migration_status_in(tx, &params.migration, status)?;
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        if !deleting {
            server.task_state = None;
            server.vm_state = vm::ERROR.into();
            server.power_state = power::NOSTATE;
            // Should its host come back with the guest, it is well again.
            server.doc.held_failed = true;
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        let request = &cx.context.request_id;
        actions::action_event_in(tx, &server.id, request, "compute_rebuild_instance", host, now, Some(error.message()))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, "Evacuate", Stage::Cancelled, None);
        }
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, "Evacuate", Stage::Failed, Some(error.message()))?;
        self.0.vim_failed_in(tx, &server, Some(error.message()), false)?;
        crate::notify::server_event_in(tx, "rebuild.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerEvacuate {
    /// The whole change of hosts in one transaction: room, ports, the server itself, and the order to the lost host.
    async fn place(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, before) = (self.0.clone(), params.before.clone());
        if params.shared == Some(true) {
            return Err(Error::conflict("Invalid state of instance files on shared storage: the hosts of this cloud share none."));
        }
        let mut tried: Vec<String> = cx.excluded::<Placed>("place")?.into_iter().map(|p| p.host_id).collect();
        if cx.restarts() >= ATTEMPTS {
            let why = "Exhausted all hosts available for retrying build failures";
            return Err(Error::new(
                Kind::NoCapacity,
                format!("Exceeded maximum number of retries. {why} for instance {}.", cx.resource_id),
            ));
        }
        tried.push(before.host_id.clone());
        let (server, choice) = compute
            .core
            .store
            .read(|tx| {
                tried.extend(compute.hosts_unseeing_in(tx, &cx.resource_id)?);
                let mut server = db::server_get_in(tx, &cx.resource_id)?;
                if server.host_id.as_ref() != Some(&before.host_id) {
                    return Ok((server, None));
                }
                let asked = &mut server.doc.placement;
                // What a create was forced to does not count any more.
                (asked.forced_host, asked.requested_host) =
                    if params.forced { (params.target.clone(), None) } else { (None, params.target.clone()) };
                let groups = compute.groups_in(tx, &server.id)?;
                match scheduler::choose_in(tx, &compute.placement, &server, &tried, groups) {
                    Err(error) if error.is(Kind::NoCapacity) && compute.others_returning_in(tx, &tried)? => {
                        Err(Error::unavailable("Hosts are still returning after the controller's start.").caused_by(error))
                    }
                    choice => Ok((server, Some(choice?))),
                }
            })
            .await?;
        let Some(choice) = choice else {
            // It was done before, and only its record is missing.
            let host_id = compute.server_host(&server)?;
            return Ok(Effect::with(Placed { host_id, host: server.host.unwrap_or_default() }));
        };
        let resources = scheduler::resources(&server)?;
        let (id, ctx) = (cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::with(Placed { host_id: choice.host_id.clone(), host: choice.host.clone() }).commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            // By force the group does not count, as no filter does; it has its alarm.
            if !params.forced && !scheduler::group_allows_in(tx, &server, &choice.host_id)? {
                return Err(Error::unavailable("Another server of the group was placed meanwhile."));
            }
            // What it had stays taken until the lost host has said that the guest is gone.
            compute.placement.hand_over_in(tx, &id, &params.migration, None)?;
            compute.claim_in(tx, &server, &choice.host_id, &resources).map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::unavailable("The chosen host is full by now.").caused_by(error),
                _ => error,
            })?;
            compute.network.ports_bind_in(tx, &id, &choice.host_id, &choice.host, &choice.zone)?;
            let certain = leases::lease_is_in(tx, &before.host_id, &id)?;
            compute.volumes_pass_in(tx, &id, &Destination { host_id: choice.host_id.clone(), host: choice.host.clone() }, certain)?;
            // All disks begin anew, under names that no host has ever seen: an older one may lie about where it goes.
            let disks = &mut server.doc.disks;
            (disks.root, disks.ephemeral, disks.swap) = (disks.fresh(), disks.fresh(), disks.fresh());
            (disks.root_from, disks.ephemeral_from) = (None, None);
            (server.doc.root_image, server.doc.rescue) = (None, None);
            server.doc.restart = Restart::Hard;
            server.boot += 1;
            server.want(if params.stopped || before.wanted == Power::Stopped { Power::Stopped } else { Power::Running });
            tombstones::tombstone_put_in(tx, &before.host_id, &id, server.spec_generation)?;
            // A host that has nothing of the guest cannot run it but by the document that it will get, and so by its lease, if that says so
            // (`instance_send` takes this back before it tells anything else). Should the host be lost before it has said anything,
            // the guest can go on to another.
            let clear = !tombstones::tombstone_drop_in(tx, &choice.host_id, &id, server.spec_generation)?;
            match clear && spec::recovery(&server, compute.recovery).elsewhere {
                true => leases::lease_put_in(tx, &choice.host_id, &id)?,
                false => leases::lease_drop_in(tx, &id)?,
            }
            compute.host_tell_after_commit(tx, &before.host_id, &id);
            server.host_id = Some(choice.host_id);
            server.node = Some(choice.host.clone());
            server.availability_zone = Some(choice.zone);
            migrations::migration_to_in(tx, &params.migration, "pre-migrating", &choice.host)?;
            server.host = Some(choice.host);
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.task_state = Some(task_state::REBUILDING.into());
            }
            db::server_update_in(tx, &mut server)?;
            crate::notify::server_event_in(tx, "rebuild.start", &server, &ctx, None)
        }))
    }

    async fn spawn(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let placed: Placed = cx.output("place")?;
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let source = params.before.host_id.clone();
        if compute.core.hosts.is_connected(&source) {
            // It was only said to be down, or has come back: then it can say itself that the guest is gone, and is waited for.
            let gone = compute.host_removed(&source, &server.id, server.spec_generation, CLEAR).await?;
            if !gone && compute.core.hosts.is_connected(&source) {
                return Err(Error::unavailable(format!("Host {} still has the guest.", params.before.host)));
            }
        }
        let generation = compute.instance_send(&placed.host_id, &server.id).await?;
        let status = compute.host_settled(cx, &placed.host_id, generation, server.boot, SPAWN).await?;
        let seen = server.state_seen(status.state).filter(|_| status.state != InstanceState::Failed);
        let Some(state) = seen else {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            tracing::warn!(server = cx.resource_id, host = placed.host, why, "an evacuated server does not start");
            if cx.restarts() + 1 < ATTEMPTS && !params.forced {
                return Ok(Effect::restart_from("place"));
            }
            return Err(Error::conflict(format!("Host {} could not start it: {why}", placed.host)));
        };
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(state);
            server.task_state = deleting;
            server.doc.held_failed = false;
            server.launched_at = Some(Timestamp::now());
            db::server_update_in(tx, &mut server)?;
            migrations::migration_status_in(tx, &params.migration, "done")?;
            if tombstones::tombstone_fetch_in(tx, &source, &id)?.is_none() {
                compute.evacuated_in(tx, &params.before.host, &id)?;
            } else if compute.core.hosts.is_connected(&source) {
                // Its word may have been lost among those of the other host: ask again.
                compute.host_tell_after_commit(tx, &source, &id);
            }
            compute.status_again_after_commit(tx, &id);
            let host = server.host.as_deref();
            for event in ["rebuild_server", "compute_rebuild_instance"] {
                actions::action_event_in(tx, &id, &ctx.request_id, event, host, started, None)?;
            }
            compute.vim_enabled_in(tx, &server)?;
            compute.vim_log_in(tx, &server, "Evacuate", Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "rebuild.end", &server, &ctx, None)
        }))
    }

    async fn unspawn(&self, cx: &StepContext, placed: Placed) -> Result<Effect> {
        let (compute, id, host_id) = (self.0.clone(), cx.resource_id.clone(), placed.host_id.clone());
        let marked = compute
            .core
            .store
            .write(move |tx| {
                let there = db::server_fetch_in(tx, &id, false)?.filter(|s| s.host_id.as_ref() == Some(&host_id));
                let Some(mut server) = there else { return Ok(None) };
                server.spec_generation += 1;
                tombstones::tombstone_put_in(tx, &host_id, &server.id, server.spec_generation)?;
                db::server_save_in(tx, &mut server)?;
                Ok(Some(server.spec_generation))
            })
            .await?;
        let Some(generation) = marked else { return Ok(Effect::none()) };
        let gone = compute.host_removed(&placed.host_id, &cx.resource_id, generation, CLEAR).await?;
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            if gone {
                tombstones::tombstone_drop_in(tx, &placed.host_id, &id, generation)?;
            }
            Ok(())
        }))
    }

    /// Back to where it was, unless the other host may run the guest: then it stays there, for the guest must not be twice.
    fn unplace(&self, cx: &StepContext, placed: Placed) -> Result<Effect> {
        let (compute, id, params) = (self.0.clone(), cx.resource_id.clone(), cx.param::<Params>()?);
        Ok(Effect::none().commit(move |tx| {
            let there = db::server_fetch_in(tx, &id, false)?.filter(|s| s.host_id.as_ref() == Some(&placed.host_id));
            let Some(mut server) = there else { return Ok(()) };
            let before = params.before;
            server.spec_generation += 1;
            if tombstones::tombstone_drop_in(tx, &placed.host_id, &id, server.spec_generation)? {
                db::server_save_in(tx, &mut server)?;
                compute.tell_after_commit(tx, &server);
                return Ok(());
            }
            if nodes::node_fetch_in(tx, &before.host_id)?.is_some() {
                let resources = scheduler::resources(&server)?;
                compute.claim_back_in(tx, &params.migration, &server, &before.host_id, &resources)?;
                let zone = before.zone.clone().unwrap_or_else(|| nodes::DEFAULT_ZONE.into());
                compute.network.ports_bind_in(tx, &id, &before.host_id, &before.host, &zone)?;
                tombstones::tombstone_drop_in(tx, &before.host_id, &id, server.spec_generation)?;
                compute.volumes_pass_in(tx, &id, &Destination { host_id: before.host_id.clone(), host: before.host.clone() }, true)?;
                (server.host_id, server.host, server.node) = (Some(before.host_id), Some(before.host.clone()), Some(before.host));
            } else {
                compute.placement.release_in(tx, &id)?;
                compute.placement.release_in(tx, &params.migration)?;
                compute.network.ports_unbind_in(tx, &id)?;
                (server.host_id, server.host, server.node) = (None, None, None);
            }
            server.availability_zone = before.zone;
            // Numbers of disks are never used again.
            let last = server.doc.disks.last;
            server.doc.disks = DiskRevisions { last, ..before.disks };
            (server.doc.root_image, server.doc.rescue) = (before.root_image, before.rescue);
            (server.wanted, server.boot) = (before.wanted, before.boot);
            db::server_save_in(tx, &mut server)?;
            compute.tell_after_commit(tx, &server);
            Ok(())
        }))
    }
}
