//! Shelving: the guest is switched off, its root disk becomes an image, and its place on the host is given up.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use rpc::instance::{InstanceState, Power};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use super::copy::{COPY, UPLOAD};
use crate::Compute;
use crate::db::servers::{self as db, Shelved};
use crate::db::{actions, tombstones};
use crate::states::{power, task as task_state, vm};

pub const KIND: &str = "compute.server_shelve";
/// A guest may take its time to shut down.
const STOP: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// None: it is shelved already and only its place is given up, or it boots from a volume.
    pub copy: Option<Copy>,
    /// Whether its place is given up.
    pub offload: bool,
    /// It boots from a volume.
    #[serde(default)]
    pub volumes: bool,
    /// The state it had.
    pub vm_state: String,
}

impl Params {
    /// It runs yet.
    fn begins(&self) -> bool {
        self.copy.is_some() || self.volumes
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Copy {
    pub image_id: String,
    pub snapshot: String,
}

pub struct ServerShelve(pub Compute);

#[async_trait]
impl Operation for ServerShelve {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["stop", "copy", "upload", "offload"]
    }
    fn deadline(&self) -> Duration {
        STOP + COPY + UPLOAD
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "stop" => STOP,
            "copy" => COPY,
            _ => UPLOAD,
        })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match (step, params.copy.clone()) {
            ("offload", _) => Ok(self.offload(cx, params)),
            ("stop", _) if params.begins() => self.stop(cx).await,
            (_, None) => Ok(Effect::none()),
            ("copy", Some(copy)) => {
                self.0.copy_make(cx, &copy.snapshot).await?;
                let id = cx.resource_id.clone();
                Ok(Effect::none().commit(move |tx| {
                    let mut server = db::server_get_in(tx, &id)?;
                    move_on(&mut server, task_state::SHELVING_IMAGE_UPLOADING);
                    db::server_update_in(tx, &mut server)
                }))
            }
            (_, Some(copy)) => {
                self.0.copy_upload(cx, &copy.snapshot, &copy.image_id).await?;
                Ok(self.shelved(cx, params, copy))
            }
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if !params.begins() {
            return Ok(Effect::none());
        }
        if let (Some(copy), "stop") = (&params.copy, step) {
            self.0.copy_image_remove(cx, &copy.image_id).await?;
        }
        let (compute, id, step) = (self.0.clone(), cx.resource_id.clone(), step.to_string());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            match step.as_str() {
                "upload" => server.doc.shelved = None,
                "copy" => compute.copy_drop_in(tx, &mut server),
                "stop" => {
                    server.want(if back_to(&params.vm_state) == vm::ACTIVE { Power::Running } else { Power::Stopped });
                    compute.tell_after_commit(tx, &server);
                }
                _ => {}
            }
            db::server_save_in(tx, &mut server)
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let params: Params = cx.param()?;
        if server.task_state.as_deref() != Some(task_state::DELETING) {
            server.task_state = None;
            server.vm_state = if params.begins() { back_to(&params.vm_state) } else { vm::SHELVED }.into();
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, "compute_shelve_instance", host, now, Some(error.message()))?;
        crate::notify::server_event_in(tx, "shelve.error", &server, &cx.context, Some(error.message()))
    }
}

/// The state after a shelving that failed: a guest whose memory is gone is off.
fn back_to(vm_state: &str) -> &'static str {
    if matches!(vm_state, vm::ACTIVE | vm::PAUSED) { vm::ACTIVE } else { vm::STOPPED }
}

fn move_on(server: &mut db::Server, task: &str) {
    if server.task_state.as_deref() != Some(task_state::DELETING) {
        server.task_state = Some(task.into());
    }
}

impl ServerShelve {
    async fn stop(&self, cx: &StepContext) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = self.0.server_host(&server)?;
        let generation = self.0.instance_send(&host_id, &server.id).await?;
        let status = cx.aside(self.0.host_settled(cx, &host_id, generation, 0, STOP)).await??;
        if status.state != InstanceState::Stopped {
            let why = status.error.unwrap_or_else(|| "the guest does not stop".into());
            return Err(Error::conflict(format!("The server could not be shelved: {why}")));
        }
        Ok(Effect::none())
    }

    fn shelved(&self, cx: &StepContext, params: Params, copy: Copy) -> Effect {
        let (compute, id, ctx, offload) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone(), params.offload);
        let effect = if offload { Effect::none() } else { Effect::finish_early() };
        effect.commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            compute.copy_drop_in(tx, &mut server);
            server.doc.shelved = Some(Shelved { image_id: Some(copy.image_id), at: Timestamp::now() });
            server.power_state = power::SHUTDOWN;
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.vm_state = vm::SHELVED.into();
                server.task_state = offload.then(|| task_state::SHELVING_OFFLOADING.to_string());
            }
            db::server_update_in(tx, &mut server)?;
            let (host, now) = (server.host.as_deref(), Timestamp::now());
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_shelve_instance", host, now, None)?;
            crate::notify::server_event_in(tx, "shelve.end", &server, &ctx, None)
        })
    }

    /// Gives up the server's place in one transaction. The host is told what to remove, now or when it returns: nobody waits
    /// for it, because with the image saved there is nothing to go back for.
    fn offload(&self, cx: &StepContext, params: Params) -> Effect {
        let (compute, id, ctx) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone());
        Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let started = Timestamp::now();
            let host = server.host.clone();
            if params.volumes {
                server.doc.shelved = Some(Shelved { image_id: None, at: started });
                crate::notify::server_event_in(tx, "shelve.end", &server, &ctx, None)?;
            }
            if let Some(host_id) = server.host_id.take() {
                compute.volumes_shelve_in(tx, &server)?;
                server.spec_generation += 1;
                tombstones::tombstone_put_in(tx, &host_id, &id, server.spec_generation)?;
                compute.host_tell_after_commit(tx, &host_id, &id);
            }
            compute.placement.release_in(tx, &id)?;
            compute.network.ports_unbind_in(tx, &id)?;
            (server.host, server.node) = (None, None);
            server.power_state = power::SHUTDOWN;
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.vm_state = vm::SHELVED_OFFLOADED.into();
                server.task_state = None;
            }
            db::server_update_in(tx, &mut server)?;
            let event = "compute_shelve_offload_instance";
            actions::action_event_in(tx, &id, &ctx.request_id, event, host.as_deref(), started, None)?;
            crate::notify::server_event_in(tx, "shelve_offload.end", &server, &ctx, None)
        })
    }
}
