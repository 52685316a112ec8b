//! Quotas: SQL.

use base::Result;
use store::{Tx, params};

pub fn of_project(tx: &Tx, project: &str) -> Result<Vec<(String, i64)>> {
    tx.query("SELECT resource, quota FROM network_quota WHERE project_id = ?1", params![project], |row| Ok((row.text(0)?, row.int(1)?)))
}

/// Projects with limits of their own.
pub fn projects(tx: &Tx) -> Result<Vec<String>> {
    tx.query("SELECT DISTINCT project_id FROM network_quota ORDER BY project_id", params![], |row| row.text(0))
}

pub fn set(tx: &Tx, project: &str, resource: &str, quota: i64) -> Result<()> {
    tx.execute(
        "INSERT INTO network_quota (project_id, resource, quota) VALUES (?1, ?2, ?3) \
         ON CONFLICT (project_id, resource) DO UPDATE SET quota = excluded.quota",
        params![project, resource, quota],
    )?;
    Ok(())
}

/// How many limits were taken back.
pub fn clear(tx: &Tx, project: &str) -> Result<u64> {
    tx.execute("DELETE FROM network_quota WHERE project_id = ?1", params![project])
}

/// `table` is one of this service's, never a client's text.
pub fn used(tx: &Tx, table: &str, project: &str) -> Result<i64> {
    tx.query_one(&format!("SELECT COUNT(*) FROM {table} WHERE project_id = ?1"), params![project], |row| row.int(0))
}
