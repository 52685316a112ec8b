//! Tokens that open consoles, by their hash: who reads the database cannot use them.

use base::{Result, Timestamp};
use sha2::{Digest, Sha256};
use store::{Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct ConsoleToken {
    pub server_id: String,
    pub host_id: String,
    /// The host's name.
    pub host: String,
    /// `vnc` or `serial`.
    pub kind: String,
    pub expires_at: Timestamp,
}

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Keeps a token; those that have expired go.
pub fn console_token_put_in(tx: &Tx, token: &str, of: &ConsoleToken) -> Result<()> {
    tx.execute("DELETE FROM console_token WHERE expires_at <= ?1", params![Timestamp::now()])?;
    tx.execute(
        "INSERT INTO console_token (hash, server_id, host_id, host, kind, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![hash(token), &of.server_id, &of.host_id, &of.host, &of.kind, of.expires_at],
    )
    .map(drop)
}

/// What a token opens, while it is good.
pub fn console_token_fetch_in(tx: &Tx, token: &str) -> Result<Option<ConsoleToken>> {
    tx.query_opt(
        "SELECT server_id, host_id, host, kind, expires_at FROM console_token WHERE hash = ?1 AND expires_at > ?2",
        params![hash(token), Timestamp::now()],
        |r| Ok(ConsoleToken { server_id: r.text(0)?, host_id: r.text(1)?, host: r.text(2)?, kind: r.text(3)?, expires_at: r.time(4)? }),
    )
}

/// No token opens a server that is gone, or has left its host.
pub fn console_tokens_drop_in(tx: &Tx, server_id: &str) -> Result<()> {
    tx.execute("DELETE FROM console_token WHERE server_id = ?1", params![server_id]).map(drop)
}
