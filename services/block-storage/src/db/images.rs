//! Rows of volumes that hold images.

use base::Result;
use store::{Row, Tx, Value, params};

/// A volume that holds an image, or is being filled with one.
#[derive(Clone, Debug)]
pub struct VolumeImage {
    pub volume_id: String,
    pub store: String,
    pub image_id: String,
    /// What brings it.
    pub upload: String,
    pub whole: bool,
    /// Bytes of the image.
    pub size: u64,
    pub sha256: String,
    /// The image as its host has frozen it. No row of a snapshot has this id.
    pub snapshot: String,
    /// The export by which it is being read.
    pub reader: Option<String>,
}

const COLUMNS: &str = "i.volume_id, i.store, i.image_id, i.upload, i.whole, i.size, i.sha256, i.snapshot, i.reader";
/// Those whose volume is not on its way out.
const THERE: &str = "JOIN volume v ON v.id = i.volume_id AND v.status NOT IN ('deleting', 'error_deleting')";

fn read(r: &Row) -> Result<VolumeImage> {
    Ok(VolumeImage {
        volume_id: r.text(0)?,
        store: r.text(1)?,
        image_id: r.text(2)?,
        upload: r.text(3)?,
        whole: r.flag(4)?,
        size: r.count(5)?,
        sha256: r.text(6)?,
        snapshot: r.text(7)?,
        reader: r.opt_text(8)?,
    })
}

pub fn image_insert_in(tx: &Tx, row: &VolumeImage) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_image (volume_id, store, image_id, upload, whole, size, sha256, snapshot, reader) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![row.volume_id, row.store, row.image_id, row.upload, row.whole, row.size, row.sha256, row.snapshot, row.reader],
    )
    .map(drop)
}

/// Everything in it has come.
pub fn image_whole_in(tx: &Tx, volume_id: &str) -> Result<()> {
    tx.execute("UPDATE volume_image SET whole = 1 WHERE volume_id = ?1", params![volume_id]).map(drop)
}

/// Notes who reads it; answers who did before.
pub fn image_reader_set_in(tx: &Tx, volume_id: &str, reader: &str) -> Result<Option<String>> {
    let sql = "SELECT reader FROM volume_image WHERE volume_id = ?1";
    let before = tx.query_opt(sql, params![volume_id], |r| r.opt_text(0))?.flatten();
    tx.execute("UPDATE volume_image SET reader = ?2 WHERE volume_id = ?1", params![volume_id, reader])?;
    Ok(before)
}

/// The whole volume that holds an image of a store, the newest one.
pub fn image_fetch_in(tx: &Tx, store: &str, image_id: &str) -> Result<Option<VolumeImage>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM volume_image i {THERE} WHERE i.store = ?1 AND i.image_id = ?2 AND i.whole = 1 \
         ORDER BY v.created_at DESC, v.id LIMIT 1"
    );
    tx.query_opt(&sql, params![store, image_id], read)
}

/// Whole volumes on a host that hold just these bytes.
pub fn images_of_content_in(tx: &Tx, sha256: &str, host_id: &str) -> Result<Vec<VolumeImage>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM volume_image i {THERE} WHERE i.sha256 = ?1 AND v.host_id = ?2 AND i.whole = 1 ORDER BY v.created_at, v.id"
    );
    tx.query(&sql, params![sha256, host_id], read)
}

/// Those of a store to which this applies, with those that could not be deleted.
fn some_in(tx: &Tx, condition: &str, values: &[Value]) -> Result<Vec<VolumeImage>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM volume_image i JOIN volume v ON v.id = i.volume_id AND v.status <> 'deleting' WHERE i.store = ?1 {condition} \
         ORDER BY v.created_at, v.id"
    );
    tx.query(&sql, values, read)
}

/// All of a store.
pub fn image_list_in(tx: &Tx, store: &str) -> Result<Vec<VolumeImage>> {
    some_in(tx, "", params![store])
}

/// All that hold an image, whole.
pub fn images_whole_in(tx: &Tx, store: &str, image_id: &str) -> Result<Vec<VolumeImage>> {
    some_in(tx, "AND i.image_id = ?2 AND i.whole = 1", params![store, image_id])
}

/// What an upload, an import or a reader has begun.
pub fn images_begun_in(tx: &Tx, store: &str, by: &str) -> Result<Vec<VolumeImage>> {
    some_in(tx, "AND ((i.upload = ?2 AND i.whole = 0) OR i.reader = ?2)", params![store, by])
}

/// Nobody reads it any more, if this one did.
pub fn image_reader_end_in(tx: &Tx, volume_id: &str, reader: &str) -> Result<()> {
    tx.execute("UPDATE volume_image SET reader = NULL WHERE volume_id = ?1 AND reader = ?2", params![volume_id, reader]).map(drop)
}
