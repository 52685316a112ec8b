//! Ports: SQL.

use base::Result;
use store::{Select, Tx, params};

use crate::ports::Port;
use crate::row::{self, Resource};

/// Completes a row that was written before its addresses were known.
pub fn doc_set(tx: &Tx, port: &Port) -> Result<()> {
    let doc = serde_json::Value::Object(row::object(port)?);
    tx.execute("UPDATE port SET doc = ?2 WHERE id = ?1", params![port.id(), doc])?;
    Ok(())
}

pub fn any_of_owner(tx: &Tx, network_id: &str, owners: &[&str]) -> Result<bool> {
    let found = Select::new("SELECT 1 FROM port")
        .eq("network_id", network_id)
        .in_list("device_owner", owners.iter().copied())
        .limit(1)
        .fetch(tx, |row| row.int(0))?;
    Ok(!found.is_empty())
}

pub fn owner(tx: &Tx, id: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT device_owner FROM port WHERE id = ?1", params![id], |row| row.text(0))
}

/// Ports with an address in a subnet.
pub fn with_subnet(tx: &Tx, subnet_id: &str) -> Result<Vec<Port>> {
    row::list(tx, "id IN (SELECT port_id FROM ip_allocation WHERE subnet_id = ?1)", params![subnet_id])
}

pub fn mac_taken(tx: &Tx, network_id: &str, mac: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM port WHERE network_id = ?1 AND mac_address = ?2";
    Ok(tx.query_opt(sql, params![network_id, mac], |row| row.int(0))?.is_some())
}

pub fn of_device(tx: &Tx, device_id: &str) -> Result<Vec<Port>> {
    row::list(tx, "device_id = ?1", params![device_id])
}

/// Id of the host of that name.
pub fn host_named(tx: &Tx, name: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT id FROM network_host WHERE name = ?1 LIMIT 1", params![name], |row| row.text(0))
}

pub fn allocation_drop(tx: &Tx, port_id: &str, subnet_id: &str) -> Result<()> {
    tx.execute("DELETE FROM ip_allocation WHERE port_id = ?1 AND subnet_id = ?2", params![port_id, subnet_id])?;
    Ok(())
}
