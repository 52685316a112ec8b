//! Rows of snapshots.

use base::{Error, Result, Timestamp};
use store::{Row, Tx, Value, params};

use crate::model::Snapshot;

pub const COLUMNS: &str = "s.id, s.generation, s.volume_id, s.project_id, s.user_id, s.display_name, s.display_description, s.status, s.size, \
     s.progress, s.created_at, s.updated_at, s.doc, s.group_snapshot_id";

pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Snapshot {id} could not be found."))
}

pub fn read(r: &Row) -> Result<Snapshot> {
    Ok(Snapshot {
        id: r.text(0)?,
        generation: r.int(1)?,
        volume_id: r.text(2)?,
        project_id: r.text(3)?,
        user_id: r.text(4)?,
        name: r.opt_text(5)?,
        description: r.opt_text(6)?,
        status: r.text(7)?,
        size: r.int(8)?,
        progress: r.text(9)?,
        created_at: r.time(10)?,
        updated_at: r.time(11)?,
        doc: r.json(12)?,
        group_snapshot_id: r.opt_text(13)?,
    })
}

pub fn snapshot_fetch_in(tx: &Tx, id: &str) -> Result<Option<Snapshot>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_snapshot s WHERE s.id = ?1"), params![id], read)
}

/// Of one volume, the newest last.
pub fn snapshots_of_in(tx: &Tx, volume_id: &str) -> Result<Vec<Snapshot>> {
    tx.query(
        &format!("SELECT {COLUMNS} FROM volume_snapshot s WHERE s.volume_id = ?1 ORDER BY s.created_at, s.id"),
        params![volume_id],
        read,
    )
}

/// GiB of all snapshots of a volume that are there, or may be.
pub fn snapshots_size_in(tx: &Tx, volume_id: &str) -> Result<i64> {
    let sql = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM volume_snapshot WHERE volume_id = ?1 AND status <> 'error'";
    tx.query_one(sql, params![volume_id], |r| r.int(0))
}

fn values(s: &Snapshot) -> Result<Vec<Value>> {
    Ok(params![
        s.id,
        s.generation,
        s.volume_id,
        s.project_id,
        s.user_id,
        s.name,
        s.description,
        s.status,
        s.size,
        s.progress,
        s.created_at,
        s.updated_at,
        Value::json(&s.doc)?,
        s.group_snapshot_id
    ]
    .to_vec())
}

pub fn snapshot_insert_in(tx: &Tx, snapshot: &Snapshot) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_snapshot (id, generation, volume_id, project_id, user_id, display_name, display_description, status, size, \
         progress, created_at, updated_at, doc, group_snapshot_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        &values(snapshot)?,
    )?;
    Ok(())
}

pub fn snapshot_update_in(tx: &Tx, snapshot: &mut Snapshot) -> Result<()> {
    snapshot.updated_at = Timestamp::now();
    let changed = tx.execute(
        "UPDATE volume_snapshot SET generation = ?2 + 1, volume_id = ?3, project_id = ?4, user_id = ?5, display_name = ?6, \
         display_description = ?7, status = ?8, size = ?9, progress = ?10, created_at = ?11, updated_at = ?12, doc = ?13, \
         group_snapshot_id = ?14 WHERE id = ?1 AND generation = ?2",
        &values(snapshot)?,
    )?;
    if changed == 0 {
        return Err(Error::conflict(format!("Snapshot {} has been changed by somebody else.", snapshot.id)));
    }
    snapshot.generation += 1;
    Ok(())
}

/// Those that were taken together.
pub fn snapshots_of_group_in(tx: &Tx, group_snapshot_id: &str) -> Result<Vec<Snapshot>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_snapshot s WHERE s.group_snapshot_id = ?1 ORDER BY s.created_at, s.id");
    tx.query(&sql, params![group_snapshot_id], read)
}

pub fn snapshot_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_snapshot WHERE id = ?1", params![id]).map(drop)
}
