//! Unshelving: a host is chosen again, and the guest starts on a disk made from the image it was shelved into.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use block_storage::bring::{BRING, Destination};
use rpc::instance::{InstanceState, Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::servers::{self as db, ImageFacts};
use crate::db::{actions, tombstones};
use crate::scheduler;
use crate::states::{task as task_state, vm};

pub const KIND: &str = "compute.server_unshelve";
const SPAWN: Duration = Duration::from_secs(600);
const CLEAR: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// The image it was shelved into; none: it boots from a volume.
    pub image_id: Option<String>,
    /// The state it had.
    pub vm_state: String,
}

/// Output of `place`; none when the server had kept its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Placed {
    host_id: String,
}

pub struct ServerUnshelve(pub Compute);

#[async_trait]
impl Operation for ServerUnshelve {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["place", "image", "bring", "spawn", "clean"]
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "image" => super::IMAGE,
            "bring" => BRING,
            "spawn" => SPAWN,
            _ => Duration::from_secs(60),
        })
    }
    fn pure(&self, step: &str) -> bool {
        step == "image"
    }
    fn deadline(&self) -> Duration {
        BRING + Duration::from_secs(3600)
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "place" => self.place(cx).await,
            "image" => self.0.images_bring(cx, Some(super::PERHAPS)).await,
            "bring" => self.bring(cx).await,
            "spawn" => self.spawn(cx).await,
            _ => {
                let params: Params = cx.param()?;
                // The server runs; an image that stays costs room and nothing else.
                if let Some(image_id) = &params.image_id
                    && let Err(error) = self.0.copy_image_remove(cx, image_id).await
                {
                    tracing::warn!(image = image_id, "the image of a shelved server stays: {}", error.chain());
                }
                Ok(Effect::none())
            }
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_fetch_in(tx, &cx.resource_id, false)).await?;
        if server.is_none_or(|s| s.doc.shelved.is_none()) {
            // It runs, or is gone: nothing is on the shelf that there would be to go back to.
            return Ok(Effect::none());
        }
        let placed = cx.opt_output::<Placed>("place")?;
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        match (step, placed) {
            ("spawn", Some(placed)) => {
                let (marked, host_id) = (id.clone(), placed.host_id.clone());
                let generation = compute
                    .core
                    .store
                    .write(move |tx| {
                        let Some(mut server) = db::server_fetch_in(tx, &marked, false)? else { return Ok(None) };
                        server.spec_generation += 1;
                        tombstones::tombstone_put_in(tx, &host_id, &server.id, server.spec_generation)?;
                        db::server_save_in(tx, &mut server)?;
                        Ok(Some(server.spec_generation))
                    })
                    .await?;
                let Some(generation) = generation else { return Ok(Effect::none()) };
                let gone = compute.host_removed(&placed.host_id, &id, generation, CLEAR).await?;
                Ok(Effect::none().commit(move |tx| {
                    if gone { tombstones::tombstone_drop_in(tx, &placed.host_id, &id, generation).map(drop) } else { Ok(()) }
                }))
            }
            ("bring", Some(_)) => {
                let cx = cx.clone();
                Ok(Effect::none().commit(move |tx| compute.volumes_call_off_in(tx, &cx)))
            }
            ("place", Some(_)) => Ok(Effect::none().commit(move |tx| {
                compute.placement.release_in(tx, &id)?;
                compute.network.ports_unbind_in(tx, &id)?;
                let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
                (server.host_id, server.host, server.node) = (None, None, None);
                db::server_save_in(tx, &mut server)
            })),
            // It had kept its place: off again.
            ("place", None) => Ok(Effect::none().commit(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
                if server.host_id.is_some() {
                    server.want(Power::Stopped);
                    compute.tell_after_commit(tx, &server);
                }
                db::server_save_in(tx, &mut server)
            })),
            _ => Ok(Effect::none()),
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let params: Params = cx.param()?;
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        // Once it ran it stays what it is, whatever became of the image.
        if !deleting && server.doc.shelved.is_some() {
            server.vm_state = params.vm_state;
        }
        if !deleting {
            server.task_state = None;
        }
        db::server_update_in(tx, &mut server)?;
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        let now = Timestamp::now();
        actions::action_event_in(tx, &server.id, &cx.context.request_id, "compute_unshelve_instance", None, now, Some(error.message()))?;
        crate::notify::server_event_in(tx, "unshelve.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerUnshelve {
    async fn place(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, params) = (self.0.clone(), cx.param::<Params>()?);
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let id = cx.resource_id.clone();
        if server.host_id.is_some() {
            return Ok(Effect::none().commit(move |tx| {
                let mut server = db::server_get_in(tx, &id)?;
                start(&mut server);
                db::server_update_in(tx, &mut server)
            }));
        }
        let facts = match &params.image_id {
            Some(image_id) => Some(self.facts(cx, image_id).await?),
            None => None,
        };
        let choice = compute
            .core
            .store
            .read(|tx| match compute.host_choose_in(tx, &server, &[]) {
                Err(error) if error.is(Kind::NoCapacity) && compute.hosts_returning_in(tx)? => {
                    Err(Error::unavailable("Hosts are still returning after the controller's start.").caused_by(error))
                }
                choice => choice,
            })
            .await?;
        let resources = scheduler::resources(&server)?;
        Ok(Effect::with(Placed { host_id: choice.host_id.clone() }).commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            compute.claim_in(tx, &server, &choice.host_id, &resources).map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::unavailable("The chosen host is full by now.").caused_by(error),
                _ => error,
            })?;
            tombstones::tombstone_drop_in(tx, &choice.host_id, &id, server.spec_generation)?;
            compute.network.ports_bind_in(tx, &id, &choice.host_id, &choice.host, &choice.zone)?;
            // On the shelf nobody has them open.
            compute.volumes_pass_in(tx, &id, &Destination { host_id: choice.host_id.clone(), host: choice.host.clone() }, true)?;
            server.host_id = Some(choice.host_id);
            server.node = Some(choice.host.clone());
            server.host = Some(choice.host);
            server.availability_zone = Some(choice.zone);
            server.doc.root_image = facts;
            let disks = &mut server.doc.disks;
            (disks.root, disks.ephemeral, disks.swap) = (disks.fresh(), disks.fresh(), disks.fresh());
            (disks.root_from, disks.ephemeral_from) = (None, None);
            start(&mut server);
            compute.volumes_call_in(tx, &server)?;
            db::server_update_in(tx, &mut server)
        }))
    }

    /// Brings its volumes to the host that it got.
    async fn bring(&self, cx: &StepContext) -> Result<Effect> {
        self.0.volumes_come(cx).await?;
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| compute.volumes_came_in(tx, &id)))
    }

    /// The image it was shelved into.
    async fn facts(&self, cx: &StepContext, image_id: &str) -> Result<ImageFacts> {
        let image = self.0.images.boot_image(&cx.context, image_id).await.map_err(|error| match error.kind() {
            Kind::NotFound => {
                Error::conflict(format!("Error during unshelve instance {}: the image {image_id} is not there any more.", cx.resource_id))
            }
            _ => error,
        })?;
        Ok(image.into())
    }

    async fn spawn(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, server.boot, SPAWN).await?;
        if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            return Err(Error::conflict(format!("Host {} could not start it: {why}", server.host.unwrap_or_default())));
        }
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(vm::ACTIVE);
            server.task_state = deleting;
            server.doc.shelved = None;
            server.launched_at = Some(Timestamp::now());
            db::server_update_in(tx, &mut server)?;
            compute.volumes_attached_in(tx, &ctx, &server)?;
            compute.status_again_after_commit(tx, &id);
            let host = server.host.as_deref();
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_unshelve_instance", host, started, None)?;
            crate::notify::server_event_in(tx, "unshelve.end", &server, &ctx, None)
        }))
    }
}

fn start(server: &mut db::Server) {
    server.doc.restart = Restart::Hard;
    server.boot += 1;
    server.want(Power::Running);
}
