//! Networks: SQL.

use std::collections::HashMap;

use base::Result;
use store::{Dir, Select, Tx, params};

use crate::networks::Net;
use crate::row::{self, Resource};

pub fn subnet_ids(tx: &Tx, networks: &[String]) -> Result<HashMap<String, Vec<String>>> {
    let mut out: HashMap<String, Vec<String>> = HashMap::new();
    if networks.is_empty() {
        return Ok(out);
    }
    let rows = Select::new("SELECT network_id, id FROM subnet")
        .in_list("network_id", networks.iter().map(String::as_str))
        .order(&[("created_at", Dir::Asc), ("id", Dir::Asc)])
        .fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))?;
    for (network, subnet) in rows {
        out.entry(network).or_default().push(subnet);
    }
    Ok(out)
}

pub fn segment_insert(tx: &Tx, network_type: &str, physical: &str, id: i64, network_id: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO network_segment (network_type, physical_network, segmentation_id, network_id) VALUES (?1, ?2, ?3, ?4)",
        params![network_type, physical, id, network_id],
    )?;
    Ok(())
}

/// The identifier behind the highest in use, or the lowest gap.
pub fn vni_free(tx: &Tx, last: i64) -> Result<Option<i64>> {
    let highest =
        tx.query_one("SELECT MAX(segmentation_id) FROM network_segment WHERE network_type = 'vxlan'", params![], |row| row.opt_int(0))?;
    match highest {
        None => return Ok(Some(1)),
        Some(n) if n < last => return Ok(Some(n + 1)),
        _ => {}
    }
    let first = tx.query_opt(
        "SELECT 1 FROM network_segment WHERE network_type = 'vxlan' AND physical_network = '' AND segmentation_id = 1",
        params![],
        |row| row.int(0),
    )?;
    if first.is_none() {
        return Ok(Some(1));
    }
    tx.query_opt(
        "SELECT a.segmentation_id + 1 FROM network_segment a WHERE a.network_type = 'vxlan' AND a.segmentation_id < ?1 AND NOT EXISTS \
         (SELECT 1 FROM network_segment b WHERE b.network_type = 'vxlan' AND b.segmentation_id = a.segmentation_id + 1) \
         ORDER BY a.segmentation_id LIMIT 1",
        params![last],
        |row| row.int(0),
    )
}

pub fn vlans_used(tx: &Tx, physical: &str) -> Result<Vec<i64>> {
    let sql = "SELECT segmentation_id FROM network_segment WHERE network_type = 'vlan' AND physical_network = ?1";
    tx.query(sql, params![physical], |row| row.int(0))
}

/// Completes a row that was written before its segment was known.
pub fn segment_set(tx: &Tx, item: &Net) -> Result<()> {
    let doc = serde_json::Value::Object(row::object(item)?);
    let sql = "UPDATE network SET provider_physical_network = ?2, provider_segmentation_id = ?3, doc = ?4 WHERE id = ?1";
    tx.execute(sql, params![item.id(), item.physical_network, item.segmentation_id, doc])?;
    Ok(())
}

/// Whether a project other than the owner has ports there.
pub fn used_by_others(tx: &Tx, network_id: &str, owner: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM port WHERE network_id = ?1 AND project_id <> ?2 AND project_id <> '' LIMIT 1";
    Ok(tx.query_opt(sql, params![network_id, owner], |row| row.int(0))?.is_some())
}

pub fn default_id(tx: &Tx) -> Result<Option<String>> {
    tx.query_opt("SELECT id FROM network WHERE is_default = 1 LIMIT 1", params![], |row| row.text(0))
}
