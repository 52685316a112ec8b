//! Compute nodes: one a host, with the service that runs on it.

use std::collections::HashMap;

use base::{Result, Timestamp};
use rpc::message::HostInfo;
use store::{Row, Tx, params};

/// A host as the scheduler and the administrators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The host's own id; also of its hypervisor and its placement provider.
    pub id: String,
    /// The integer id of hypervisor and service before versions 2.53.
    pub number: i64,
    pub service_id: String,
    pub name: String,
    pub info: HostInfo,
    pub connected: bool,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub forced_down: bool,
    /// It answers no pulses, whatever its session looks like.
    pub lost: bool,
    /// It is locked: none of its servers is started.
    pub resting: bool,
    /// It is certain that it has stopped the guests that may run elsewhere, and it has not been admitted since.
    pub fenced: bool,
    pub created_at: Timestamp,
    /// When the host was last heard.
    pub updated_at: Timestamp,
    /// When an administrator last changed the service.
    pub service_updated_at: Option<Timestamp>,
    /// The state that was logged last ([`crate::host_logs`]); empty: none yet.
    pub told: String,
}

impl Node {
    /// `up` or `down`.
    pub fn is_up(&self) -> bool {
        self.connected && !self.forced_down && !self.lost
    }
}

const COLUMNS: &str = "id, number, service_id, name, info, connected, disabled, disabled_reason, forced_down, created_at, updated_at, service_updated_at, lost, \
     resting, told, fenced";

fn node_row(r: &Row) -> Result<Node> {
    Ok(Node {
        id: r.text(0)?,
        number: r.int(1)?,
        service_id: r.text(2)?,
        name: r.text(3)?,
        info: r.json(4)?,
        connected: r.flag(5)?,
        disabled: r.flag(6)?,
        disabled_reason: r.opt_text(7)?,
        forced_down: r.flag(8)?,
        created_at: r.time(9)?,
        updated_at: r.time(10)?,
        service_updated_at: r.opt_time(11)?,
        lost: r.flag(12)?,
        resting: r.flag(13)?,
        told: r.text(14)?,
        fenced: r.flag(15)?,
    })
}

pub fn node_list_in(tx: &Tx) -> Result<Vec<Node>> {
    tx.query(&format!("SELECT {COLUMNS} FROM compute_node ORDER BY number"), &[], node_row)
}

pub fn node_fetch_in(tx: &Tx, id: &str) -> Result<Option<Node>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM compute_node WHERE id = ?1"), params![id], node_row)
}

pub fn node_by_name_in(tx: &Tx, name: &str) -> Result<Option<Node>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM compute_node WHERE name = ?1"), params![name], node_row)
}

/// Takes in what a host says of itself. A host that took the name of one that is gone replaces it.
pub fn node_put_in(tx: &Tx, info: &HostInfo) -> Result<()> {
    let now = Timestamp::now();
    let text = store::Value::json(info)?;
    let changed = tx.execute(
        "UPDATE compute_node SET name = ?2, info = ?3, connected = 1, updated_at = ?4 WHERE id = ?1",
        params![&info.id, &info.name, &text, now],
    )?;
    if changed == 0 {
        tx.execute("DELETE FROM compute_node WHERE name = ?1 AND connected = 0", params![&info.name])?;
        let number = tx.query_one("SELECT COALESCE(MAX(number), 0) + 1 FROM compute_node", &[], |r| r.int(0))?;
        tx.execute(
            "INSERT INTO compute_node (id, number, service_id, name, info, connected, disabled, disabled_reason, forced_down, created_at, \
             updated_at, service_updated_at) VALUES (?1, ?2, ?3, ?4, ?5, 1, 0, NULL, 0, ?6, ?6, NULL)",
            params![&info.id, number, base::id::uuid(), &info.name, &text, now],
        )?;
    }
    Ok(())
}

pub fn node_disconnected_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE compute_node SET connected = 0, updated_at = ?2 WHERE id = ?1", params![id, Timestamp::now()])?;
    Ok(())
}

pub fn node_lost_in(tx: &Tx, id: &str, lost: bool) -> Result<()> {
    tx.execute("UPDATE compute_node SET lost = ?2 WHERE id = ?1", params![id, lost]).map(drop)
}

pub fn node_fenced_in(tx: &Tx, id: &str, fenced: bool) -> Result<()> {
    tx.execute("UPDATE compute_node SET fenced = ?2 WHERE id = ?1", params![id, fenced]).map(drop)
}

/// Whether the host is locked.
pub fn node_resting_in(tx: &Tx, id: &str, resting: bool) -> Result<()> {
    tx.execute("UPDATE compute_node SET resting = ?2 WHERE id = ?1", params![id, resting]).map(drop)
}

pub fn node_told_in(tx: &Tx, id: &str, told: &str) -> Result<()> {
    tx.execute("UPDATE compute_node SET told = ?2 WHERE id = ?1", params![id, told]).map(drop)
}

/// Nobody is connected to a controller that has just started.
pub fn nodes_all_disconnected_in(tx: &Tx) -> Result<()> {
    tx.execute("UPDATE compute_node SET connected = 0 WHERE connected = 1", &[])?;
    Ok(())
}

/// Zone of every host that an aggregate with one holds.
pub fn zones_in(tx: &Tx) -> Result<HashMap<String, String>> {
    let rows = tx.query(
        "SELECT h.host, a.availability_zone FROM aggregate_host h JOIN aggregate a ON a.number = h.number WHERE a.availability_zone IS NOT NULL",
        &[],
        |r| Ok((r.text(0)?, r.text(1)?)),
    )?;
    Ok(rows.into_iter().collect())
}

/// The zone of hosts that are in none.
pub const DEFAULT_ZONE: &str = "nova";
