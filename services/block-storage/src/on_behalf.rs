//! Lists for the caller of another service, newest first: compute's requests from before 2.36 are answered with these.

use base::{Context, Result};
use store::{Dir, Select};

use crate::Volumes;
use crate::db::{attachments, snapshots, volumes as db};
use crate::model::{Attachment, Snapshot, Volume};

/// How many rows are read for a part of a list.
fn end(offset: usize, limit: usize) -> u64 {
    u64::try_from(offset.saturating_add(limit)).unwrap_or(u64::MAX).min(i64::MAX as u64)
}

impl Volumes {
    /// Some of the caller's volumes, each with who has it.
    pub async fn volumes_list(&self, ctx: &Context, offset: usize, limit: usize) -> Result<Vec<(Volume, Vec<Attachment>)>> {
        self.authorize("volume:get_all", ctx, &[("project_id", ctx.project_id())])?;
        let read = |tx: &store::Tx| {
            let select = Select::new(format!("SELECT {} FROM volume v", db::COLUMNS)).eq("v.project_id", ctx.project_id());
            let newest = [("v.created_at", Dir::Desc), ("v.id", Dir::Desc)];
            let rows: Vec<Volume> = select.order(&newest).limit(end(offset, limit)).fetch(tx, db::read)?;
            let mut of = attachments::attachments_of_all_in(tx, &rows)?;
            Ok(rows.into_iter().skip(offset).map(|v| (of.remove(&v.id).unwrap_or_default(), v)).map(|(a, v)| (v, a)).collect())
        };
        self.core.store.read(read).await
    }

    /// A volume of the caller's, with who has it.
    pub async fn volume_with(&self, ctx: &Context, id: &str) -> Result<(Volume, Vec<Attachment>)> {
        let volume = self.volume_for(ctx, id, "volume:get").await?;
        let attached = self.core.store.read(|tx| attachments::attachments_of_in(tx, id)).await?;
        Ok((volume, attached))
    }

    /// Some of the caller's snapshots.
    pub async fn snapshots_list(&self, ctx: &Context, offset: usize, limit: usize) -> Result<Vec<Snapshot>> {
        self.authorize("volume:get_all_snapshots", ctx, &[("project_id", ctx.project_id())])?;
        let read = |tx: &store::Tx| {
            let select = Select::new(format!("SELECT {} FROM volume_snapshot s", snapshots::COLUMNS)).eq("s.project_id", ctx.project_id());
            let newest = [("s.created_at", Dir::Desc), ("s.id", Dir::Desc)];
            let rows = select.order(&newest).limit(end(offset, limit)).fetch(tx, snapshots::read)?;
            Ok(rows.into_iter().skip(offset).collect())
        };
        self.core.store.read(read).await
    }
}
