//! Seeing a power action done: the wish is stored already, the host is told and its word awaited.

use std::time::Duration;

use ::guest::message::Event;
use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use rpc::instance::{InstanceState, Power};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::servers as db;
use crate::db::{actions, migrations};
use crate::servers::{Former, PowerAction};
use crate::states::{task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_power";
/// A guest may take its time to shut down, and a host to return.
const APPLY: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub action: PowerAction,
    /// Of the document that carries the wish.
    pub generation: u64,
    /// The resize that is reverted by it.
    #[serde(default)]
    pub migration: Option<String>,
    /// What the server goes back to should its new image not be what was signed.
    #[serde(default)]
    pub former: Option<Box<Former>>,
}

pub struct ServerPower(pub Compute);

#[async_trait]
impl Operation for ServerPower {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["image", "apply"]
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "image" { super::IMAGE } else { APPLY })
    }
    fn pure(&self, step: &str) -> bool {
        step == "image"
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "image" {
            // What a server has been started from is with its host.
            return match params.action {
                PowerAction::Rebuild | PowerAction::Rescue => self.0.images_bring(cx, Some(super::PERHAPS)).await,
                _ => Ok(Effect::none()),
            };
        }
        let compute = self.0.clone();
        let started = Timestamp::now();
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let Some(host_id) = server.host_id.clone() else {
            return Err(Error::conflict(format!("Instance {} is not ready", server.id)));
        };
        compute.instance_send(&host_id, &server.id).await?;
        // Later wishes may have been stored by now; the host's newest word decides what the server is.
        let settled = compute.host_settled(cx, &host_id, params.generation.max(server.spec_generation), server.boot, APPLY);
        // How long it takes to shut down is for the guest to say.
        let shuts_down = matches!(params.action, PowerAction::Stop | PowerAction::RebootSoft);
        let status = if shuts_down { cx.aside(settled).await? } else { settled.await }?;
        let refused = params.action == PowerAction::Suspend && status.state != InstanceState::Suspended;
        let seen = server.state_seen(status.state).filter(|_| status.state != InstanceState::Failed && !refused);
        let Some(state) = seen else {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            return Err(Error::new(Kind::Conflict, format!("Host {} could not carry it out: {why}", server.host.unwrap_or_default())));
        };
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(state);
            server.task_state = deleting;
            server.doc.held_failed = false;
            if params.action == PowerAction::Rebuild || (state == vm::ACTIVE && server.launched_at.is_none()) {
                server.launched_at = Some(Timestamp::now());
            }
            db::server_update_in(tx, &mut server)?;
            compute.status_again_after_commit(tx, &id);
            if let Some(migration) = &params.migration {
                migrations::migration_status_in(tx, migration, "reverted")?;
            }
            actions::action_event_in(tx, &id, &ctx.request_id, params.action.step(), server.host.as_deref(), started, None)?;
            compute.vim_enabled_in(tx, &server)?;
            match params.action {
                PowerAction::Unpause => compute.guest_tell_after_commit(tx, &server, Event::Unpause),
                PowerAction::Resume => compute.guest_tell_after_commit(tx, &server, Event::Resume),
                PowerAction::RevertResize => compute.guest_tell_after_commit(tx, &server, Event::ResizeEnd),
                _ => {}
            }
            compute.vim_log_in(tx, &server, params.action.log_name(), Stage::Completed, None)?;
            crate::notify::server_event_in(tx, &format!("{}.end", params.action.event()), &server, &ctx, None)
        }))
    }

    /// The wish stays: whatever comes next replaces it. A wish that no host may hear of is taken back as the operation ends.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let params: Params = cx.param()?;
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        if !deleting {
            server.task_state = None;
            if let Some(former) = params.former.filter(|_| server.is_doubtful()) {
                // No host has heard of the new image: the guest is as it was.
                former.put_back(&mut server);
                self.0.tell_after_commit(tx, &server);
            } else if error.is(Kind::Conflict) && matches!(params.action.outcome(), vm::ACTIVE | vm::RESCUED) {
                // A guest that could not be got running is not what its state says.
                server.vm_state = vm::ERROR.into();
                server.doc.held_failed = true;
            }
            if params.action == PowerAction::Suspend && server.wanted == Power::Suspended {
                // It goes on, and must not be suspended when nobody expects it any more.
                server.want(Power::Running);
                self.0.tell_after_commit(tx, &server);
            }
        }
        db::server_update_in(tx, &mut server)?;
        if let Some(migration) = &params.migration {
            migrations::migration_status_in(tx, migration, "error")?;
        }
        let (step, started) = (params.action.step(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, step, server.host.as_deref(), started, Some(error.message()))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, params.action.log_name(), Stage::Cancelled, None);
        }
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, params.action.log_name(), Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, &format!("{}.error", params.action.event()), &server, &cx.context, Some(error.message()))
    }
}
