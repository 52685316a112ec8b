//! Rules of groups: volumes that are kept, frozen and copied together. A group has no work of its own: what is under way is
//! under way with its volumes, and the last of them to be done says what became of the group.

use base::{Context, Error, Result, Timestamp};
use store::Tx;

use crate::capabilities::Pool;
use crate::db::groups::{self as db, GroupType};
use crate::db::{attachments, hosts, snapshots, types, volumes};
use crate::model::{GroupSnapshot, Snapshot, Volume, VolumeGroup};
use crate::snapshots::SnapshotWish;
use crate::volumes::{changeable_in, invalid};
use crate::{VolumeWish, Volumes, ZONE, quotas};

pub fn invalid_group(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid Group: {why}"))
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct GroupWish {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Id or name.
    pub group_type: String,
    /// Ids or names.
    pub volume_types: Vec<String>,
    pub zone: Option<String>,
}

/// What a group is copied from.
#[derive(Clone, Debug)]
pub enum GroupSource {
    Group(String),
    Snapshot(String),
}

/// Changes of a group; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub add: Vec<String>,
    pub remove: Vec<String>,
}

/// Refuses what is not done to one volume of a group alone.
pub fn ungrouped(volume: &Volume) -> Result<()> {
    match &volume.group_id {
        Some(group) => Err(invalid(format!("Volume {} belongs to group {group}.", volume.id))),
        None => Ok(()),
    }
}

impl Volumes {
    pub fn group_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<VolumeGroup> {
        match db::group_fetch_in(tx, id)? {
            Some(group) if ctx.is_admin() || group.project_id == ctx.project_id() => Ok(group),
            _ => Err(db::group_not_found(id)),
        }
    }

    pub fn group_snapshot_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<GroupSnapshot> {
        match db::group_snapshot_fetch_in(tx, id)? {
            Some(found) if ctx.is_admin() || found.project_id == ctx.project_id() => Ok(found),
            _ => Err(db::group_snapshot_not_found(id)),
        }
    }

    /// A group type that the caller may use.
    pub fn group_type_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<GroupType> {
        let found = db::group_type_get_in(tx, id)?;
        if found.is_public || ctx.is_admin() {
            return Ok(found);
        }
        Err(Error::new(base::Kind::NotFound, format!("Group type {id} could not be found.")))
    }

    fn group_new(&self, ctx: &Context, name: Option<String>, description: Option<String>, kind: &str, types: Vec<String>) -> VolumeGroup {
        VolumeGroup {
            id: base::id::uuid(),
            project_id: ctx.project_id().to_string(),
            user_id: ctx.user_id.clone(),
            name,
            description,
            status: "available".into(),
            group_type_id: kind.to_string(),
            zone: ZONE.into(),
            volume_types: types,
            group_snapshot_id: None,
            source_group_id: None,
            created_at: Timestamp::now(),
        }
    }

    pub fn group_create_in(&self, tx: &Tx, ctx: &Context, wish: &GroupWish) -> Result<VolumeGroup> {
        let kind = self.group_type_visible_in(tx, ctx, &wish.group_type)?;
        if wish.zone.as_deref().is_some_and(|zone| zone != ZONE) {
            let zone = wish.zone.as_deref().unwrap_or_default();
            return Err(Error::invalid(format!("Invalid input received: Availability zone '{zone}' is invalid.")));
        }
        let mut ids = Vec::new();
        for name in &wish.volume_types {
            ids.push(self.type_visible_in(tx, ctx, name)?.id);
        }
        quotas::reserve_in(tx, ctx.project_id(), None, &[("groups", 1)])?;
        let mut group = self.group_new(ctx, wish.name.clone(), wish.description.clone(), &kind.id, ids);
        // A group that no host could keep as its type asks is there, and is an error.
        let all = hosts::host_list_in(tx)?;
        let pools: Vec<Pool> = all.iter().flat_map(Pool::of).collect();
        let stocks = self.stocks_in(tx, &pools)?;
        if !pools.is_empty() && !pools.iter().any(|pool| pool.fits(0, 0, &stocks.of(pool), &kind.specs)) {
            group.status = "error".into();
        }
        db::group_put_in(tx, &group)?;
        Ok(group)
    }

    pub fn group_copy_in(
        &self,
        tx: &Tx,
        ctx: &Context,
        name: Option<String>,
        description: Option<String>,
        source: &GroupSource,
    ) -> Result<VolumeGroup> {
        let mut wishes = Vec::new();
        let of = |volume_type: Option<String>, size: i64| VolumeWish { volume_type, size: Some(size), ..VolumeWish::default() };
        let (from, snapshot) = match source {
            GroupSource::Group(id) => {
                let from = self.group_visible_in(tx, ctx, id)?;
                for volume in db::volumes_of_group_in(tx, id)? {
                    wishes.push(VolumeWish { source_volid: Some(volume.id), ..of(volume.type_id, volume.size) });
                }
                (from, None)
            }
            GroupSource::Snapshot(id) => {
                let snapshot = self.group_snapshot_visible_in(tx, ctx, id)?;
                for one in snapshots::snapshots_of_group_in(tx, id)? {
                    wishes.push(VolumeWish { snapshot_id: Some(one.id), ..of(one.doc.type_id, one.size) });
                }
                (self.group_visible_in(tx, ctx, &snapshot.group_id)?, Some(snapshot.id))
            }
        };
        if wishes.is_empty() {
            return Err(invalid_group("what it shall be made of is empty. No group will be created."));
        }
        quotas::reserve_in(tx, ctx.project_id(), None, &[("groups", 1)])?;
        let mut group = self.group_new(ctx, name, description, &from.group_type_id, from.volume_types);
        group.status = "creating".into();
        group.source_group_id = snapshot.is_none().then_some(from.id);
        group.group_snapshot_id = snapshot;
        db::group_put_in(tx, &group)?;
        for mut wish in wishes {
            wish.group_id = Some(group.id.clone());
            self.volume_create_in(tx, ctx, &wish, None)?;
        }
        Ok(group)
    }

    pub fn group_change_in(&self, tx: &Tx, group: &mut VolumeGroup, change: &GroupChange) -> Result<()> {
        if group.status != "available" {
            return Err(invalid_group(format!("Group status must be available, but current status is: {}.", group.status)));
        }
        if let Some(both) = change.add.iter().find(|id| change.remove.contains(id)) {
            return Err(invalid(format!("UUIDs {both} are in both add and remove volume list.")));
        }
        for id in &change.add {
            let refused = |why: &str| invalid(format!("Cannot add volume {id} to group {} because {why}.", group.id));
            let Some(mut volume) = volumes::volume_fetch_in(tx, id)?.filter(|v| v.project_id == group.project_id) else {
                return Err(refused("volume cannot be found"));
            };
            match &volume.group_id {
                Some(other) if *other == group.id => continue,
                Some(_) => return Err(refused("it is already in another group")),
                None => {}
            }
            if !volume.type_id.as_ref().is_some_and(|t| group.volume_types.contains(t)) {
                return Err(refused("its volume type is not supported by the group"));
            }
            if !volume.status_is(&["available", "in-use"]) {
                return Err(refused("volume is in an invalid state"));
            }
            volume.group_id = Some(group.id.clone());
            volumes::volume_update_in(tx, &mut volume)?;
        }
        for id in &change.remove {
            let refused = |why: &str| invalid(format!("Cannot remove volume {id} from group {} because {why}.", group.id));
            let member = volumes::volume_fetch_in(tx, id)?.filter(|v| v.group_id.as_ref() == Some(&group.id));
            let mut volume = member.ok_or_else(|| refused("it is not in the group"))?;
            if !volume.status_is(&["available", "in-use", "error", "error_deleting"]) {
                return Err(refused("volume is in an invalid state"));
            }
            volume.group_id = None;
            volumes::volume_update_in(tx, &mut volume)?;
        }
        group.name = change.name.clone().or(group.name.take());
        group.description = change.description.clone().or(group.description.take());
        db::group_put_in(tx, group)
    }

    /// Begins the end of a group, and with `volumes_too` of what is in it.
    pub fn group_delete_in(&self, tx: &Tx, ctx: &Context, group: &mut VolumeGroup, volumes_too: bool) -> Result<()> {
        if !volumes_too && !matches!(group.status.as_str(), "available" | "error") {
            return Err(invalid_group(format!("Group status must be available or error, but current status is: {}", group.status)));
        }
        if db::group_has_snapshots_in(tx, &group.id)? {
            return Err(invalid_group("Group has existing snapshots."));
        }
        let members = db::volumes_of_group_in(tx, &group.id)?;
        if members.is_empty() {
            return db::group_delete_in(tx, &group.id);
        }
        if !volumes_too {
            let why = format!("Group {} still contains volumes. The delete-volumes flag is required to delete it.", group.id);
            return Err(invalid_group(why));
        }
        for mut volume in members.into_iter().filter(|v| v.status != "deleting") {
            if !attachments::attachments_of_in(tx, &volume.id)?.is_empty() {
                return Err(invalid_group(format!("Volume in group {} is attached. Need to detach first.", group.id)));
            }
            if !snapshots::snapshots_of_in(tx, &volume.id)?.is_empty() {
                return Err(invalid_group("Volume in group still has dependent snapshots."));
            }
            self.volume_delete_in(tx, ctx, &mut volume, false, false)?;
        }
        group.status = "deleting".into();
        db::group_put_in(tx, group)
    }

    /// Freezes all volumes of a group.
    pub fn group_snapshot_create_in(
        &self,
        tx: &Tx,
        ctx: &Context,
        group: &VolumeGroup,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<GroupSnapshot> {
        let members = db::volumes_of_group_in(tx, &group.id)?;
        if members.is_empty() {
            return Err(invalid_group(format!("Group {} is empty. No group snapshot will be created.", group.id)));
        }
        let made = GroupSnapshot {
            id: base::id::uuid(),
            project_id: group.project_id.clone(),
            user_id: ctx.user_id.clone(),
            group_id: group.id.clone(),
            group_type_id: group.group_type_id.clone(),
            name,
            description,
            status: "creating".into(),
            created_at: Timestamp::now(),
        };
        db::group_snapshot_put_in(tx, &made)?;
        for volume in members {
            let wish = SnapshotWish {
                volume_id: volume.id,
                name: made.name.clone(),
                description: made.description.clone(),
                force: true,
                group_snapshot_id: Some(made.id.clone()),
                ..SnapshotWish::default()
            };
            self.snapshot_create_in(tx, ctx, &wish)?;
        }
        Ok(made)
    }

    pub fn group_snapshot_delete_in(&self, tx: &Tx, ctx: &Context, group: &mut GroupSnapshot) -> Result<()> {
        let source = "SELECT 1 FROM volume_group WHERE group_snapshot_id = ?1 AND status = 'creating'";
        let used = tx.query_opt(source, &[group.id.as_str().into()], |_| Ok(()))?.is_some();
        if used || !matches!(group.status.as_str(), "available" | "error") {
            return Err(Error::invalid(
                "Invalid GroupSnapshot: GroupSnapshot status must be available or error, and no Group can be currently using it as source \
                 for its creation.",
            ));
        }
        let members = snapshots::snapshots_of_group_in(tx, &group.id)?;
        if members.is_empty() {
            return db::group_snapshot_delete_in(tx, &group.id);
        }
        for snapshot in members {
            changeable_in(tx, &volumes::volume_get_in(tx, &snapshot.volume_id)?)?;
            self.server_snapshot_drop_in(tx, ctx, &snapshot.id)?;
        }
        group.status = "deleting".into();
        db::group_snapshot_put_in(tx, group)
    }
}

/// What a volume in a group needs: a type of the group's.
pub fn admit(group: &VolumeGroup, type_id: Option<&str>) -> Result<()> {
    if !matches!(group.status.as_str(), "available" | "creating") {
        return Err(invalid_group(format!("Group {} is {}.", group.id, group.status)));
    }
    if !type_id.is_some_and(|id| group.volume_types.iter().any(|t| t == id)) {
        let id = type_id.unwrap_or("None");
        return Err(Error::invalid(format!(
            "Invalid volume type: Invalid volume_type {id} provided: must be supported by the group {}.",
            group.id
        )));
    }
    Ok(())
}

/// A new volume is there, or has failed: when it was the last of a group that is being made, the group is too.
pub fn volume_made_in(tx: &Tx, volume: &Volume) -> Result<()> {
    let Some(id) = &volume.group_id else { return Ok(()) };
    let Some(mut group) = db::group_fetch_in(tx, id)?.filter(|g| g.status == "creating") else { return Ok(()) };
    let members = db::volumes_of_group_in(tx, id)?;
    if members.iter().any(|v| v.status_is(&["creating", "downloading"])) {
        return Ok(());
    }
    group.status = if members.iter().any(|v| v.status == "error") { "error" } else { "available" }.into();
    db::group_put_in(tx, &group)
}

/// A volume is gone: when it was the last of a group that is to go, the group goes too.
pub fn volume_gone_in(tx: &Tx, volume: &Volume) -> Result<()> {
    let Some(id) = &volume.group_id else { return Ok(()) };
    let Some(group) = db::group_fetch_in(tx, id)?.filter(|g| g.status == "deleting") else { return Ok(()) };
    if db::volumes_of_group_in(tx, id)?.is_empty() { db::group_delete_in(tx, &group.id) } else { Ok(()) }
}

/// A volume could not be removed: nor can its group.
pub fn volume_stays_in(tx: &Tx, volume: &Volume) -> Result<()> {
    let Some(id) = &volume.group_id else { return Ok(()) };
    let Some(mut group) = db::group_fetch_in(tx, id)?.filter(|g| g.status == "deleting") else { return Ok(()) };
    group.status = "error".into();
    db::group_put_in(tx, &group)
}

/// A snapshot is there, or has failed, or is gone.
pub fn snapshot_settled_in(tx: &Tx, snapshot: &Snapshot) -> Result<()> {
    let Some(id) = &snapshot.group_snapshot_id else { return Ok(()) };
    let Some(mut group) = db::group_snapshot_fetch_in(tx, id)? else { return Ok(()) };
    let members = snapshots::snapshots_of_group_in(tx, id)?;
    let any = |status: &str| members.iter().any(|s| s.status == status);
    match group.status.as_str() {
        "creating" if !any("creating") => group.status = if any("error") { "error" } else { "available" }.into(),
        "deleting" if members.is_empty() => return db::group_snapshot_delete_in(tx, id),
        "deleting" if any("error_deleting") => group.status = "error".into(),
        _ => return Ok(()),
    }
    db::group_snapshot_put_in(tx, &group)
}

/// Whether a type may go: groups name it.
pub fn type_grouped_in(tx: &Tx, id: &str) -> Result<bool> {
    let sql = format!("SELECT {} FROM volume_group g", db::GROUP);
    let exists = types::type_fetch_in(tx, id)?.is_some();
    Ok(exists && tx.query(&sql, &[], db::read_group)?.iter().any(|g| g.volume_types.iter().any(|t| t == id)))
}
