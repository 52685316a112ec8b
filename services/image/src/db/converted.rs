//! What has been made of content that hosts can lay no disk over.

use base::Result;
use serde::{Deserialize, Serialize};
use store::{Tx, params};

/// A disk of other content, as qcow2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    pub sha256: String,
    /// In bytes.
    pub virtual_size: u64,
}

pub fn converted_fetch(tx: &Tx, source: &str) -> Result<Option<Converted>> {
    tx.query_opt("SELECT sha256, virtual_size FROM image_converted WHERE source = ?1", params![source], |row| {
        Ok(Converted { sha256: row.text(0)?, virtual_size: row.count(1)? })
    })
}

/// Notes what has been made; false when no image has its source any more.
pub fn converted_put(tx: &Tx, source: &str, made: &Converted) -> Result<bool> {
    let wanted = tx.query_one("SELECT COUNT(*) FROM image WHERE sha256 = ?1", params![source], |row| Ok(row.count(0)? > 0))?;
    if wanted {
        tx.execute(
            "INSERT INTO image_converted (source, sha256, virtual_size) VALUES (?1, ?2, ?3) \
             ON CONFLICT (source) DO UPDATE SET sha256 = excluded.sha256, virtual_size = excluded.virtual_size",
            params![source, made.sha256, made.virtual_size],
        )?;
    }
    Ok(wanted)
}

/// Of which no image has the content any more that it was made of.
const ORPHANED: &str = "NOT EXISTS (SELECT 1 FROM image WHERE image.sha256 = image_converted.source)";

pub fn is_any_orphaned(tx: &Tx) -> Result<bool> {
    tx.query_one(&format!("SELECT COUNT(*) FROM image_converted WHERE {ORPHANED}"), &[], |row| Ok(row.count(0)? > 0))
}

pub fn orphans_forget(tx: &Tx) -> Result<()> {
    tx.execute(&format!("DELETE FROM image_converted WHERE {ORPHANED}"), &[]).map(drop)
}

/// Whether this has been made of any image's content.
pub fn is_converted(tx: &Tx, sha256: &str) -> Result<bool> {
    tx.query_one("SELECT COUNT(*) FROM image_converted WHERE sha256 = ?1", params![sha256], |row| Ok(row.count(0)? > 0))
}

/// All that has been made.
pub fn converted_list(tx: &Tx) -> Result<Vec<String>> {
    tx.query("SELECT sha256 FROM image_converted", &[], |row| row.text(0))
}
