//! Guests that must be gone from a host but have not been reported gone: told again whenever the host returns.

use base::{Result, Timestamp};
use store::{Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    pub server_id: String,
    pub generation: u64,
}

pub fn tombstone_put_in(tx: &Tx, host_id: &str, server_id: &str, generation: u64) -> Result<()> {
    tx.execute(
        "INSERT INTO instance_tombstone (host_id, server_id, generation, created_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (host_id, server_id) DO UPDATE SET generation = excluded.generation",
        params![host_id, server_id, generation, Timestamp::now()],
    )?;
    Ok(())
}

/// The host has said that the guest is gone; answers whether anything was waited for.
pub fn tombstone_drop_in(tx: &Tx, host_id: &str, server_id: &str) -> Result<bool> {
    let n = tx.execute("DELETE FROM instance_tombstone WHERE host_id = ?1 AND server_id = ?2", params![host_id, server_id])?;
    Ok(n > 0)
}

pub fn tombstone_list_in(tx: &Tx, host_id: &str) -> Result<Vec<Tombstone>> {
    let sql = "SELECT server_id, generation FROM instance_tombstone WHERE host_id = ?1 ORDER BY server_id";
    tx.query(sql, params![host_id], |r| Ok(Tombstone { server_id: r.text(0)?, generation: r.count(1)? }))
}
