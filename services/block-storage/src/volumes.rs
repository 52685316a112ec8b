//! Rules of volumes: what may be done with one, in which state, and what happens then.

use base::{Context, Error, Result};
use store::Tx;

use crate::bring::still;
use crate::create::ImagePart;
use crate::db::{attachments, hosts, snapshots, volumes as db};
use crate::groups::ungrouped;
use crate::model::{FormerType, Volume};
use crate::notify::{snapshot_event_in, volume_event_in};
use crate::op::Change;
use crate::{Volumes, capabilities, messages, op, quotas};

/// States a volume may be deleted in.
const DELETABLE: &[&str] = &["available", "error", "error_restoring", "error_extending", "error_managing", "error_deleting"];

/// 400 of a volume in the wrong state.
pub fn invalid(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid volume: {why}"))
}

/// Refuses changes of what a frozen host keeps, and of what is on its way to another host.
pub fn changeable_in(tx: &Tx, volume: &Volume) -> Result<()> {
    still(volume)?;
    let frozen = volume.host_id.as_deref().map(|id| hosts::host_frozen_in(tx, id)).transpose()?.flatten();
    frozen.map_or(Ok(()), |host| {
        Err(Error::invalid(format!("Invalid input received: Host {host} is frozen, what it keeps cannot be changed.")))
    })
}

/// A number for a return of the volume to what it was, never used twice: also after a failure took the wish back.
fn revert_serial(volume: &Volume) -> u64 {
    let next = volume.doc.revert.as_ref().map_or(0, |r| r.serial) + 1;
    next.max(volume.spec_generation + 1)
}

impl Volumes {
    /// The volume, if the caller may use `rule` on it.
    pub async fn volume_for(&self, ctx: &Context, id: &str, rule: &str) -> Result<Volume> {
        let volume = self.core.store.read(|tx| self.volume_visible_in(tx, ctx, id)).await?;
        self.authorize(rule, ctx, &volume)?;
        Ok(volume)
    }

    /// Changes a volume in one transaction, after its rule has been asked.
    pub async fn volume_change<T: Send + 'static>(
        &self,
        ctx: &Context,
        id: &str,
        rule: &'static str,
        change: impl FnOnce(&Volumes, &Tx, &Context, &mut Volume) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, ctx, id) = (self.clone(), ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let mut volume = this.volume_visible_in(tx, &ctx, &id)?;
                this.authorize(rule, &ctx, &volume)?;
                change(&this, tx, &ctx, &mut volume)
            })
            .await
    }

    pub async fn volume_delete(&self, ctx: &Context, id: &str, cascade: bool, force: bool) -> Result<()> {
        let rule = if force { "volume:force_delete" } else { "volume:delete" };
        self.volume_change(ctx, id, rule, move |this, tx, ctx, volume| {
            ungrouped(volume)?;
            this.volume_delete_in(tx, ctx, volume, cascade, force)
        })
        .await?;
        self.operations_cancel(id).await
    }

    /// Begins the end of a volume.
    pub fn volume_delete_in(&self, tx: &Tx, ctx: &Context, volume: &mut Volume, cascade: bool, force: bool) -> Result<()> {
        if !force {
            changeable_in(tx, volume)?;
        }
        let attached = !attachments::attachments_of_in(tx, &volume.id)?.is_empty();
        if volume.status == "deleting" && !force {
            return Err(invalid("Volume is being deleted already."));
        }
        if (!force && !volume.status_is(DELETABLE)) || attached {
            return Err(invalid(
                "Volume status must be available or error or error_restoring or error_extending or error_managing and must not be \
                 migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after \
                 volume transfer.",
            ));
        }
        let below = snapshots::snapshots_of_in(tx, &volume.id)?;
        if !below.is_empty() && !cascade {
            return Err(invalid(format!("Volume {} still has {} dependent snapshots.", volume.id, below.len())));
        }
        if let Some(busy) = below.iter().find(|s| !matches!(s.status.as_str(), "available" | "error" | "deleting" | "error_deleting")) {
            return Err(invalid(format!("Snapshot {} is {}.", busy.id, busy.status)));
        }
        for mut snapshot in below {
            snapshot.status = "deleting".into();
            snapshots::snapshot_update_in(tx, &mut snapshot)?;
            snapshot_event_in(tx, "delete.start", &snapshot, ctx, None)?;
        }
        volume.status = "deleting".into();
        db::volume_update_in(tx, volume)?;
        volume_event_in(tx, "delete.start", volume, ctx, None)?;
        self.core.tasks.submit(tx, op::submit(op::DELETE, volume, ctx, serde_json::json!({}))).map(drop)
    }

    /// Cancels what is under way with a volume that is to be deleted.
    pub async fn operations_cancel(&self, id: &str) -> Result<()> {
        let filter = ::task::Filter { resource_id: Some(id.to_string()), open: true, ..Default::default() };
        for operation in self.core.tasks.list(&filter).await? {
            if operation.kind != op::DELETE {
                match self.core.tasks.cancel(&operation.id).await {
                    Err(error) if !error.is(base::Kind::Conflict) && !error.is(base::Kind::NotFound) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Stores a wish about a volume that is made, and the operation that sees it done.
    pub(crate) fn change_submit_in(&self, tx: &Tx, ctx: &Context, volume: &mut Volume, change: &Change) -> Result<()> {
        volume.spec_generation += 1;
        db::volume_update_in(tx, volume)?;
        let params = serde_json::to_value(change).map_err(|e| Error::internal("writing an operation's parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(op::CHANGE, volume, ctx, params)).map(drop)
    }

    pub async fn volume_extend(&self, ctx: &Context, id: &str, size: i64, attached: bool) -> Result<()> {
        self.volume_change(ctx, id, "volume:extend", move |this, tx, ctx, volume| {
            changeable_in(tx, volume)?;
            match volume.status.as_str() {
                "available" => {}
                "in-use" if attached => this.authorize("volume:extend_attached_volume", ctx, volume)?,
                status => return Err(invalid(format!("Volume {} status must be 'available' to extend, currently {status}.", volume.id))),
            }
            if size <= volume.size {
                return Err(Error::invalid(format!(
                    "Invalid input received: New size for extend must be greater than current size. (current: {}, extended: {size}).",
                    volume.size
                )));
            }
            quotas::size_fits_in(tx, &volume.project_id, size)?;
            let name = volume.doc.type_name.clone();
            quotas::reserve_in(tx, &volume.project_id, name.as_deref(), &[("gigabytes", size - volume.size)])?;
            let change = Change::Extend { from: volume.size, back: volume.status.clone() };
            let larger = Volume { size, ..volume.clone() };
            if let Err(error) = this.promise_in(tx, &larger) {
                // As upstream, whose scheduler finds that out after the answer: it stays as it is, and a message says why.
                if !error.is(base::Kind::NoCapacity) {
                    return Err(error);
                }
                messages::message_in(tx, ctx, volume, None, messages::EXTEND, messages::NO_BACKEND)?;
                return volume_event_in(tx, "resize.error", volume, ctx, Some(error.message()));
            }
            volume.size = size;
            volume.status = "extending".into();
            volume_event_in(tx, "resize.start", volume, ctx, None)?;
            this.change_submit_in(tx, ctx, volume, &change)
        })
        .await
    }

    /// Returns a volume to its latest snapshot.
    pub async fn volume_revert(&self, ctx: &Context, id: &str, wanted: Option<String>) -> Result<()> {
        self.volume_change(ctx, id, "volume:revert_to_snapshot", move |this, tx, ctx, volume| {
            changeable_in(tx, volume)?;
            let Some(mut latest) = snapshots::snapshots_of_in(tx, &volume.id)?.pop() else {
                return Err(Error::invalid(format!("Volume {} doesn't have any snapshots.", volume.id)));
            };
            if wanted.as_deref() != Some(latest.id.as_str()) {
                let id = wanted.as_deref().unwrap_or("None");
                return Err(Error::invalid(format!("Specified snapshot {id} is None or not the latest one of volume {}.", volume.id)));
            }
            if volume.size != latest.size {
                return Err(Error::invalid(format!(
                    "Can't revert volume {} to its latest snapshot {}. The volume size must be equal to the snapshot size.",
                    volume.id, latest.id
                )));
            }
            if volume.status != "available" || latest.status != "available" {
                return Err(Error::conflict(format!("Volume {} and its snapshot must be available to be reverted.", volume.id)));
            }
            let serial = revert_serial(volume);
            volume.doc.revert = Some(rpc::volume::Revert { serial, snapshot: latest.id.clone(), image: None });
            volume.status = "reverting".into();
            latest.status = "restoring".into();
            snapshots::snapshot_update_in(tx, &mut latest)?;
            this.change_submit_in(tx, ctx, volume, &Change::Revert { snapshot: latest.id })
        })
        .await
    }

    /// Replaces what a volume holds by an image. `reserved`: also of one that is reserved for a server.
    pub async fn volume_reimage(&self, ctx: &Context, id: &str, image: &str, reserved: bool) -> Result<()> {
        let volume = self.core.store.read(|tx| self.volume_visible_in(tx, ctx, id)).await?;
        let is_reserved = reserved && volume.status == "reserved";
        let rule = if is_reserved { "volume:reimage_reserved" } else { "volume:reimage" };
        self.authorize(rule, ctx, &volume)?;
        let part = self.volume_image(ctx, Some(image)).await?.ok_or_else(|| Error::invalid("'image_id' is a required property"))?;
        self.volume_change(ctx, id, rule, move |this, tx, ctx, volume| {
            if !volume.status_is(if reserved { &["available", "error", "reserved"] } else { &["available", "error"] }) {
                let more = if reserved { " or reserved" } else { "" };
                return Err(invalid(format!("status must be available or error{more}, but current status is: {}.", volume.status)));
            }
            let back = if volume.status == "reserved" { "reserved" } else { "available" };
            this.reimage_in(tx, ctx, volume, &part, back)
        })
        .await
    }

    /// Begins the change of a volume into an image; afterwards its status is `back`. The host waits until nobody has it open.
    pub(crate) fn reimage_in(&self, tx: &Tx, ctx: &Context, volume: &mut Volume, image: &ImagePart, back: &str) -> Result<()> {
        changeable_in(tx, volume)?;
        if image.size() > volume.size {
            return Err(Error::invalid(format!(
                "Invalid input received: Size of specified image {}GB is larger than volume size {}GB.",
                image.size(),
                volume.size
            )));
        }
        if volume.host_id.is_none() || volume.doc.launched_at.is_none() {
            return Err(invalid(format!("Volume {} was never made.", volume.id)));
        }
        volume.doc.revert =
            Some(rpc::volume::Revert { serial: revert_serial(volume), snapshot: String::new(), image: Some(image.content()) });
        volume.doc.image_metadata = image.metadata();
        volume.bootable = true;
        volume.status = "downloading".into();
        volume_event_in(tx, "reimage.start", volume, ctx, None)?;
        self.change_submit_in(tx, ctx, volume, &Change::Reimage { back: back.into() })
    }

    pub async fn volume_retype(&self, ctx: &Context, id: &str, name: String, policy_given: Option<String>) -> Result<()> {
        self.volume_change(ctx, id, "volume:retype", move |this, tx, ctx, volume| {
            changeable_in(tx, volume)?;
            if policy_given.as_deref().is_some_and(|p| !matches!(p, "never" | "on-demand")) {
                return Err(Error::invalid("Invalid input received: migration_policy must be 'on-demand' or 'never'"));
            }
            if !volume.status_is(&["available", "in-use"]) {
                return Err(invalid(format!(
                    "Unable to update type due to incorrect status: {} on volume: {}. Volume status must be available or in-use.",
                    volume.status, volume.id
                )));
            }
            let kind = this.type_visible_in(tx, ctx, &name)?;
            if volume.type_id.as_deref() == Some(kind.id.as_str()) {
                return Err(Error::invalid("Invalid input received: New volume_type same as original: ".to_string() + &kind.name));
            }
            ungrouped(volume)?;
            if !capabilities::names(&kind.doc.extra_specs, volume.pool()) {
                return Err(Error::invalid(format!(
                    "Invalid input received: Retype needs volume to be migrated, which is not done between backends: it is in {}.",
                    volume.pool()
                )));
            }
            let multiattach = capabilities::multiattach(&kind.doc.extra_specs);
            if multiattach != volume.multiattach && volume.status != "available" {
                return Err(Error::invalid(format!(
                    "Invalid input received: Invalid volume_type passed, retypes affecting multiattach are only allowed on available \
                     volumes, the specified volume however currently has a status of: {}.",
                    volume.status
                )));
            }
            if multiattach && !volume.multiattach {
                this.authorize("volume:multiattach", ctx, volume)?;
            }
            quotas::reserve_type_in(tx, &volume.project_id, &kind.name, volume.size)?;
            let former = FormerType { id: volume.type_id.take(), name: volume.doc.type_name.take() };
            volume.doc.type_name = Some(kind.name);
            volume.type_id = Some(kind.id);
            volume_event_in(tx, "retype", volume, ctx, None)?;
            if volume.multiattach == multiattach {
                // On the same backend nothing has to be moved.
                return db::volume_update_in(tx, volume);
            }
            // What several servers may have is kept in another way.
            let change = Change::Retype { multiattach: volume.multiattach };
            volume.multiattach = multiattach;
            volume.doc.former_type = Some(former);
            volume.status = "retyping".into();
            this.change_submit_in(tx, ctx, volume, &change)
        })
        .await
    }
}
