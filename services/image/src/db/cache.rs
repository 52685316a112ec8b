//! Which images are cached, or shall be.

use base::{Result, Timestamp};
use store::{Dir, Row, Select, Tx, params};

const COLUMNS: &str = "SELECT image_id, cached, size, hits, last_accessed, last_modified FROM image_cache";

#[derive(Clone, Debug)]
pub struct Cached {
    pub image_id: String,
    /// False: it is queued.
    pub cached: bool,
    pub size: u64,
    pub hits: u64,
    pub last_accessed: Timestamp,
    pub last_modified: Timestamp,
}

fn read(row: &Row) -> Result<Cached> {
    Ok(Cached {
        image_id: row.text(0)?,
        cached: row.flag(1)?,
        size: row.count(2)?,
        hits: row.count(3)?,
        last_accessed: row.time(4)?,
        last_modified: row.time(5)?,
    })
}

/// All of them, the one that was not wanted for longest first.
pub fn cache_list(tx: &Tx) -> Result<Vec<Cached>> {
    Select::new(COLUMNS).order(&[("last_accessed", Dir::Asc), ("image_id", Dir::Asc)]).fetch(tx, read)
}

pub fn cache_fetch(tx: &Tx, id: &str) -> Result<Option<Cached>> {
    Ok(Select::new(COLUMNS).eq("image_id", id).limit(1).fetch(tx, read)?.pop())
}

/// One that is cached or queued already stays so.
pub fn cache_queue(tx: &Tx, id: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO image_cache (image_id, cached, size, hits, last_accessed, last_modified) VALUES (?1, 0, 0, 0, ?2, ?2) \
         ON CONFLICT (image_id) DO NOTHING",
        params![id, now],
    )?;
    Ok(())
}

/// One that was queued is cached. Nothing is noted when it is no longer wanted.
pub fn cache_done(tx: &Tx, id: &str, size: u64, now: Timestamp) -> Result<()> {
    let sql = "UPDATE image_cache SET cached = 1, size = ?2, last_accessed = ?3, last_modified = ?3 WHERE image_id = ?1";
    tx.execute(sql, params![id, size, now])?;
    Ok(())
}

/// One is cached, queued before or not. Nothing is noted of an image that is gone.
pub fn cache_put(tx: &Tx, id: &str, size: u64, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO image_cache (image_id, cached, size, hits, last_accessed, last_modified) \
         SELECT id, 1, CAST(?2 AS BIGINT), 0, CAST(?3 AS BIGINT), CAST(?3 AS BIGINT) FROM image WHERE id = ?1 \
         ON CONFLICT (image_id) DO UPDATE SET cached = 1, size = excluded.size, last_accessed = excluded.last_accessed, \
         last_modified = excluded.last_modified",
        params![id, size, now],
    )?;
    Ok(())
}

pub fn cache_hit(tx: &Tx, id: &str, now: Timestamp) -> Result<()> {
    tx.execute("UPDATE image_cache SET hits = hits + 1, last_accessed = ?2 WHERE image_id = ?1 AND cached = 1", params![id, now])?;
    Ok(())
}

pub fn cache_delete(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM image_cache WHERE image_id = ?1", params![id])?;
    Ok(())
}
