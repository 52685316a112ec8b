//! Secrets in the store, all sealed with the keys of `credential.key_repository`, and what happens when these change. In keystone's steps: a
//! new key becomes primary (`credential_rotate`), then what is stored is sealed with it (`credential_migrate`), and only then comes another one.

use base::{Error, Result};
use store::{Row, Tx, params};

use crate::Identity;
use crate::shared_keys::Repository;
use crate::token::ring::Ring;

/// As many as keystone has: staged, primary, and the one before, with which everything may still be sealed.
const KEYS: usize = 3;
/// Rows that are sealed anew in one transaction.
const BATCH: u64 = 500;

/// Where sealed texts are: table, what names a row as one text, the column, and which rows.
const PLACES: [(&str, &str, &str, &str); 5] = [
    ("credential", "id", "sealed", "1 = 1"),
    ("oauth1_consumer", "id", "sealed", "1 = 1"),
    ("oauth1_request_token", "id", "sealed", "1 = 1"),
    ("oauth1_access_token", "id", "sealed", "1 = 1"),
    ("domain_config", "domain_id || '/' || group_name || '/' || option_name", "value", "sensitive = 1"),
];

impl Identity {
    /// Makes the staged key of stored secrets primary, and stages a new one. `Conflict` while anything is sealed with an older key than the
    /// primary one: it would be lost with that key.
    pub async fn credential_keys_rotate(&self) -> Result<()> {
        self.keys_follow().await?;
        for place in PLACES {
            let mut after = String::new();
            while let Some(rows) = self.0.store.read(|tx| page_in(tx, place, &after)).await? {
                after = check(&self.0.credential_keys, rows)?;
            }
        }
        self.keys_rotate_in(Repository::Credential, KEYS, None).await
    }

    /// Seals every stored secret with the primary key; how many were sealed with another.
    pub async fn credentials_migrate(&self) -> Result<u64> {
        self.keys_follow().await?;
        let mut count = 0;
        for place in PLACES {
            let mut after = String::new();
            loop {
                let (identity, from) = (self.clone(), after.clone());
                let done = self.add(move |tx| migrate_in(tx, &identity.0.credential_keys, place, &from)).await?;
                let Some((last, changed)) = done else { break };
                (after, count) = (last, count + changed);
            }
        }
        Ok(count)
    }
}

type Sealed = (String, String);

/// The next rows; none: there are no more.
fn page_in(tx: &Tx, (table, name, column, which): (&str, &str, &str, &str), after: &str) -> Result<Option<Vec<Sealed>>> {
    let sql = format!("SELECT {name}, {column} FROM {table} WHERE {which} AND {name} > ?1 ORDER BY {name} LIMIT {BATCH}");
    let rows = tx.query(&sql, params![after], |row: &Row| Ok((row.text(0)?, row.text(1)?)))?;
    Ok(Some(rows).filter(|rows| !rows.is_empty()))
}

/// The name of the last one, when all are sealed with the primary key.
fn check(ring: &Ring, rows: Vec<Sealed>) -> Result<String> {
    let keys = ring.keys();
    if !rows.iter().all(|(_, sealed)| keys.is_by_primary(sealed)) {
        let message =
            "Stored secrets are sealed with an older key than the primary one: migrate them first (sturnus identity migrate-credentials).";
        return Err(Error::conflict(message));
    }
    Ok(rows.into_iter().next_back().map(|(name, _)| name).unwrap_or_default())
}

fn migrate_in(tx: &Tx, ring: &Ring, place: (&str, &str, &str, &str), after: &str) -> Result<Option<(String, u64)>> {
    let Some(rows) = page_in(tx, place, after)? else { return Ok(None) };
    let (table, name, column, which) = place;
    let sql = format!("UPDATE {table} SET {column} = ?2 WHERE {which} AND {name} = ?1");
    let (mut last, mut changed) = (String::new(), 0);
    for (row, sealed) in rows {
        if !ring.keys().is_by_primary(&sealed) {
            let lost = || Error::internal(format!("no key in {} opens a secret in {table}", ring.directory().display()));
            let text = ring.open_text(&sealed).ok_or_else(lost)?;
            changed += tx.execute(&sql, params![&row, ring.seal_text(&text)])?;
        }
        last = row;
    }
    Ok(Some((last, changed)))
}
