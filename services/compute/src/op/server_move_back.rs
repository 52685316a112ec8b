//! Back to the host a server came from: it is switched off where it is, and only then starts where it was.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use block_storage::bring::{BRING, Destination};
use rpc::instance::{InstanceState, Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::servers::{self as db, Source};
use crate::db::{actions, migrations, tombstones};
use crate::scheduler;
use crate::states::{task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_move_back";
const APPLY: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub migration: String,
    /// What the guest did where it is.
    pub wanted: Power,
}

pub struct ServerMoveBack(pub Compute);

#[async_trait]
impl Operation for ServerMoveBack {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["stop", "bring", "return", "start"]
    }
    fn deadline(&self) -> Duration {
        BRING + 3 * APPLY
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "bring" { BRING } else { APPLY })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "stop" => self.stop(cx).await,
            "bring" => self.bring(cx).await,
            "return" => Ok(self.back(cx, params)),
            _ => self.start(cx, params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let (compute, id, params) = (self.0.clone(), cx.resource_id.clone(), cx.param::<Params>()?);
        match step {
            "stop" => {}
            "bring" => return self.unbring(cx).await,
            // It is back, whether it runs or not.
            _ => return Ok(Effect::none()),
        }
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)?.filter(|s| s.doc.resize.is_some()) else { return Ok(()) };
            server.want(params.wanted);
            db::server_save_in(tx, &mut server)?;
            compute.tell_after_commit(tx, &server);
            Ok(())
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        let returned = server.doc.resize.is_none();
        migrations::migration_status_in(tx, &params.migration, if returned { "error" } else { "finished" })?;
        if !deleting {
            server.task_state = None;
            if returned {
                server.vm_state = vm::ERROR.into();
                server.doc.held_failed = true;
            }
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        let request = &cx.context.request_id;
        actions::action_event_in(tx, &server.id, request, "compute_finish_revert_resize", host, now, Some(error.message()))?;
        let (name, _) = crate::vim::ended_in(tx, &params.migration, true)?;
        if deleting {
            return self.0.vim_log_in(tx, &server, name, Stage::Cancelled, None);
        }
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, name, Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "resize.revert.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerMoveBack {
    async fn stop(&self, cx: &StepContext) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = self.0.server_host(&server)?;
        let generation = self.0.instance_send(&host_id, &server.id).await?;
        let status = self.0.host_settled(cx, &host_id, generation, 0, APPLY).await?;
        if !matches!(status.state, InstanceState::Stopped | InstanceState::Failed) {
            let why = status.error.unwrap_or_else(|| "the guest does not stop".into());
            return Err(Error::conflict(format!("The server could not be switched off: {why}")));
        }
        Ok(Effect::none())
    }

    /// Its volumes go before it, with what was written to them where it is.
    async fn bring(&self, cx: &StepContext) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        if let Some(source) = server.doc.resize.and_then(|before| before.source) {
            self.0.volumes_bring(cx, &Destination { host_id: source.host_id, host: source.host }).await?;
        }
        Ok(Effect::none())
    }

    async fn unbring(&self, cx: &StepContext) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_fetch_in(tx, &cx.resource_id, false)).await?;
        if let Some((server, source)) = server.and_then(|s| Some((s.clone(), s.doc.resize?.source?))) {
            let here =
                Source { host_id: self.0.server_host(&server)?, host: server.host.unwrap_or_default(), zone: server.availability_zone };
            self.0.volumes_return(cx, &source.host_id, &here).await?;
        }
        Ok(Effect::none())
    }

    fn back(&self, cx: &StepContext, params: Params) -> Effect {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let (Some(before), Some(left)) = (server.doc.resize.clone(), server.host_id.clone()) else { return Ok(()) };
            compute.move_home_in(tx, &mut server)?;
            let home = compute.server_host(&server)?;
            let resources = scheduler::resources(&server)?;
            compute.claim_back_in(tx, &params.migration, &server, &home, &resources)?;
            server.doc.restart = Restart::Hard;
            server.boot += 1;
            server.want(if before.vm_state == vm::STOPPED { Power::Stopped } else { Power::Running });
            tombstones::tombstone_put_in(tx, &left, &id, server.spec_generation)?;
            compute.host_tell_after_commit(tx, &left, &id);
            db::server_update_in(tx, &mut server)
        })
    }

    async fn start(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, server.boot, APPLY).await?;
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
            db::server_update_in(tx, &mut server)?;
            migrations::migration_status_in(tx, &params.migration, "reverted")?;
            compute.status_again_after_commit(tx, &id);
            let host = server.host.as_deref();
            for event in ["compute_revert_resize", "compute_finish_revert_resize"] {
                actions::action_event_in(tx, &id, &ctx.request_id, event, host, started, None)?;
            }
            compute.vim_enabled_in(tx, &server)?;
            let (name, event) = crate::vim::ended_in(tx, &params.migration, true)?;
            compute.guest_tell_after_commit(tx, &server, event);
            compute.vim_log_in(tx, &server, name, Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "resize.revert.end", &server, &ctx, None)
        }))
    }
}
