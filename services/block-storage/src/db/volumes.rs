//! Rows of volumes.

use base::{Error, Result, Timestamp};
use rpc::volume::Stored;
use store::{Row, Tx, Value, params};

use crate::model::Volume;

pub const COLUMNS: &str = "v.id, v.generation, v.project_id, v.user_id, v.display_name, v.display_description, v.status, v.size, \
     v.volume_type_id, v.availability_zone, v.host_id, v.host, v.bootable, v.multiattach, v.snapshot_id, v.source_volid, \
     v.migration_status, v.created_at, v.updated_at, v.spec_generation, v.doc, v.group_id, v.storage";

pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Volume {id} could not be found."))
}

pub fn read(r: &Row) -> Result<Volume> {
    Ok(Volume {
        id: r.text(0)?,
        generation: r.int(1)?,
        project_id: r.text(2)?,
        user_id: r.text(3)?,
        name: r.opt_text(4)?,
        description: r.opt_text(5)?,
        status: r.text(6)?,
        size: r.int(7)?,
        type_id: r.opt_text(8)?,
        zone: r.text(9)?,
        host_id: r.opt_text(10)?,
        host: r.opt_text(11)?,
        bootable: r.flag(12)?,
        multiattach: r.flag(13)?,
        snapshot_id: r.opt_text(14)?,
        source_volid: r.opt_text(15)?,
        migration_status: r.opt_text(16)?,
        created_at: r.time(17)?,
        updated_at: r.time(18)?,
        spec_generation: r.count(19)?,
        doc: r.json(20)?,
        group_id: r.opt_text(21)?,
        storage: r.opt_text(22)?,
    })
}

pub fn volume_fetch_in(tx: &Tx, id: &str) -> Result<Option<Volume>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume v WHERE v.id = ?1"), params![id], read)
}

pub fn volume_get_in(tx: &Tx, id: &str) -> Result<Volume> {
    volume_fetch_in(tx, id)?.ok_or_else(|| not_found(id))
}

pub fn volumes_on_host_in(tx: &Tx, host_id: &str) -> Result<Vec<Volume>> {
    tx.query(&format!("SELECT {COLUMNS} FROM volume v WHERE v.host_id = ?1 ORDER BY v.created_at, v.id"), params![host_id], read)
}

/// A volume that is being made of this one, or of a snapshot of it.
pub fn volume_copied_in(tx: &Tx, id: &str) -> Result<Option<String>> {
    let sql = "SELECT v.id FROM volume v WHERE v.status IN ('creating', 'downloading') AND (v.source_volid = ?1 \
               OR v.snapshot_id IN (SELECT s.id FROM volume_snapshot s WHERE s.volume_id = ?1)) ORDER BY v.id LIMIT 1";
    tx.query_opt(sql, params![id], |r| r.text(0))
}

/// Those that are on a host, or will be made there.
pub fn volumes_placed_in(tx: &Tx) -> Result<Vec<Volume>> {
    tx.query(&format!("SELECT {COLUMNS} FROM volume v WHERE v.host_id IS NOT NULL ORDER BY v.created_at, v.id"), &[], read)
}

/// Those in storage that several hosts see.
pub fn volumes_stored_in(tx: &Tx) -> Result<Vec<Volume>> {
    tx.query(&format!("SELECT {COLUMNS} FROM volume v WHERE v.storage IS NOT NULL ORDER BY v.created_at, v.id"), &[], read)
}

pub fn volume_insert_in(tx: &Tx, volume: &Volume) -> Result<()> {
    tx.execute(
        "INSERT INTO volume (id, generation, project_id, user_id, display_name, display_description, status, size, volume_type_id, \
         availability_zone, host_id, host, bootable, multiattach, snapshot_id, source_volid, migration_status, created_at, updated_at, \
         spec_generation, doc, group_id, storage) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)",
        &values(volume)?,
    )?;
    metadata_put_in(tx, volume)
}

fn values(v: &Volume) -> Result<Vec<Value>> {
    Ok(params![
        v.id,
        v.generation,
        v.project_id,
        v.user_id,
        v.name,
        v.description,
        v.status,
        v.size,
        v.type_id,
        v.zone,
        v.host_id,
        v.host,
        v.bootable,
        v.multiattach,
        v.snapshot_id,
        v.source_volid,
        v.migration_status,
        v.created_at,
        v.updated_at,
        v.spec_generation,
        Value::json(&v.doc)?,
        v.group_id,
        v.storage
    ]
    .to_vec())
}

/// Stores a volume that was read in this transaction or not changed since.
pub fn volume_update_in(tx: &Tx, volume: &mut Volume) -> Result<()> {
    volume.updated_at = Timestamp::now();
    let changed = tx.execute(
        "UPDATE volume SET generation = ?2 + 1, project_id = ?3, user_id = ?4, display_name = ?5, display_description = ?6, status = ?7, \
         size = ?8, volume_type_id = ?9, availability_zone = ?10, host_id = ?11, host = ?12, bootable = ?13, multiattach = ?14, \
         snapshot_id = ?15, source_volid = ?16, migration_status = ?17, created_at = ?18, updated_at = ?19, spec_generation = ?20, \
         doc = ?21, group_id = ?22, storage = ?23 WHERE id = ?1 AND generation = ?2",
        &values(volume)?,
    )?;
    if changed == 0 {
        return Err(Error::conflict(format!("Volume {} has been changed by somebody else.", volume.id)));
    }
    volume.generation += 1;
    metadata_put_in(tx, volume)
}

fn metadata_put_in(tx: &Tx, volume: &Volume) -> Result<()> {
    tx.execute("DELETE FROM volume_metadata WHERE volume_id = ?1", params![volume.id])?;
    for (kind, pairs) in [("user", &volume.doc.metadata), ("image", &volume.doc.image_metadata)] {
        for (name, value) in pairs {
            tx.execute(
                "INSERT INTO volume_metadata (volume_id, kind, name, value) VALUES (?1, ?2, ?3, ?4)",
                params![volume.id, kind, name, value],
            )?;
        }
    }
    Ok(())
}

pub fn volume_delete_in(tx: &Tx, id: &str) -> Result<()> {
    for sql in [
        "DELETE FROM volume_metadata WHERE volume_id = ?1",
        "DELETE FROM volume_attachment WHERE volume_id = ?1",
        "DELETE FROM volume_transfer WHERE volume_id = ?1",
        "DELETE FROM volume_snapshot WHERE volume_id = ?1",
        "DELETE FROM volume_visit WHERE volume_id = ?1",
        "DELETE FROM volume_image WHERE volume_id = ?1",
        "DELETE FROM volume WHERE id = ?1",
    ] {
        tx.execute(sql, params![id])?;
    }
    Ok(())
}

pub fn tombstone_put_in(tx: &Tx, host_id: &str, volume_id: &str, generation: u64) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_tombstone (host_id, volume_id, generation) VALUES (?1, ?2, ?3) \
         ON CONFLICT (host_id, volume_id) DO UPDATE SET generation = excluded.generation",
        params![host_id, volume_id, generation],
    )?;
    Ok(())
}

/// As [`tombstone_put_in`]; its files in shared storage go too.
pub fn tombstone_erase_in(tx: &Tx, host_id: &str, volume: &Volume, generation: u64) -> Result<()> {
    tombstone_put_in(tx, host_id, &volume.id, generation)?;
    let Some(storage) = &volume.storage else { return Ok(()) };
    let stored = Stored { storage: storage.clone(), role: volume.takes() };
    let sql = "UPDATE volume_tombstone SET stored = ?3 WHERE host_id = ?1 AND volume_id = ?2";
    tx.execute(sql, params![host_id, volume.id, Value::json(&stored)?]).map(drop)
}

/// Where the files are that go too.
pub fn tombstone_stored_in(tx: &Tx, host_id: &str, volume_id: &str) -> Result<Option<Stored>> {
    let sql = "SELECT stored FROM volume_tombstone WHERE host_id = ?1 AND volume_id = ?2 AND stored IS NOT NULL";
    tx.query_opt(sql, params![host_id, volume_id], |r| r.json(0))
}

/// The host has said that the volume of this generation is gone.
pub fn tombstone_drop_in(tx: &Tx, host_id: &str, volume_id: &str, generation: u64) -> Result<()> {
    let sql = "DELETE FROM volume_tombstone WHERE host_id = ?1 AND volume_id = ?2 AND generation <= ?3";
    tx.execute(sql, params![host_id, volume_id, generation]).map(drop)
}

/// The generation from which on the volume must be gone, if it must.
pub fn tombstone_fetch_in(tx: &Tx, host_id: &str, volume_id: &str) -> Result<Option<u64>> {
    let sql = "SELECT generation FROM volume_tombstone WHERE host_id = ?1 AND volume_id = ?2";
    tx.query_opt(sql, params![host_id, volume_id], |r| r.count(0))
}

/// The volumes that must be gone from a host.
pub fn tombstone_list_in(tx: &Tx, host_id: &str) -> Result<Vec<String>> {
    tx.query("SELECT volume_id FROM volume_tombstone WHERE host_id = ?1 ORDER BY volume_id", params![host_id], |r| r.text(0))
}
