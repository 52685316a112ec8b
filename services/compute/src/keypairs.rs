//! Keypairs: public keys that guests let in.

use base::{Result, Timestamp};
use store::{Row, Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct Keypair {
    pub user_id: String,
    pub name: String,
    pub number: i64,
    /// `ssh` or `x509`.
    pub kind: String,
    pub fingerprint: String,
    pub public_key: String,
    pub created_at: Timestamp,
}

/// The columns [`keypair_row`] reads, in order.
pub const KEYPAIR_COLUMNS: &str = "user_id, name, number, type, fingerprint, public_key, created_at";

pub fn keypair_row(row: &Row) -> Result<Keypair> {
    Ok(Keypair {
        user_id: row.text(0)?,
        name: row.text(1)?,
        number: row.int(2)?,
        kind: row.text(3)?,
        fingerprint: row.text(4)?,
        public_key: row.text(5)?,
        created_at: row.time(6)?,
    })
}

pub fn keypair_fetch_in(tx: &Tx, user_id: &str, name: &str) -> Result<Option<Keypair>> {
    let sql = format!("SELECT {KEYPAIR_COLUMNS} FROM keypair WHERE user_id = ?1 AND name = ?2");
    tx.query_opt(&sql, params![user_id, name], keypair_row)
}
