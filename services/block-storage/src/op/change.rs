//! Seeing a change of a volume done: the wish is stored already, the host is told and its word awaited.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use rpc::volume::ImageContent;
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::db::{snapshots, volumes as db};
use crate::model::Volume;
use crate::notify::{snapshot_event_in, volume_event_in};
use crate::{Volumes, groups, messages};

const APPLY: Duration = Duration::from_secs(120);

/// What is changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Change {
    /// From this size, back to this status.
    Extend {
        from: i64,
        back: String,
    },
    SnapshotCreate {
        snapshot: String,
    },
    SnapshotDelete {
        snapshot: String,
    },
    Revert {
        snapshot: String,
    },
    /// From the volume's former type, and from what that said of several servers at once.
    Retype {
        multiattach: bool,
    },
    /// Then to this status.
    Reimage {
        back: String,
    },
}

pub struct VolumeChange(pub Volumes);

#[async_trait]
impl Operation for VolumeChange {
    fn kind(&self) -> &'static str {
        super::CHANGE
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
        let change: Change = cx.param()?;
        let Some(volume) = self.0.core.store.read(|tx| db::volume_fetch_in(tx, &cx.resource_id)).await? else {
            return Ok(Effect::finish_early());
        };
        if step == "image" {
            let Some(image) = volume.doc.revert.as_ref().and_then(|revert| revert.image.as_ref()) else { return Ok(Effect::none()) };
            let (sha256, format) = self.0.images.content_ready(cx, &image.sha256, &image.format).await?;
            let ready = ImageContent { sha256, format };
            if ready == *image {
                return Ok(Effect::none());
            }
            let id = cx.resource_id.clone();
            return Ok(Effect::none().commit(move |tx| {
                let mut volume = db::volume_get_in(tx, &id)?;
                if let Some(revert) = &mut volume.doc.revert {
                    revert.image = Some(ready);
                }
                // The host may have heard of this generation without the image.
                volume.spec_generation += 1;
                db::volume_update_in(tx, &mut volume)
            }));
        }
        // A volume that was never made has no host; what is deleted of it is deleted.
        if volume.host_id.is_some() {
            self.0.volume_settled(&volume.id, APPLY, || cx.cancelled()).await?;
        }
        let (this, id, ctx) = (self.0.clone(), cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            match &change {
                Change::Extend { back, .. } => {
                    leave(&mut volume, "extending", back);
                    db::volume_update_in(tx, &mut volume)?;
                    volume_event_in(tx, "resize.end", &volume, &ctx, None)
                }
                Change::SnapshotCreate { snapshot } => {
                    let Some(mut snapshot) = snapshots::snapshot_fetch_in(tx, snapshot)? else { return Ok(()) };
                    if snapshot.status == "creating" {
                        snapshot.status = "available".into();
                    }
                    snapshot.progress = "100%".into();
                    snapshots::snapshot_update_in(tx, &mut snapshot)?;
                    groups::snapshot_settled_in(tx, &snapshot)?;
                    snapshot_event_in(tx, "create.end", &snapshot, &ctx, None)
                }
                Change::SnapshotDelete { snapshot } => {
                    let Some(snapshot) = snapshots::snapshot_fetch_in(tx, snapshot)? else { return Ok(()) };
                    snapshots::snapshot_delete_in(tx, &snapshot.id)?;
                    this.settle_in(tx, &volume)?;
                    groups::snapshot_settled_in(tx, &snapshot)?;
                    snapshot_event_in(tx, "delete.end", &snapshot, &ctx, None)
                }
                Change::Retype { .. } => {
                    volume.doc.former_type = None;
                    leave(&mut volume, "retyping", "available");
                    db::volume_update_in(tx, &mut volume)
                }
                Change::Reimage { back } => {
                    leave(&mut volume, "downloading", back);
                    db::volume_update_in(tx, &mut volume)?;
                    volume_event_in(tx, "reimage.end", &volume, &ctx, None)
                }
                Change::Revert { snapshot } => {
                    leave(&mut volume, "reverting", "available");
                    db::volume_update_in(tx, &mut volume)?;
                    restored_in(tx, snapshot)
                }
            }
        }))
    }

    /// Takes the wish back, so that the host does not come to it later; it was there before the first step. An image that came stays cached.
    async fn undo(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let change: Change = cx.param()?;
        let (this, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            match &change {
                Change::Extend { from, .. } => volume.size = *from,
                Change::SnapshotCreate { snapshot } => snapshot_fail_in(tx, snapshot, "error")?,
                // What was to go may have gone; it is not wanted back.
                Change::SnapshotDelete { .. } => {}
                Change::Revert { .. } | Change::Reimage { .. } => volume.doc.revert = None,
                Change::Retype { multiattach } => {
                    if let Some(former) = volume.doc.former_type.take() {
                        (volume.type_id, volume.doc.type_name) = (former.id, former.name);
                    }
                    volume.multiattach = *multiattach;
                }
            }
            volume.spec_generation += 1;
            db::volume_update_in(tx, &mut volume)?;
            this.settle_in(tx, &volume)?;
            if let Some(host_id) = &volume.host_id {
                this.host_tell_after_commit(tx, host_id, &id);
            }
            Ok(())
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let change: Change = cx.param()?;
        let Some(mut volume) = db::volume_fetch_in(tx, &cx.resource_id)? else { return Ok(()) };
        let what = match &change {
            Change::Extend { .. } => {
                leave(&mut volume, "extending", "error_extending");
                messages::message_in(tx, &cx.context, &volume, None, messages::EXTEND, messages::NOT_EXTENDED)?;
                "resize.error"
            }
            Change::SnapshotCreate { snapshot } => {
                snapshot_fail_in(tx, snapshot, "error")?;
                messages::message_in(tx, &cx.context, &volume, Some(snapshot), messages::SNAPSHOT_CREATE, messages::UNKNOWN)?;
                "update"
            }
            Change::SnapshotDelete { snapshot } => {
                snapshot_fail_in(tx, snapshot, "error_deleting")?;
                messages::message_in(tx, &cx.context, &volume, Some(snapshot), messages::SNAPSHOT_DELETE, messages::UNKNOWN)?;
                "update"
            }
            Change::Retype { .. } => {
                leave(&mut volume, "retyping", "available");
                "retype.error"
            }
            Change::Reimage { .. } => {
                leave(&mut volume, "downloading", "error");
                messages::message_in(tx, &cx.context, &volume, None, messages::REIMAGE, messages::UNKNOWN)?;
                "reimage.error"
            }
            Change::Revert { snapshot } => {
                leave(&mut volume, "reverting", "error");
                restored_in(tx, snapshot)?;
                "revert.error"
            }
        };
        db::volume_update_in(tx, &mut volume)?;
        volume_event_in(tx, what, &volume, &cx.context, Some(error.message()))
    }
}

/// From the status of the work, unless somebody has set another by hand.
fn leave(volume: &mut Volume, from: &str, to: &str) {
    if volume.status == from {
        volume.status = to.into();
    }
}

fn snapshot_fail_in(tx: &Tx, id: &str, status: &str) -> Result<()> {
    let Some(mut snapshot) = snapshots::snapshot_fetch_in(tx, id)? else { return Ok(()) };
    snapshot.status = status.into();
    snapshots::snapshot_update_in(tx, &mut snapshot)?;
    groups::snapshot_settled_in(tx, &snapshot)
}

fn restored_in(tx: &Tx, id: &str) -> Result<()> {
    let Some(mut snapshot) = snapshots::snapshot_fetch_in(tx, id)? else { return Ok(()) };
    if snapshot.status == "restoring" {
        snapshot.status = "available".into();
    }
    snapshots::snapshot_update_in(tx, &mut snapshot)
}
