//! An image of a server's root disk: `createImage` and `createBackup`.

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use super::copy::{COPY, UPLOAD};
use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;
use crate::states::task as task_state;

pub const KIND: &str = "compute.server_copy";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub image_id: String,
    pub snapshot: String,
    /// Kind of a backup, and how many of them are kept.
    pub backup: Option<(String, u32)>,
    /// It boots from a volume: nothing is copied, the image names the snapshots.
    #[serde(default)]
    pub volumes: bool,
    #[serde(default)]
    pub snapshots: Vec<String>,
}

impl Params {
    fn step(&self) -> &'static str {
        if self.backup.is_some() { "compute_backup_instance" } else { "compute_snapshot_instance" }
    }
}

pub struct ServerCopy(pub Compute);

#[async_trait]
impl Operation for ServerCopy {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["copy", "upload"]
    }
    fn deadline(&self) -> std::time::Duration {
        COPY + UPLOAD
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "copy" { COPY } else { UPLOAD })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let (compute, id, ctx) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone());
        if step == "copy" {
            if !params.volumes {
                compute.copy_make(cx, &params.snapshot).await?;
            }
            for snapshot in &params.snapshots {
                compute.volumes.snapshot_made(snapshot, COPY, || cx.cancelled()).await?;
            }
            return Ok(Effect::none().commit(move |tx| {
                let mut server = db::server_get_in(tx, &id)?;
                if server.task_state.as_deref() != Some(task_state::DELETING) {
                    server.task_state = Some(task_state::IMAGE_UPLOADING.into());
                    server.progress = 50;
                }
                db::server_update_in(tx, &mut server)
            }));
        }
        let started = Timestamp::now();
        if params.volumes {
            compute.image_fill(cx, &params.image_id, futures_util::stream::empty()).await?;
        } else {
            compute.copy_upload(cx, &params.snapshot, &params.image_id).await?;
        }
        if let Some((kind, keep)) = &params.backup {
            compute.images.backups_rotate(&ctx, &id, kind, *keep as usize).await?;
        }
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            compute.copy_drop_in(tx, &mut server);
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.task_state = None;
                server.progress = 100;
            }
            db::server_update_in(tx, &mut server)?;
            compute.status_again_after_commit(tx, &id);
            actions::action_event_in(tx, &id, &ctx.request_id, params.step(), server.host.as_deref(), started, None)?;
            crate::notify::server_event_in(tx, "snapshot.end", &server, &ctx, None)
        }))
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        if step != "copy" {
            return Ok(Effect::none());
        }
        let params: Params = cx.param()?;
        self.0.copy_image_remove(cx, &params.image_id).await?;
        let (compute, id, ctx) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            for snapshot in &params.snapshots {
                compute.volumes.server_snapshot_drop_in(tx, &ctx, snapshot)?;
            }
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            compute.copy_drop_in(tx, &mut server);
            db::server_save_in(tx, &mut server)
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let params: Params = cx.param()?;
        if server.task_state.as_deref() != Some(task_state::DELETING) {
            server.task_state = None;
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, params.step(), host, now, Some(error.message()))?;
        crate::notify::server_event_in(tx, "snapshot.error", &server, &cx.context, Some(error.message()))
    }
}
