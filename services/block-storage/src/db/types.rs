//! Rows of volume types and qos specs.

use std::collections::BTreeMap;

use base::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Row, Tx, Value, params};

#[derive(Clone, Debug)]
pub struct VolumeType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub qos_specs_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub doc: TypeDoc,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TypeDoc {
    pub extra_specs: BTreeMap<String, String>,
    pub encryption: Option<Encryption>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Encryption {
    pub encryption_id: String,
    pub provider: String,
    pub control_location: String,
    pub cipher: Option<String>,
    pub key_size: Option<i64>,
    pub created_at: Timestamp,
}

const COLUMNS: &str = "id, name, description, is_public, qos_specs_id, created_at, updated_at, doc";

pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Volume type {id} could not be found."))
}

fn read(r: &Row) -> Result<VolumeType> {
    Ok(VolumeType {
        id: r.text(0)?,
        name: r.text(1)?,
        description: r.opt_text(2)?,
        is_public: r.flag(3)?,
        qos_specs_id: r.opt_text(4)?,
        created_at: r.time(5)?,
        updated_at: r.time(6)?,
        doc: r.json(7)?,
    })
}

pub fn type_list_in(tx: &Tx) -> Result<Vec<VolumeType>> {
    tx.query(&format!("SELECT {COLUMNS} FROM volume_type ORDER BY created_at DESC, id DESC"), &[], read)
}

pub fn type_fetch_in(tx: &Tx, id: &str) -> Result<Option<VolumeType>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_type WHERE id = ?1"), params![id], read)
}

pub fn type_by_name_in(tx: &Tx, name: &str) -> Result<Option<VolumeType>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_type WHERE name = ?1"), params![name], read)
}

pub fn type_put_in(tx: &Tx, t: &VolumeType) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_type (id, name, description, is_public, qos_specs_id, created_at, updated_at, doc) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
         description = excluded.description, is_public = excluded.is_public, qos_specs_id = excluded.qos_specs_id, \
         updated_at = excluded.updated_at, doc = excluded.doc",
        params![t.id, t.name, t.description, t.is_public, t.qos_specs_id, t.created_at, t.updated_at, Value::json(&t.doc)?],
    )?;
    Ok(())
}

pub fn type_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_type_access WHERE type_id = ?1", params![id])?;
    tx.execute("DELETE FROM volume_type WHERE id = ?1", params![id]).map(drop)
}

pub fn type_used_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM volume WHERE volume_type_id = ?1 LIMIT 1", params![id], |_| Ok(()))?.is_some())
}

pub fn access_list_in(tx: &Tx, id: &str) -> Result<Vec<String>> {
    tx.query("SELECT project_id FROM volume_type_access WHERE type_id = ?1 ORDER BY project_id", params![id], |r| r.text(0))
}

pub fn access_add_in(tx: &Tx, id: &str, project: &str) -> Result<()> {
    tx.execute("INSERT INTO volume_type_access (type_id, project_id) VALUES (?1, ?2)", params![id, project]).map(drop)
}

pub fn access_remove_in(tx: &Tx, id: &str, project: &str) -> Result<bool> {
    Ok(tx.execute("DELETE FROM volume_type_access WHERE type_id = ?1 AND project_id = ?2", params![id, project])? > 0)
}

#[derive(Clone, Debug)]
pub struct Qos {
    pub id: String,
    pub name: String,
    pub consumer: String,
    pub specs: BTreeMap<String, String>,
    pub created_at: Timestamp,
}

fn read_qos(r: &Row) -> Result<Qos> {
    Ok(Qos { id: r.text(0)?, name: r.text(1)?, consumer: r.text(2)?, specs: r.json(3)?, created_at: r.time(4)? })
}

const QOS: &str = "SELECT id, name, consumer, specs, created_at FROM volume_qos";

pub fn qos_list_in(tx: &Tx) -> Result<Vec<Qos>> {
    tx.query(&format!("{QOS} ORDER BY created_at, id"), &[], read_qos)
}

pub fn qos_fetch_in(tx: &Tx, id: &str) -> Result<Qos> {
    let missing = || Error::new(base::Kind::NotFound, format!("No such qos_specs {id}."));
    tx.query_opt(&format!("{QOS} WHERE id = ?1"), params![id], read_qos)?.ok_or_else(missing)
}

pub fn qos_put_in(tx: &Tx, q: &Qos) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_qos (id, name, consumer, specs, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET consumer = excluded.consumer, specs = excluded.specs",
        params![q.id, q.name, q.consumer, Value::json(&q.specs)?, q.created_at],
    )?;
    Ok(())
}

pub fn qos_delete_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE volume_type SET qos_specs_id = NULL WHERE qos_specs_id = ?1", params![id])?;
    tx.execute("DELETE FROM volume_qos WHERE id = ?1", params![id]).map(drop)
}
