//! The public keys of all controllers of a database: who is there says which are its own, and is believed for as long as its tokens may be good.

use std::time::Duration;

use base::{Result, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use store::{Tx, params};

const REPOSITORY: &str = "jws";

/// How often a controller says so again.
pub const RENEW: Duration = Duration::from_secs(3600);

struct Stored {
    name: String,
    text: String,
    said_at: Timestamp,
}

fn rows_in(tx: &Tx) -> Result<Vec<Stored>> {
    let sql = "SELECT name, sealed, made_at FROM shared_key WHERE repository = ?1 ORDER BY name";
    tx.query(sql, params![REPOSITORY], |row| Ok(Stored { name: row.text(0)?, text: row.text(1)?, said_at: row.time(2)? }))
}

fn name(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

/// All of them; `None` when [`publish_in`] has something to do first.
pub fn public_keys_in(tx: &Tx, own: &[String], keep: Duration) -> Result<Option<Vec<String>>> {
    let (rows, now) = (rows_in(tx)?, Timestamp::now());
    let said = |text: &String| rows.iter().any(|row| row.text == *text && now < row.said_at.plus(RENEW));
    let over = |row: &Stored| row.said_at.plus(keep) < now;
    if !own.iter().all(said) || rows.iter().any(over) {
        return Ok(None);
    }
    Ok(Some(rows.into_iter().map(|row| row.text).collect()))
}

/// Says which keys are our own, and forgets those that nobody called their own for so long; whether the others have to look.
pub fn publish_in(tx: &Tx, own: &[String], keep: Duration) -> Result<bool> {
    tx.lock("identity.keys")?;
    let (before, now) = (rows_in(tx)?, Timestamp::now());
    for text in own {
        tx.execute(
            "INSERT INTO shared_key (repository, name, sealed, digest, made_at) VALUES (?1, ?2, ?3, ?2, ?4) \
             ON CONFLICT (repository, name) DO UPDATE SET sealed = excluded.sealed, made_at = excluded.made_at",
            params![REPOSITORY, name(text), text, now],
        )?;
    }
    let over: Vec<_> = before.iter().filter(|row| row.said_at.plus(keep) < now && !own.contains(&row.text)).collect();
    for row in &over {
        tx.execute("DELETE FROM shared_key WHERE repository = ?1 AND name = ?2", params![REPOSITORY, &row.name])?;
    }
    Ok(!over.is_empty() || !own.iter().all(|text| before.iter().any(|row| row.text == *text)))
}
