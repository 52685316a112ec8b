//! Building a server: a host is chosen and everything on it claimed in one transaction, then the host is told.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use block_storage::bring::{BRING, Destination};
use network::{NicPlan, ServerPorts};
use rpc::instance::InstanceState;
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::claims;
use crate::db::servers::{self as db, Server};
use crate::db::{actions, tombstones};
use crate::scheduler;
use crate::states::{power, task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_create";
/// Hosts on which a server is tried before it is given up.
const ATTEMPTS: u32 = 3;
/// How long a host may take to get a guest running: an image may have to be fetched first.
const SPAWN: Duration = Duration::from_secs(600);
/// How long a failed build may take to be cleared away.
const CLEAR: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
pub struct Params {
    pub nics: Vec<NicPlan>,
}

/// Output of `place`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Placed {
    host_id: String,
    host: String,
    zone: String,
}

pub struct ServerCreate(pub Compute);

#[async_trait]
impl Operation for ServerCreate {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["place", "image", "volumes", "bring", "spawn"]
    }
    fn deadline(&self) -> Duration {
        BRING + Duration::from_secs(3600)
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "place" => Duration::from_secs(60),
            "image" => super::IMAGE,
            "bring" => BRING,
            _ => SPAWN,
        })
    }
    fn pure(&self, step: &str) -> bool {
        step == "image"
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "place" => self.place(cx).await,
            "image" => self.0.images_bring(cx, None).await,
            "volumes" => self.volumes(cx).await,
            "bring" => self.bring(cx).await,
            _ => self.spawn(cx).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "place" => self.unplace(cx),
            "volumes" => self.unvolumes(cx),
            "bring" => self.unbring(cx),
            "image" => Ok(Effect::none()),
            _ => self.unspawn(cx).await,
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        server.vm_state = vm::ERROR.into();
        server.power_state = power::NOSTATE;
        if !deleting {
            server.task_state = None;
        }
        db::server_update_in(tx, &mut server)?;
        self.0.volumes_release_in(tx, &cx.context, &server, false)?;
        let message = match error.kind() {
            Kind::Internal => "Build of the instance failed with an internal error.",
            _ => error.message(),
        };
        db::fault_put_in(tx, &server.id, 500, message, &error.chain())?;
        let event = "compute__do_build_and_run_instance";
        actions::action_event_in(tx, &server.id, &cx.context.request_id, event, server.host.as_deref(), server.created_at, Some(message))?;
        crate::notify::server_event_in(tx, "create.error", &server, &cx.context, Some(message))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, "Create", Stage::Cancelled, None);
        }
        self.0.vim_log_in(tx, &server, "Create", Stage::Failed, Some(message))?;
        self.0.vim_failed_in(tx, &server, None, false)
    }
}

impl ServerCreate {
    async fn place(&self, cx: &StepContext) -> Result<Effect> {
        let tried: Vec<Placed> = cx.excluded("place")?;
        if cx.restarts() >= ATTEMPTS {
            return Err(Error::new(
                Kind::NoCapacity,
                format!(
                    "Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures for instance {}.",
                    cx.resource_id
                ),
            ));
        }
        let tried: Vec<String> = tried.into_iter().map(|p| p.host_id).collect();
        let compute = self.0.clone();
        let params: Params = cx.param()?;
        let (server, choice) = compute
            .core
            .store
            .read(|tx| {
                let server = db::server_get_in(tx, &cx.resource_id)?;
                let groups = claims::groups(&compute.network.demands_planned_in(tx, &params.nics)?);
                let choice = match compute.host_choose_with_in(tx, &server, &tried, groups) {
                    Err(error) if error.is(Kind::NoCapacity) && compute.hosts_returning_in(tx)? => {
                        return Err(Error::unavailable("Hosts are still returning after the controller's start.").caused_by(error));
                    }
                    choice => choice?,
                };
                Ok((server, choice))
            })
            .await?;
        let resources = scheduler::resources(&server)?;
        let (ctx, placed) = (cx.context.clone(), Placed { host_id: choice.host_id, host: choice.host, zone: choice.zone });
        Ok(Effect::with(&placed).commit(move |tx| {
            let mut server = db::server_get_in(tx, &server.id)?;
            if !scheduler::group_allows_in(tx, &server, &placed.host_id)? {
                return Err(Error::unavailable("Another server of the group was placed meanwhile."));
            }
            let ports = ServerPorts {
                server_id: server.id.clone(),
                project_id: server.project_id.clone(),
                hostname: server.hostname.clone(),
                availability_zone: placed.zone.clone(),
            };
            // What they ask for is claimed with the rest.
            compute.network.ports_create_in(tx, &ctx, &ports, &params.nics)?;
            compute.claim_in(tx, &server, &placed.host_id, &resources).map_err(|error| match error.kind() {
                // Somebody was quicker: choose again.
                Kind::NoCapacity => Error::unavailable("The chosen host is full by now.").caused_by(error),
                _ => error,
            })?;
            tombstones::tombstone_drop_in(tx, &placed.host_id, &server.id, server.spec_generation)?;
            compute.network.ports_bind_in(tx, &server.id, &placed.host_id, &placed.host, &placed.zone)?;
            // Those that were there before it; nobody else has them.
            compute.volumes_pass_in(tx, &server.id, &Destination { host_id: placed.host_id.clone(), host: placed.host.clone() }, true)?;
            server.host_id = Some(placed.host_id);
            server.node = Some(placed.host.clone());
            server.host = Some(placed.host);
            server.availability_zone = Some(placed.zone);
            server.spec_generation += 1;
            building(&mut server, task_state::SPAWNING);
            compute.volumes_call_in(tx, &server)?;
            db::server_update_in(tx, &mut server)
        }))
    }

    /// Makes the volumes that are made for the server, on its host or where the snapshot is that one is made of, and reserves them.
    async fn volumes(&self, cx: &StepContext) -> Result<Effect> {
        let placed: Placed = cx.output("place")?;
        let compute = self.0.clone();
        for id in compute.volumes_make(&cx.context, &cx.resource_id, &placed.host_id).await? {
            compute.volumes.volume_made(&id, SPAWN, || cx.cancelled()).await?;
        }
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            compute.volumes_reserve_in(tx, &ctx, &id)?;
            compute.volumes_call_in(tx, &db::server_get_in(tx, &id)?)
        }))
    }

    /// Brings the volumes that are on other hosts.
    async fn bring(&self, cx: &StepContext) -> Result<Effect> {
        self.0.volumes_come(cx).await?;
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| compute.volumes_came_in(tx, &id)))
    }

    fn unbring(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, cx) = (self.0.clone(), cx.clone());
        Ok(Effect::none().commit(move |tx| compute.volumes_call_off_in(tx, &cx)))
    }

    fn unvolumes(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, ctx, id) = (self.0.clone(), cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| compute.volumes_unmake_in(tx, &ctx, &id)))
    }

    async fn spawn(&self, cx: &StepContext) -> Result<Effect> {
        let compute = self.0.clone();
        let placed: Placed = cx.output("place")?;
        let generation = compute.instance_send(&placed.host_id, &cx.resource_id).await?;
        let status = compute.host_settled(cx, &placed.host_id, generation, 0, SPAWN).await?;
        if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
            let why = status.error.unwrap_or_else(|| "the host removed it".into());
            tracing::warn!(server = cx.resource_id, host = placed.host, why, "a build failed");
            if cx.restarts() + 1 < ATTEMPTS {
                return Ok(Effect::restart_from("place"));
            }
            return Err(Error::new(
                Kind::NoCapacity,
                format!(
                    "Exceeded maximum number of retries. Exceeded max scheduling attempts {ATTEMPTS} for instance {}. Last exception: {why}",
                    cx.resource_id
                ),
            ));
        }
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(crate::hosts::vm_state_of(status.state).unwrap_or(vm::ACTIVE));
            server.task_state = deleting;
            server.launched_at = Some(Timestamp::now());
            db::server_update_in(tx, &mut server)?;
            compute.volumes_attached_in(tx, &ctx, &server)?;
            compute.status_again_after_commit(tx, &id);
            let event = "compute__do_build_and_run_instance";
            actions::action_event_in(tx, &id, &ctx.request_id, event, server.host.as_deref(), server.created_at, None)?;
            compute.vim_log_in(tx, &server, "Create", Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "create.end", &server, &ctx, None)
        }))
    }

    async fn unspawn(&self, cx: &StepContext) -> Result<Effect> {
        let Some(placed) = cx.opt_output::<Placed>("place")? else { return Ok(Effect::none()) };
        let (id, host_id) = (cx.resource_id.clone(), placed.host_id.clone());
        let marked = self
            .0
            .core
            .store
            .write(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(None) };
                server.spec_generation += 1;
                tombstones::tombstone_put_in(tx, &host_id, &server.id, server.spec_generation)?;
                db::server_save_in(tx, &mut server)?;
                Ok(Some(server.spec_generation))
            })
            .await?;
        let Some(generation) = marked else { return Ok(Effect::none()) };
        let gone = self.0.host_removed(&placed.host_id, &cx.resource_id, generation, CLEAR).await?;
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            if gone {
                tombstones::tombstone_drop_in(tx, &placed.host_id, &id, generation)?;
            }
            Ok(())
        }))
    }

    fn unplace(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            compute.placement.release_in(tx, &id)?;
            compute.network.ports_release_in(tx, &id)?;
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            server.host_id = None;
            server.host = None;
            server.node = None;
            server.availability_zone.clone_from(&server.doc.placement.zone);
            building(&mut server, task_state::SCHEDULING);
            db::server_update_in(tx, &mut server)
        }))
    }
}

/// Moves a server that is being built on, unless it is to be deleted.
fn building(server: &mut Server, task: &str) {
    if server.task_state.as_deref() != Some(task_state::DELETING) {
        server.task_state = Some(task.into());
    }
}
