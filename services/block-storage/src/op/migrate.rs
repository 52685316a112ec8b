//! A volume that nobody has, to the host that an administrator names.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Volumes;
use crate::bring::{BRING, Destination};
use crate::db::volumes as db;
use crate::notify::volume_event_in;
use crate::visits::STARTING;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub to: Destination,
}

pub struct VolumeMigrate(pub Volumes);

#[async_trait]
impl Operation for VolumeMigrate {
    fn kind(&self) -> &'static str {
        super::MIGRATE
    }
    fn steps(&self) -> &'static [&'static str] {
        &["bring"]
    }
    fn deadline(&self) -> Duration {
        BRING
    }
    fn retry(&self, _: &str) -> Retry {
        Retry::within(BRING)
    }

    async fn run(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        self.0.volume_bring(cx, &cx.resource_id, &params.to).await?;
        let (id, ctx) = (cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            unlock_in(tx, &id)?;
            let Some(volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            volume_event_in(tx, "migrate.end", &volume, &ctx, None)
        }))
    }

    async fn undo(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let (this, cx, params) = (self.0.clone(), cx.clone(), cx.param::<Params>()?);
        Ok(Effect::none().commit(move |tx| this.bring_over_in(tx, &cx, &cx.resource_id, &params.to.host_id)))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        unlock_in(tx, &cx.resource_id)?;
        let Some(mut volume) = db::volume_fetch_in(tx, &cx.resource_id)? else { return Ok(()) };
        if volume.migration_status.as_deref() == Some(STARTING) {
            volume.migration_status = Some("error".into());
            db::volume_update_in(tx, &mut volume)?;
        }
        volume_event_in(tx, "migrate.error", &volume, &cx.context, Some(error.message()))
    }
}

/// A volume that nobody was to have meanwhile is there again.
fn unlock_in(tx: &Tx, id: &str) -> Result<()> {
    let Some(mut volume) = db::volume_fetch_in(tx, id)?.filter(|v| v.status == "maintenance") else { return Ok(()) };
    volume.status = "available".into();
    db::volume_update_in(tx, &mut volume)
}
