//! A rebuild of a server that boots from a volume: the guest is switched off, its volume becomes the image, the guest starts.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use rpc::instance::{InstanceState, Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;
use crate::servers::PowerAction;
use crate::states::{task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_reimage";
/// A guest may take its time to shut down.
const STOP: Duration = Duration::from_secs(300);
/// The image may have to be fetched first.
const REIMAGE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub volume_id: String,
    pub image_id: String,
    /// The guest ran, or was to.
    pub runs: bool,
}

pub struct ServerReimage(pub Compute);

#[async_trait]
impl Operation for ServerReimage {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["stop", "reimage", "start"]
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "reimage" { REIMAGE } else { STOP })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "stop" => self.stop(cx, params).await,
            "reimage" => {
                self.0.volumes.volume_made(&params.volume_id, REIMAGE, || cx.cancelled()).await?;
                let id = cx.resource_id.clone();
                Ok(Effect::none().commit(move |tx| {
                    let mut server = db::server_get_in(tx, &id)?;
                    server.doc.restart = Restart::Hard;
                    server.boot += 1;
                    server.want(if params.runs { Power::Running } else { Power::Stopped });
                    db::server_update_in(tx, &mut server)
                }))
            }
            _ => self.start(cx).await,
        }
    }

    /// The guest is wanted as it was, on the old volume or the new one.
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step != "stop" {
            return Ok(Effect::none());
        }
        // The volume's own operation goes on by itself; a guest that started in its middle would be in its way.
        if let Err(error) = self.0.volumes.volume_made(&params.volume_id, REIMAGE, || false).await {
            tracing::warn!(server = cx.resource_id, "the volume of a rebuild: {}", error.chain());
        }
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            if server.wanted != Power::Absent {
                server.want(if params.runs { Power::Running } else { Power::Stopped });
                compute.tell_after_commit(tx, &server);
            }
            db::server_save_in(tx, &mut server)
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let action = PowerAction::Rebuild;
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        if !deleting {
            server.task_state = None;
            server.vm_state = vm::ERROR.into();
        }
        db::server_update_in(tx, &mut server)?;
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, action.step(), host, now, Some(error.message()))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, action.log_name(), Stage::Cancelled, None);
        }
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, action.log_name(), Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "rebuild.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerReimage {
    /// With the guest off, the change of its volume is begun in the transaction that says so.
    async fn stop(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let compute = self.0.clone();
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, 0, STOP).await?;
        if !matches!(status.state, InstanceState::Stopped | InstanceState::Failed) {
            let why = status.error.unwrap_or_else(|| "the guest does not stop".into());
            return Err(Error::conflict(format!("The server could not be rebuilt: {why}")));
        }
        let image = compute.volumes.volume_image(&cx.context, Some(&params.image_id)).await?;
        let image = image.ok_or_else(|| Error::conflict("The image is not there any more."))?;
        let ctx = cx.context.clone();
        Ok(Effect::none().commit(move |tx| compute.volumes.server_reimage_in(tx, &ctx, &params.volume_id, &image)))
    }

    async fn start(&self, cx: &StepContext) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, server.boot, STOP).await?;
        let seen = server.state_seen(status.state).filter(|_| status.state != InstanceState::Failed);
        let Some(state) = seen else {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            return Err(Error::conflict(format!("Host {} could not start it: {why}", server.host.unwrap_or_default())));
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
            compute.status_again_after_commit(tx, &id);
            let action = PowerAction::Rebuild;
            actions::action_event_in(tx, &id, &ctx.request_id, action.step(), server.host.as_deref(), started, None)?;
            compute.vim_enabled_in(tx, &server)?;
            compute.vim_log_in(tx, &server, action.log_name(), Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "rebuild.end", &server, &ctx, None)
        }))
    }
}
