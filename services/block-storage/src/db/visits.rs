//! Rows of volumes on their way to another host.

use base::Result;
use store::{Tx, params};

pub fn visit_put_in(tx: &Tx, volume_id: &str, host_id: &str) -> Result<()> {
    let sql =
        "INSERT INTO volume_visit (volume_id, host_id) VALUES (?1, ?2) ON CONFLICT (volume_id) DO UPDATE SET host_id = excluded.host_id";
    tx.execute(sql, params![volume_id, host_id]).map(drop)
}

/// The host that a volume goes to.
pub fn visit_fetch_in(tx: &Tx, volume_id: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT host_id FROM volume_visit WHERE volume_id = ?1", params![volume_id], |r| r.text(0))
}

/// The volumes that come to a host.
pub fn visit_list_in(tx: &Tx, host_id: &str) -> Result<Vec<String>> {
    tx.query("SELECT volume_id FROM volume_visit WHERE host_id = ?1 ORDER BY volume_id", params![host_id], |r| r.text(0))
}

pub fn visit_drop_in(tx: &Tx, volume_id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_visit WHERE volume_id = ?1", params![volume_id]).map(drop)
}
