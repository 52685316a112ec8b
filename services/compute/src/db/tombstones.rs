//! Guests that must be gone from a host but have not been reported gone: told again whenever the host returns.

use base::{Result, Timestamp};
use store::{Tx, params};

pub fn tombstone_put_in(tx: &Tx, host_id: &str, server_id: &str, generation: u64) -> Result<()> {
    tx.execute(
        "INSERT INTO instance_tombstone (host_id, server_id, generation, created_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (host_id, server_id) DO UPDATE SET generation = excluded.generation",
        params![host_id, server_id, generation, Timestamp::now()],
    )?;
    Ok(())
}

/// The host has said that the guest of this generation is gone; answers whether that was waited for.
pub fn tombstone_drop_in(tx: &Tx, host_id: &str, server_id: &str, generation: u64) -> Result<bool> {
    let sql = "DELETE FROM instance_tombstone WHERE host_id = ?1 AND server_id = ?2 AND generation <= ?3";
    Ok(tx.execute(sql, params![host_id, server_id, generation])? > 0)
}

/// The generation from which on the guest must be gone, if it must.
pub fn tombstone_fetch_in(tx: &Tx, host_id: &str, server_id: &str) -> Result<Option<u64>> {
    let sql = "SELECT generation FROM instance_tombstone WHERE host_id = ?1 AND server_id = ?2";
    tx.query_opt(sql, params![host_id, server_id], |r| r.count(0))
}

/// The servers whose guests must be gone from a host.
pub fn tombstone_list_in(tx: &Tx, host_id: &str) -> Result<Vec<String>> {
    tx.query("SELECT server_id FROM instance_tombstone WHERE host_id = ?1 ORDER BY server_id", params![host_id], |r| r.text(0))
}
