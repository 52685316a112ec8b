//! Hosts that keep volumes.

use base::{Result, Timestamp};
use rpc::message::HostInfo;
use store::{Row, Tx, Value, params};

use crate::capabilities::Pool;

#[derive(Clone, Debug)]
pub struct Host {
    pub id: String,
    pub name: String,
    pub connected: bool,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub frozen: bool,
    /// It is certain that it has ended the guests that may run elsewhere.
    pub fenced: bool,
    pub info: HostInfo,
    pub updated_at: Timestamp,
}

const COLUMNS: &str = "id, name, connected, disabled, disabled_reason, info, updated_at, frozen, fenced";

fn read(r: &Row) -> Result<Host> {
    Ok(Host {
        id: r.text(0)?,
        name: r.text(1)?,
        connected: r.flag(2)?,
        disabled: r.flag(3)?,
        disabled_reason: r.opt_text(4)?,
        info: r.json(5)?,
        updated_at: r.time(6)?,
        frozen: r.flag(7)?,
        fenced: r.flag(8)?,
    })
}

pub fn host_list_in(tx: &Tx) -> Result<Vec<Host>> {
    tx.query(&format!("SELECT {COLUMNS} FROM volume_host ORDER BY name"), &[], read)
}

pub fn host_fetch_in(tx: &Tx, id: &str) -> Result<Option<Host>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_host WHERE id = ?1"), params![id], read)
}

pub fn host_fence_in(tx: &Tx, id: &str, fenced: bool) -> Result<()> {
    tx.execute("UPDATE volume_host SET fenced = ?2 WHERE id = ?1", params![id, fenced]).map(drop)
}

pub fn host_put_in(tx: &Tx, info: &HostInfo) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_host (id, name, connected, disabled, disabled_reason, info, updated_at) VALUES (?1, ?2, 1, 0, NULL, ?3, ?4) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, connected = 1, info = excluded.info, updated_at = excluded.updated_at",
        params![info.id, info.name, Value::json(info)?, Timestamp::now()],
    )?;
    Ok(())
}

pub fn host_disconnected_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE volume_host SET connected = 0 WHERE id = ?1", params![id]).map(drop)
}

pub fn hosts_all_disconnected_in(tx: &Tx) -> Result<()> {
    tx.execute("UPDATE volume_host SET connected = 0", &[]).map(drop)
}

pub fn host_disable_in(tx: &Tx, name: &str, disabled: bool, reason: Option<&str>) -> Result<bool> {
    let sql = "UPDATE volume_host SET disabled = ?2, disabled_reason = ?3, updated_at = ?4 WHERE name = ?1";
    Ok(tx.execute(sql, params![name, disabled, reason.map(str::to_string), Timestamp::now()])? > 0)
}

pub fn host_freeze_in(tx: &Tx, name: &str, frozen: bool) -> Result<bool> {
    Ok(tx.execute("UPDATE volume_host SET frozen = ?2 WHERE name = ?1", params![name, frozen])? > 0)
}

/// The name of a host that keeps what it has, if this is one.
pub fn host_frozen_in(tx: &Tx, id: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT name FROM volume_host WHERE id = ?1 AND frozen = 1", params![id], |r| r.text(0))
}

/// How many volumes are on the disk of a host, or in storage that several hosts see, and their GiB.
pub fn allocated_in(tx: &Tx, pool: &Pool) -> Result<(i64, i64)> {
    let (which, id) = match pool.storage() {
        Some(storage) => ("storage = ?1", storage),
        None => ("host_id = ?1 AND storage IS NULL", pool.host.id.as_str()),
    };
    let sql = format!("SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM volume WHERE {which}");
    tx.query_one(&sql, params![id], |r| Ok((r.int(0)?, r.int(1)?)))
}
