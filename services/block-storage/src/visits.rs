//! Volumes on their way to another host. With a server that has them open: an empty one of the same size waits there, and the guest's
//! process fills it while the guest runs. Or with nobody ([`crate::bring`]). Until [`Volumes::visit_end_in`] or [`Volumes::visit_arrived_in`] ends that, nothing else may change
//! what a volume holds.

use std::time::Duration;

use base::{Error, Kind, Result};
use rpc::volume::{Role, Stored, VolumeSource, VolumeSpec, VolumeState};
use store::Tx;
use task::StepContext;

use crate::Volumes;
use crate::bring::{Destination, parcel_begin, parcel_end};
use crate::db::{attachments, snapshots, visits, volumes as db};
use crate::image_volumes::copied_in;
use crate::model::{Parcel, Volume};

/// What `migration_status` says meanwhile.
pub(crate) const MIGRATING: &str = "migrating";
/// And before that, when somebody has asked for it.
pub(crate) const STARTING: &str = "starting";

/// Whether a volume is on its way, or about to be.
pub(crate) fn is_moving(volume: &Volume) -> bool {
    matches!(volume.migration_status.as_deref(), Some(MIGRATING | STARTING))
}

/// What the other host is told of it: in shared storage, where it is; else nothing in it yet or what was carried there, and nothing of what its
/// own host has beside it.
pub(crate) fn visitor(document: VolumeSpec, parcel: Option<&Parcel>) -> VolumeSpec {
    if let Some(stored) = document.stored.clone() {
        return VolumeSpec { stored: Some(Stored { role: Role::Visit, ..stored }), ..document };
    }
    let source = match parcel {
        None => VolumeSource::Blank,
        Some(Parcel { id, parts: None, .. }) => VolumeSource::Parcel { id: id.clone() },
        // Its snapshots are in them.
        Some(Parcel { id, parts: Some(parts), .. }) => {
            let source = VolumeSource::Parts { id: id.clone(), parts: parts.clone() };
            return VolumeSpec { source, revert: None, exports: Vec::new(), ..document };
        }
    };
    VolumeSpec { source, snapshots: Vec::new(), revert: None, exports: Vec::new(), ..document }
}

/// Snapshots in these states are about to be others.
const UNSETTLED: &[&str] = &["creating", "deleting", "restoring", "unmanaging", "backing-up"];

/// What keeps a volume on its host. `who`: the server that it would go with.
pub(crate) fn bound_in(tx: &Tx, volume: &Volume, who: &str) -> Result<Option<String>> {
    if is_moving(volume) {
        return Ok(Some("is on its way already".into()));
    }
    if volume.storage.is_some() && volume.multiattach {
        return Ok(Some("is for several servers, and in shared storage".into()));
    }
    if snapshots::snapshots_of_in(tx, &volume.id)?.iter().any(|s| UNSETTLED.contains(&s.status.as_str())) {
        return Ok(Some("has a snapshot that is being made, removed or gone back to".into()));
    }
    let other = attachments::attachments_of_in(tx, &volume.id)?.into_iter().find(|a| a.server_id.as_deref() != Some(who));
    if let Some(other) = other {
        let holder = other.server_id.map_or_else(|| "to another machine".to_string(), |id| format!("to server {id} too"));
        return Ok(Some(format!("is attached {holder}")));
    }
    if !volume.doc.exports.is_empty() {
        return Ok(Some("is being copied out".into()));
    }
    let copy = db::volume_copied_in(tx, &volume.id)?.map_or_else(|| copied_in(tx, volume), |copy| Ok(Some(copy)))?;
    Ok(copy.map(|copy| format!("is being copied to volume {copy}")))
}

/// Whether a volume goes in the layers that it is: its snapshots with it, or what is written to is a file that several may write to.
/// One in shared storage goes without a copy of anything.
pub(crate) fn in_layers_in(tx: &Tx, volume: &Volume) -> Result<bool> {
    Ok(volume.storage.is_none() && (volume.multiattach || is_frozen_in(tx, volume)?))
}

/// Whether anything is frozen of a volume.
fn is_frozen_in(tx: &Tx, volume: &Volume) -> Result<bool> {
    Ok(volume.doc.frozen.is_some() || !snapshots::snapshots_of_in(tx, &volume.id)?.is_empty())
}

impl Volumes {
    /// Why a volume cannot go to another host; `NoCapacity`.
    pub fn visit_check_in(&self, tx: &Tx, id: &str, attachment: &str) -> Result<()> {
        let volume = db::volume_get_in(tx, id)?;
        let server = attachments::attachment_fetch_in(tx, attachment)?.and_then(|a| a.server_id).unwrap_or_default();
        let why = if let Some(why) = bound_in(tx, &volume, &server)? {
            why
        } else if volume.status != "in-use" {
            "is about to change".into()
        } else if self.server_only_reads_in(tx, attachment)? {
            "is attached for reading only".into()
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::NoCapacity, format!("Volume {id} {why}.")))
    }

    /// A volume begins to go to another host.
    pub fn visit_in(&self, tx: &Tx, id: &str, host_id: &str) -> Result<()> {
        if db::tombstone_fetch_in(tx, host_id, id)?.is_some() {
            return Err(Error::unavailable(format!("The host still has an older state of volume {id}.")));
        }
        let mut volume = db::volume_get_in(tx, id)?;
        visits::visit_put_in(tx, id, host_id)?;
        volume.migration_status = Some(MIGRATING.into());
        volume.spec_generation += 1;
        db::volume_update_in(tx, &mut volume)?;
        self.promise_in(tx, &volume)?;
        self.host_tell_after_commit(tx, host_id, id);
        Ok(())
    }

    /// A volume in use begins to go to another host, as part of an operation of its server. One with snapshots is not told of there before
    /// what they are frozen in has been carried ([`Volumes::visit_carry`]).
    pub fn visit_begin_in(&self, tx: &Tx, by: &str, id: &str, host_id: &str) -> Result<()> {
        let mut volume = db::volume_get_in(tx, id)?;
        if volume.storage.is_some() || !is_frozen_in(tx, &volume)? {
            return self.visit_in(tx, id, host_id);
        }
        if db::tombstone_fetch_in(tx, host_id, id)?.is_some() {
            return Err(Error::unavailable(format!("The host still has an older state of volume {id}.")));
        }
        parcel_begin(&mut volume, host_id, by, "below");
        db::volume_update_in(tx, &mut volume)?;
        self.promise_in(tx, &volume)
    }

    /// It stays where it is, as far as this operation has moved it.
    pub fn visit_end_in(&self, tx: &Tx, cx: &StepContext, id: &str, host_id: &str) -> Result<()> {
        // One that was deleted on its way may have parcels there.
        let carried =
            db::volume_fetch_in(tx, id)?.is_none_or(|volume| volume.doc.parcel.is_some_and(|parcel| parcel.by == cx.operation_id));
        match carried {
            true => self.bring_over_in(tx, cx, id, host_id),
            false => self.visit_over_in(tx, id, host_id),
        }
    }

    /// It stays where it is. What came of it to the other host goes.
    fn visit_over_in(&self, tx: &Tx, id: &str, host_id: &str) -> Result<()> {
        if visits::visit_fetch_in(tx, id)?.as_deref() != Some(host_id) {
            return Ok(());
        }
        visits::visit_drop_in(tx, id)?;
        let Some(mut volume) = db::volume_fetch_in(tx, id)? else { return Ok(()) };
        volume.migration_status = Some("error".into());
        volume.spec_generation += 1;
        db::volume_update_in(tx, &mut volume)?;
        self.settle_in(tx, &volume)?;
        db::tombstone_put_in(tx, host_id, id, volume.spec_generation)?;
        self.host_tell_after_commit(tx, host_id, id);
        Ok(())
    }

    /// It is the other host's now, with its snapshots, and over nothing else. What its old host has of it goes, or is let go of in shared
    /// storage.
    pub fn visit_arrived_in(&self, tx: &Tx, id: &str, host_id: &str, host: &str) -> Result<()> {
        if visits::visit_fetch_in(tx, id)?.as_deref() != Some(host_id) {
            return Ok(());
        }
        visits::visit_drop_in(tx, id)?;
        let mut volume = db::volume_get_in(tx, id)?;
        volume.spec_generation += 1;
        self.keeper_change_in(tx, &mut volume, &Destination { host_id: host_id.into(), host: host.into() }, true)?;
        volume.migration_status = Some("success".into());
        if volume.storage.is_none() {
            (volume.doc.source, volume.doc.revert) = (Some(VolumeSource::Blank), None);
        }
        parcel_end(&mut volume);
        db::volume_update_in(tx, &mut volume)?;
        self.settle_in(tx, &volume)?;
        self.host_tell_after_commit(tx, host_id, id);
        for mut attachment in attachments::attachments_of_in(tx, id)? {
            attachment.host = Some(host.into());
            attachments::attachment_put_in(tx, &attachment)?;
        }
        Ok(())
    }

    /// Sees that nothing older of a volume is on a host that it is to go to.
    pub async fn visit_cleared(&self, id: &str, host_id: &str, limit: Duration) -> Result<()> {
        let Some(generation) = self.core.store.read(|tx| db::tombstone_fetch_in(tx, host_id, id)).await? else { return Ok(()) };
        if !self.volume_removed(host_id, id, generation, limit).await? {
            return Err(Error::unavailable(format!("The host still has an older state of volume {id}.")));
        }
        let (host_id, id) = (host_id.to_string(), id.to_string());
        self.core.store.write(move |tx| db::tombstone_drop_in(tx, &host_id, &id, generation)).await
    }

    /// Waits until the other host has made what a volume will be filled into.
    pub async fn visit_ready(&self, id: &str, host_id: &str, limit: Duration, stop: impl Fn() -> bool) -> Result<()> {
        let generation = self.volume_tell(host_id, id).await?;
        let accept = |host: &str, s: &rpc::volume::VolumeStatus| {
            let over = matches!(s.state, VolumeState::Ready | VolumeState::Failed);
            (host == host_id && s.generation >= generation && over).then(|| s.clone())
        };
        let gone = || stop() || !self.core.hosts.is_connected(host_id);
        match self.statuses.wait(id, limit, accept, gone).await {
            Some(status) if status.state == VolumeState::Failed => {
                Err(Error::conflict(format!("The other host cannot keep volume {id}: {}", status.error.unwrap_or_default())))
            }
            Some(_) => Ok(()),
            None => Err(Error::unavailable(format!("The other host has not made room for volume {id}."))),
        }
    }
}
