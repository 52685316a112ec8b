//! Rules of snapshots.

use std::time::{Duration, Instant};

use base::{Context, Error, Result, Timestamp};
use store::Tx;

use crate::db::snapshots as db;
use crate::model::{Metadata, Snapshot, SnapshotDoc};
use crate::notify::snapshot_event_in;
use crate::op::Change;
use crate::volumes::{changeable_in, invalid};
use crate::{Volumes, groups, messages, quotas};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct SnapshotWish {
    pub volume_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
    /// Also of a volume that is in use.
    pub force: bool,
    /// It is taken together with others.
    pub group_snapshot_id: Option<String>,
}

pub fn invalid_snapshot(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid snapshot: {why}"))
}

impl Volumes {
    pub async fn snapshot_for(&self, ctx: &Context, id: &str, rule: &str) -> Result<Snapshot> {
        let snapshot = self.core.store.read(|tx| self.snapshot_visible_in(tx, ctx, id)).await?;
        self.authorize(rule, ctx, &snapshot)?;
        Ok(snapshot)
    }

    pub async fn snapshot_change<T: Send + 'static>(
        &self,
        ctx: &Context,
        id: &str,
        rule: &'static str,
        change: impl FnOnce(&Volumes, &Tx, &Context, &mut Snapshot) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, ctx, id) = (self.clone(), ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let mut snapshot = this.snapshot_visible_in(tx, &ctx, &id)?;
                this.authorize(rule, &ctx, &snapshot)?;
                change(&this, tx, &ctx, &mut snapshot)
            })
            .await
    }

    pub async fn snapshot_create(&self, ctx: &Context, wish: SnapshotWish) -> Result<Snapshot> {
        let (this, ctx) = (self.clone(), ctx.clone());
        self.core.store.write(move |tx| this.snapshot_create_in(tx, &ctx, &wish)).await
    }

    pub fn snapshot_create_in(&self, tx: &Tx, ctx: &Context, wish: &SnapshotWish) -> Result<Snapshot> {
        let mut volume = self.volume_visible_in(tx, ctx, &wish.volume_id)?;
        self.authorize("volume:create_snapshot", ctx, &volume)?;
        changeable_in(tx, &volume)?;
        let fits = volume.status == "available" || (wish.force && volume.status == "in-use");
        if !fits {
            return Err(invalid(format!("Volume {} status must be available, but current status is: {}.", volume.id, volume.status)));
        }
        let name = volume.doc.type_name.clone();
        quotas::reserve_in(tx, &volume.project_id, name.as_deref(), &[("snapshots", 1), ("gigabytes", volume.size)])?;
        let now = Timestamp::now();
        let mut snapshot = Snapshot {
            id: base::id::uuid(),
            generation: 1,
            volume_id: volume.id.clone(),
            project_id: volume.project_id.clone(),
            user_id: ctx.user_id.clone(),
            name: wish.name.clone(),
            description: wish.description.clone(),
            status: "creating".into(),
            size: volume.size,
            progress: "0%".into(),
            group_snapshot_id: wish.group_snapshot_id.clone(),
            created_at: now,
            updated_at: now,
            doc: SnapshotDoc {
                metadata: wish.metadata.clone(),
                image_metadata: volume.doc.image_metadata.clone(),
                bootable: volume.bootable,
                type_id: volume.type_id.clone(),
            },
        };
        db::snapshot_insert_in(tx, &snapshot)?;
        snapshot_event_in(tx, "create.start", &snapshot, ctx, None)?;
        if let Err(error) = self.promise_in(tx, &volume) {
            // As upstream, whose scheduler finds that out after the answer.
            if !error.is(base::Kind::NoCapacity) {
                return Err(error);
            }
            snapshot.status = "error".into();
            db::snapshot_update_in(tx, &mut snapshot)?;
            messages::message_in(tx, ctx, &volume, Some(&snapshot.id), messages::SNAPSHOT_CREATE, messages::NO_BACKEND)?;
            groups::snapshot_settled_in(tx, &snapshot)?;
            snapshot_event_in(tx, "create.error", &snapshot, ctx, Some(error.message()))?;
            return Ok(snapshot);
        }
        self.change_submit_in(tx, ctx, &mut volume, &Change::SnapshotCreate { snapshot: snapshot.id.clone() })?;
        Ok(snapshot)
    }

    pub async fn snapshot_delete(&self, ctx: &Context, id: &str, force: bool) -> Result<()> {
        let rule = if force { "volume_extension:snapshot_admin_actions:force_delete" } else { "volume:delete_snapshot" };
        self.snapshot_change(ctx, id, rule, move |this, tx, ctx, snapshot| {
            if !force && !matches!(snapshot.status.as_str(), "available" | "error" | "error_deleting") {
                return Err(invalid_snapshot("Volume Snapshot status must be available or error."));
            }
            if let Some(group) = snapshot.group_snapshot_id.as_ref().filter(|_| !force) {
                return Err(invalid_snapshot(format!("Snapshot {} belongs to group snapshot {group}.", snapshot.id)));
            }
            let mut volume = crate::db::volumes::volume_get_in(tx, &snapshot.volume_id)?;
            changeable_in(tx, &volume)?;
            snapshot.status = "deleting".into();
            db::snapshot_update_in(tx, snapshot)?;
            snapshot_event_in(tx, "delete.start", snapshot, ctx, None)?;
            this.change_submit_in(tx, ctx, &mut volume, &Change::SnapshotDelete { snapshot: snapshot.id.clone() })
        })
        .await
    }

    /// Stores a snapshot whose status somebody has set by hand: what it takes follows.
    pub(crate) fn snapshot_restated_in(&self, tx: &Tx, snapshot: &mut Snapshot) -> Result<()> {
        db::snapshot_update_in(tx, snapshot)?;
        self.settle_in(tx, &crate::db::volumes::volume_get_in(tx, &snapshot.volume_id)?)
    }

    /// A snapshot as servers need them of their volumes: also while they are in use.
    pub fn server_snapshot_in(&self, tx: &Tx, ctx: &Context, volume_id: &str, name: Option<String>) -> Result<Snapshot> {
        self.snapshot_create_in(tx, ctx, &SnapshotWish { volume_id: volume_id.into(), name, force: true, ..SnapshotWish::default() })
    }

    /// Waits until a new snapshot is there, or has failed.
    pub async fn snapshot_made(&self, id: &str, limit: Duration, stop: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.core.store.read(|tx| db::snapshot_fetch_in(tx, id)).await?.map(|s| s.status).as_deref() {
                Some("creating") => {}
                Some("available") => return Ok(()),
                _ => return Err(Error::conflict(format!("Snapshot {id} could not be taken."))),
            }
            if stop() {
                return Err(Error::conflict("The operation was cancelled."));
            }
            if Instant::now() > end {
                return Err(Error::timeout(format!("Snapshot {id} was not taken in time.")));
            }
            tokio::time::sleep(crate::handle::LOOK).await;
        }
    }

    /// Begins the end of a snapshot that a server needs no more.
    pub fn server_snapshot_drop_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<()> {
        let Some(mut snapshot) = db::snapshot_fetch_in(tx, id)?.filter(|s| s.status != "deleting") else { return Ok(()) };
        let mut volume = crate::db::volumes::volume_get_in(tx, &snapshot.volume_id)?;
        snapshot.status = "deleting".into();
        db::snapshot_update_in(tx, &mut snapshot)?;
        snapshot_event_in(tx, "delete.start", &snapshot, ctx, None)?;
        self.change_submit_in(tx, ctx, &mut volume, &Change::SnapshotDelete { snapshot: snapshot.id })
    }
}
