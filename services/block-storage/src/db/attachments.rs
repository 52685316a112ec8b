//! Rows of attachments.

use std::collections::BTreeMap;

use base::{Error, Result};
use store::{Row, Select, Tx, Value, params};

use crate::model::{Attachment, Volume};

pub const COLUMNS: &str = "a.id, a.volume_id, a.project_id, a.instance_uuid, a.attached_host, a.mountpoint, a.attach_mode, a.attach_status, \
     a.attached_at, a.created_at, a.doc";

pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Volume attachment could not be found with filter: attachment_id = {id}."))
}

pub fn read(r: &Row) -> Result<Attachment> {
    Ok(Attachment {
        id: r.text(0)?,
        volume_id: r.text(1)?,
        project_id: r.text(2)?,
        server_id: r.opt_text(3)?,
        host: r.opt_text(4)?,
        mountpoint: r.opt_text(5)?,
        mode: r.text(6)?,
        status: r.text(7)?,
        attached_at: r.opt_time(8)?,
        created_at: r.time(9)?,
        doc: r.json(10)?,
    })
}

pub fn attachment_fetch_in(tx: &Tx, id: &str) -> Result<Option<Attachment>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_attachment a WHERE a.id = ?1"), params![id], read)
}

pub fn attachments_of_in(tx: &Tx, volume_id: &str) -> Result<Vec<Attachment>> {
    tx.query(
        &format!("SELECT {COLUMNS} FROM volume_attachment a WHERE a.volume_id = ?1 ORDER BY a.created_at, a.id"),
        params![volume_id],
        read,
    )
}

/// By volume, of several at once.
pub fn attachments_of_all_in(tx: &Tx, volumes: &[Volume]) -> Result<BTreeMap<String, Vec<Attachment>>> {
    let ids: Vec<&str> = volumes.iter().map(|v| v.id.as_str()).collect();
    let rows = Select::new(format!("SELECT {COLUMNS} FROM volume_attachment a")).in_list("a.volume_id", ids).fetch(tx, read)?;
    let mut all: BTreeMap<String, Vec<Attachment>> = BTreeMap::new();
    for a in rows {
        all.entry(a.volume_id.clone()).or_default().push(a);
    }
    Ok(all)
}

pub fn attachments_of_server_in(tx: &Tx, server_id: &str) -> Result<Vec<Attachment>> {
    tx.query(
        &format!("SELECT {COLUMNS} FROM volume_attachment a WHERE a.instance_uuid = ?1 ORDER BY a.created_at, a.id"),
        params![server_id],
        read,
    )
}

pub fn attachment_put_in(tx: &Tx, a: &Attachment) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_attachment (id, volume_id, project_id, instance_uuid, attached_host, mountpoint, attach_mode, attach_status, \
         attached_at, created_at, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO UPDATE SET \
         instance_uuid = excluded.instance_uuid, attached_host = excluded.attached_host, mountpoint = excluded.mountpoint, \
         attach_mode = excluded.attach_mode, attach_status = excluded.attach_status, attached_at = excluded.attached_at, doc = excluded.doc",
        params![
            a.id,
            a.volume_id,
            a.project_id,
            a.server_id,
            a.host,
            a.mountpoint,
            a.mode,
            a.status,
            a.attached_at,
            a.created_at,
            Value::json(&a.doc)?
        ],
    )?;
    Ok(())
}

pub fn attachment_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_attachment WHERE id = ?1", params![id]).map(drop)
}
