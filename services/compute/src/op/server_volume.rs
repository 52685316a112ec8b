//! Seeing a volume attached or detached: the wish is stored already, the host is told and its word awaited. A volume that is on
//! another host than its server is brought to it first.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use block_storage::bring::BRING;
use rpc::instance::InstanceState;
use serde::Deserialize;
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;
use crate::db::volumes::{self as rows, ServerVolume, State};
use crate::volumes::destination;

pub const ATTACH: &str = "compute.volume_attach";
pub const DETACH: &str = "compute.volume_detach";
/// A guest may take its time to let go.
const APPLY: Duration = Duration::from_secs(120);
/// How long a host may take to take back what could not be done.
const CLEAR: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
struct Params {
    row: String,
}

/// One value serves both kinds.
pub struct ServerVolumeChange {
    pub compute: Compute,
    pub attach: bool,
}

#[async_trait]
impl Operation for ServerVolumeChange {
    fn kind(&self) -> &'static str {
        if self.attach { ATTACH } else { DETACH }
    }
    fn steps(&self) -> &'static [&'static str] {
        if self.attach { &["bring", "apply"] } else { &["apply"] }
    }
    fn deadline(&self) -> Duration {
        BRING + APPLY
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "bring" { BRING } else { APPLY })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "bring" {
            return self.bring(cx, params).await;
        }
        let started = Timestamp::now();
        let (server, row) = self
            .compute
            .core
            .store
            .read(|tx| Ok((db::server_fetch_in(tx, &cx.resource_id, false)?, row_in(tx, &cx.resource_id, &params.row)?)))
            .await?;
        let (Some(server), Some(_)) = (server, row) else { return Ok(Effect::finish_early()) };
        if let Some(host_id) = &server.host_id {
            let generation = self.compute.instance_send(host_id, &server.id).await?;
            let status = self.compute.host_settled(cx, host_id, generation, 0, APPLY).await?;
            if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
                let why = status.error.unwrap_or_else(|| "the guest is not there".into());
                return Err(Error::new(Kind::Conflict, format!("The host could not carry it out: {why}")));
            }
        }
        let (compute, ctx, id, attach) = (self.compute.clone(), cx.context.clone(), cx.resource_id.clone(), self.attach);
        Ok(Effect::none().commit(move |tx| {
            let (Some(server), Some(mut row)) = (db::server_fetch_in(tx, &id, false)?, row_in(tx, &id, &params.row)?) else {
                return Ok(());
            };
            let (attachment, host) = (row.attachment_id.clone().unwrap_or_default(), server.host.clone().unwrap_or_default());
            let (event, what) = if attach {
                row.state = State::Attached;
                rows::volume_put_in(tx, &row)?;
                compute.volumes.server_attached_in(tx, &ctx, &attachment, &host)?;
                ("compute_attach_volume", "volume_attach.end")
            } else {
                rows::volume_remove_in(tx, &row.id)?;
                compute.volumes.server_detached_in(tx, &ctx, &attachment)?;
                ("compute_detach_volume", "volume_detach.end")
            };
            actions::action_event_in(tx, &id, &ctx.request_id, event, server.host.as_deref(), started, None)?;
            crate::notify::server_event_in(tx, what, &server, &ctx, None)
        }))
    }

    /// Attaching is taken back; detaching becomes attached again.
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "bring" {
            return Ok(self.unbring(cx, params));
        }
        let (compute, id, row_id, attach) = (self.compute.clone(), cx.resource_id.clone(), params.row.clone(), self.attach);
        let told = compute
            .core
            .store
            .write(move |tx| {
                let (Some(mut server), Some(mut row)) = (db::server_fetch_in(tx, &id, false)?, row_in(tx, &id, &row_id)?) else {
                    return Ok(None);
                };
                row.state = if attach { State::Detaching } else { State::Attached };
                rows::volume_put_in(tx, &row)?;
                server.spec_generation += 1;
                db::server_update_in(tx, &mut server)?;
                Ok(server.host_id)
            })
            .await?;
        // The volume is free only when the guest has surely let go of it. When that cannot be heard now, the newest document
        // says so to the host all the same, and the host never lets two guests have it.
        if let Some(host_id) = told {
            let settle = async {
                let generation = compute.instance_send(&host_id, &cx.resource_id).await?;
                compute.host_settled(cx, &host_id, generation, 0, CLEAR).await
            };
            if let Err(error) = settle.await {
                tracing::warn!(server = cx.resource_id, "a volume is taken back later: {}", error.chain());
            }
        }
        let (compute, ctx, id) = (self.compute.clone(), cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(row) = row_in(tx, &id, &params.row)? else { return Ok(()) };
            if attach {
                rows::volume_remove_in(tx, &row.id)?;
                return compute.volumes.server_detached_in(tx, &ctx, row.attachment_id.as_deref().unwrap_or_default());
            }
            compute.volumes.server_detach_failed_in(tx, row.volume_id.as_deref().unwrap_or_default())
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let (event, what) =
            if self.attach { ("compute_attach_volume", "volume_attach.error") } else { ("compute_detach_volume", "volume_detach.error") };
        let now = Timestamp::now();
        actions::action_event_in(tx, &server.id, &cx.context.request_id, event, server.host.as_deref(), now, Some(error.message()))?;
        crate::notify::server_event_in(tx, what, &server, &cx.context, Some(error.message()))
    }
}

impl ServerVolumeChange {
    /// The volume to the server's host, if it is elsewhere. Only then the guest hears of it.
    async fn bring(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let found = self
            .compute
            .core
            .store
            .read(|tx| Ok((db::server_fetch_in(tx, &cx.resource_id, false)?, row_in(tx, &cx.resource_id, &params.row)?)))
            .await?;
        let (Some(server), Some(row)) = found else { return Ok(Effect::finish_early()) };
        if let (State::Coming, Some(volume), Some(to)) = (row.state, &row.volume_id, destination(&server)) {
            self.compute.volumes.volume_bring(cx, volume, &to).await?;
        }
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            let Some(mut row) = row_in(tx, &id, &params.row)?.filter(|row| row.state == State::Coming) else { return Ok(()) };
            let mut server = db::server_get_in(tx, &id)?;
            row.state = State::Planned;
            rows::volume_put_in(tx, &row)?;
            server.spec_generation += 1;
            db::server_save_in(tx, &mut server)
        }))
    }

    /// Nothing is attached. A volume that has been brought here may stay.
    fn unbring(&self, cx: &StepContext, params: Params) -> Effect {
        let (compute, cx) = (self.compute.clone(), cx.clone());
        Effect::none().commit(move |tx| {
            let Some(row) = row_in(tx, &cx.resource_id, &params.row)? else { return Ok(()) };
            let to = db::server_fetch_in(tx, &cx.resource_id, false)?.and_then(|server| server.host_id);
            if let (Some(volume), Some(to)) = (&row.volume_id, to) {
                compute.volumes.bring_over_in(tx, &cx, volume, &to)?;
            }
            rows::volume_remove_in(tx, &row.id)?;
            compute.volumes.server_detached_in(tx, &cx.context, row.attachment_id.as_deref().unwrap_or_default())
        })
    }
}

fn row_in(tx: &Tx, server_id: &str, id: &str) -> Result<Option<ServerVolume>> {
    Ok(rows::volumes_of_in(tx, server_id)?.into_iter().find(|v| v.id == id))
}
