//! Guests of which their host has confirmed that they run there only as long as the host has its lease: those and no others may be
//! started elsewhere when the host is lost.

use std::collections::HashSet;

use base::Result;
use store::{Tx, params};

pub fn lease_put_in(tx: &Tx, host_id: &str, server_id: &str) -> Result<()> {
    let sql =
        "INSERT INTO guest_lease (server_id, host_id) VALUES (?1, ?2) ON CONFLICT (server_id) DO UPDATE SET host_id = excluded.host_id";
    tx.execute(sql, params![server_id, host_id]).map(drop)
}

pub fn lease_drop_in(tx: &Tx, server_id: &str) -> Result<()> {
    tx.execute("DELETE FROM guest_lease WHERE server_id = ?1", params![server_id]).map(drop)
}

pub fn lease_is_in(tx: &Tx, host_id: &str, server_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM guest_lease WHERE server_id = ?1 AND host_id = ?2";
    Ok(tx.query_opt(sql, params![server_id, host_id], |r| r.int(0))?.is_some())
}

pub fn leases_of_in(tx: &Tx, host_id: &str) -> Result<HashSet<String>> {
    Ok(tx.query("SELECT server_id FROM guest_lease WHERE host_id = ?1", params![host_id], |r| r.text(0))?.into_iter().collect())
}
