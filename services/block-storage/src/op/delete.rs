//! Deleting a volume, and with `cascade` its snapshots. It only goes forward: a host that cannot be reached is told when it
//! returns.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use store::Tx;
use task::{Effect, Operation, StepContext};

use crate::db::volumes as db;
use crate::notify::volume_event_in;
use crate::{Volumes, groups};

/// How long a host may take before the volume is gone for its users anyway.
const REMOVE: Duration = Duration::from_secs(60);

pub struct VolumeDelete(pub Volumes);

#[async_trait]
impl Operation for VolumeDelete {
    fn kind(&self) -> &'static str {
        super::DELETE
    }
    fn steps(&self) -> &'static [&'static str] {
        &["mark", "remove"]
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let id = cx.resource_id.clone();
        if step == "mark" {
            let this = self.0.clone();
            return Ok(Effect::none().commit(move |tx| {
                let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
                volume.spec_generation += 1;
                this.inherit_in(tx, &mut volume)?;
                if let Some(host_id) = &volume.host_id {
                    db::tombstone_erase_in(tx, host_id, &volume, volume.spec_generation)?;
                }
                db::volume_update_in(tx, &mut volume)
            }));
        }
        let Some(volume) = self.0.core.store.read(|tx| db::volume_fetch_in(tx, &id)).await? else { return Ok(Effect::none()) };
        let gone = match &volume.host_id {
            Some(host_id) => self.0.volume_removed(host_id, &id, volume.spec_generation, REMOVE).await?,
            None => false,
        };
        let (volumes, ctx) = (self.0.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            if let Some(host_id) = volume.host_id.as_ref().filter(|_| gone) {
                db::tombstone_drop_in(tx, host_id, &id, volume.spec_generation)?;
            }
            db::volume_delete_in(tx, &id)?;
            volumes.placement.release_in(tx, &id)?;
            groups::volume_gone_in(tx, &volume)?;
            volume_event_in(tx, "delete.end", &volume, &ctx, None)?;
            tx.after_commit(move || volumes.statuses.forget(&id));
            Ok(())
        }))
    }

    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, &cx.resource_id)? else { return Ok(()) };
        volume.status = "error_deleting".into();
        db::volume_update_in(tx, &mut volume)?;
        groups::volume_stays_in(tx, &volume)?;
        volume_event_in(tx, "delete.error", &volume, &cx.context, Some(error.message()))
    }
}
