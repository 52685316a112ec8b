//! Rows of group types, groups and group snapshots.

use std::collections::BTreeMap;

use base::{Error, Kind, Result, Timestamp};
use store::{Row, Tx, Value, params};

use crate::model::{GroupSnapshot, Volume, VolumeGroup};

#[derive(Clone, Debug)]
pub struct GroupType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub specs: BTreeMap<String, String>,
    pub created_at: Timestamp,
}

fn missing(what: &str, id: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} {id} could not be found."))
}

const TYPE: &str = "SELECT id, name, description, is_public, specs, created_at FROM volume_group_type";

fn read_type(r: &Row) -> Result<GroupType> {
    Ok(GroupType {
        id: r.text(0)?,
        name: r.text(1)?,
        description: r.opt_text(2)?,
        is_public: r.flag(3)?,
        specs: r.json(4)?,
        created_at: r.time(5)?,
    })
}

pub fn group_types_in(tx: &Tx) -> Result<Vec<GroupType>> {
    tx.query(&format!("{TYPE} ORDER BY created_at DESC, id DESC"), &[], read_type)
}

/// By id, or by name.
pub fn group_type_get_in(tx: &Tx, id: &str) -> Result<GroupType> {
    tx.query_opt(&format!("{TYPE} WHERE id = ?1 OR name = ?1"), params![id], read_type)?.ok_or_else(|| missing("Group type", id))
}

pub fn group_type_put_in(tx: &Tx, t: &GroupType) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_group_type (id, name, description, is_public, specs, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, is_public = excluded.is_public, \
         specs = excluded.specs",
        params![t.id, t.name, t.description, t.is_public, Value::json(&t.specs)?, t.created_at],
    )
    .map(drop)
}

pub fn group_type_used_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM volume_group WHERE group_type_id = ?1 LIMIT 1", params![id], |_| Ok(()))?.is_some())
}

pub fn group_type_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_group_type WHERE id = ?1", params![id]).map(drop)
}

pub const GROUP: &str = "g.id, g.project_id, g.user_id, g.name, g.description, g.status, g.group_type_id, g.availability_zone, \
     g.volume_types, g.group_snapshot_id, g.source_group_id, g.created_at";

pub fn read_group(r: &Row) -> Result<VolumeGroup> {
    Ok(VolumeGroup {
        id: r.text(0)?,
        project_id: r.text(1)?,
        user_id: r.text(2)?,
        name: r.opt_text(3)?,
        description: r.opt_text(4)?,
        status: r.text(5)?,
        group_type_id: r.text(6)?,
        zone: r.text(7)?,
        volume_types: r.json(8)?,
        group_snapshot_id: r.opt_text(9)?,
        source_group_id: r.opt_text(10)?,
        created_at: r.time(11)?,
    })
}

pub fn group_not_found(id: &str) -> Error {
    missing("Group", id)
}

/// Held until the transaction ends: of two members that settle at once, the later must see the earlier, or neither is the last.
pub fn group_fetch_in(tx: &Tx, id: &str) -> Result<Option<VolumeGroup>> {
    tx.query_opt_locked(&format!("SELECT {GROUP} FROM volume_group g WHERE g.id = ?1"), params![id], read_group)
}

pub fn group_put_in(tx: &Tx, g: &VolumeGroup) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_group (id, project_id, user_id, name, description, status, group_type_id, availability_zone, volume_types, \
         group_snapshot_id, source_group_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, status = excluded.status, \
         volume_types = excluded.volume_types",
        params![
            g.id,
            g.project_id,
            g.user_id,
            g.name,
            g.description,
            g.status,
            g.group_type_id,
            g.zone,
            Value::json(&g.volume_types)?,
            g.group_snapshot_id,
            g.source_group_id,
            g.created_at
        ],
    )
    .map(drop)
}

pub fn group_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_group WHERE id = ?1", params![id]).map(drop)
}

/// The volumes of a group, the oldest first.
pub fn volumes_of_group_in(tx: &Tx, id: &str) -> Result<Vec<Volume>> {
    let sql = format!("SELECT {} FROM volume v WHERE v.group_id = ?1 ORDER BY v.created_at, v.id", super::volumes::COLUMNS);
    tx.query(&sql, params![id], super::volumes::read)
}

pub const SNAPSHOT: &str = "g.id, g.project_id, g.user_id, g.group_id, g.group_type_id, g.name, g.description, g.status, g.created_at";

pub fn read_snapshot(r: &Row) -> Result<GroupSnapshot> {
    Ok(GroupSnapshot {
        id: r.text(0)?,
        project_id: r.text(1)?,
        user_id: r.text(2)?,
        group_id: r.text(3)?,
        group_type_id: r.text(4)?,
        name: r.opt_text(5)?,
        description: r.opt_text(6)?,
        status: r.text(7)?,
        created_at: r.time(8)?,
    })
}

pub fn group_snapshot_not_found(id: &str) -> Error {
    missing("GroupSnapshot", id)
}

/// Held until the transaction ends, as [`group_fetch_in`].
pub fn group_snapshot_fetch_in(tx: &Tx, id: &str) -> Result<Option<GroupSnapshot>> {
    tx.query_opt_locked(&format!("SELECT {SNAPSHOT} FROM volume_group_snapshot g WHERE g.id = ?1"), params![id], read_snapshot)
}

pub fn group_snapshot_put_in(tx: &Tx, g: &GroupSnapshot) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_group_snapshot (id, project_id, user_id, group_id, group_type_id, name, description, status, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO UPDATE SET status = excluded.status",
        params![g.id, g.project_id, g.user_id, g.group_id, g.group_type_id, g.name, g.description, g.status, g.created_at],
    )
    .map(drop)
}

pub fn group_snapshot_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_group_snapshot WHERE id = ?1", params![id]).map(drop)
}

pub fn group_has_snapshots_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM volume_group_snapshot WHERE group_id = ?1 LIMIT 1", params![id], |_| Ok(()))?.is_some())
}
