//! Security groups: SQL.

use base::Result;
use store::{Tx, params};

use crate::ports::Port;
use crate::row::Resource;

pub fn default_id(tx: &Tx, project: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT security_group_id FROM security_group_default WHERE project_id = ?1", params![project], |row| row.text(0))
}

pub fn default_set(tx: &Tx, project: &str, group: &str) -> Result<()> {
    tx.execute("INSERT INTO security_group_default (project_id, security_group_id) VALUES (?1, ?2)", params![project, group])?;
    Ok(())
}

pub fn has_ports(tx: &Tx, group: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM port_security_group WHERE security_group_id = ?1 LIMIT 1";
    Ok(tx.query_opt(sql, params![group], |row| row.int(0))?.is_some())
}

/// Writes down the groups of a port, and with each the host it is bound to.
pub fn bind(tx: &Tx, port: &Port) -> Result<()> {
    tx.execute("DELETE FROM port_security_group WHERE port_id = ?1", params![port.id()])?;
    for group in &port.security_groups {
        tx.execute(
            "INSERT INTO port_security_group (port_id, security_group_id, _host) VALUES (?1, ?2, ?3)",
            params![port.id(), group, &port.host],
        )?;
    }
    Ok(())
}

pub fn host_set(tx: &Tx, port: &str, host: &str) -> Result<()> {
    tx.execute("UPDATE port_security_group SET _host = ?2 WHERE port_id = ?1 AND _host <> ?2", params![port, host])?;
    Ok(())
}
