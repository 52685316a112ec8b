//! Image rows, their properties and tags, and the state of uploads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Error, Result, Timestamp};
use store::{Dir, Row, Select, Tx, Value, params};

use crate::model::{Image, Status, Visibility};

const COLUMNS: &str = "SELECT id, name, status, visibility, owner, protected, os_hidden, disk_format, container_format, min_disk, min_ram, \
     size, virtual_size, checksum, os_hash_algo, os_hash_value, sha256, created_at, updated_at, generation FROM image";

fn read(row: &Row) -> Result<Image> {
    let count = |i: usize| -> Result<Option<u64>> { Ok(row.opt_int(i)?.and_then(|v| u64::try_from(v).ok())) };
    Ok(Image {
        id: row.text(0)?,
        name: row.opt_text(1)?,
        status: Status::parse(&row.text(2)?)?,
        visibility: Visibility::parse(&row.text(3)?)?,
        owner: row.opt_text(4)?,
        protected: row.flag(5)?,
        os_hidden: row.flag(6)?,
        disk_format: row.opt_text(7)?,
        container_format: row.opt_text(8)?,
        min_disk: row.count(9)?,
        min_ram: row.count(10)?,
        size: count(11)?,
        virtual_size: count(12)?,
        checksum: row.opt_text(13)?,
        os_hash_algo: row.opt_text(14)?,
        os_hash_value: row.opt_text(15)?,
        sha256: row.opt_text(16)?,
        created_at: row.time(17)?,
        updated_at: row.time(18)?,
        generation: row.int(19)?,
        properties: BTreeMap::new(),
        tags: BTreeSet::new(),
        member: None,
    })
}

/// A whole image; `project` is the caller's, to tell whether it is shared with it.
pub fn image_fetch(tx: &Tx, id: &str, project: &str) -> Result<Option<Image>> {
    let mut images = Select::new(COLUMNS).eq("id", id).limit(1).fetch(tx, read)?;
    complete(tx, &mut images, project)?;
    Ok(images.pop())
}

/// Adds properties, tags and membership: one query each, however many images.
fn complete(tx: &Tx, images: &mut [Image], project: &str) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let index: HashMap<String, usize> = images.iter().enumerate().map(|(i, image)| (image.id.clone(), i)).collect();
    let ids = || images.iter().map(|i| i.id.clone()).collect::<Vec<_>>();
    let pairs = Select::new("SELECT image_id, name, value FROM image_property").in_list("image_id", ids());
    let pairs = pairs.fetch(tx, |row| Ok((row.text(0)?, row.text(1)?, row.text(2)?)))?;
    let tags = Select::new("SELECT image_id, value FROM image_tag").in_list("image_id", ids());
    let tags = tags.fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))?;
    let member_of = if project.is_empty() {
        Vec::new()
    } else {
        let rows = Select::new("SELECT image_id FROM image_member").eq("member", project).in_list("image_id", ids());
        rows.fetch(tx, |row| row.text(0))?
    };
    for (id, name, value) in pairs {
        images[index[&id]].properties.insert(name, value);
    }
    for (id, value) in tags {
        images[index[&id]].tags.insert(value);
    }
    for id in member_of {
        images[index[&id]].member = Some(project.to_string());
    }
    Ok(())
}

pub fn image_insert(tx: &Tx, image: &Image) -> Result<()> {
    tx.execute(
        "INSERT INTO image (id, name, status, visibility, owner, protected, os_hidden, disk_format, container_format, min_disk, min_ram, \
         created_at, updated_at, generation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            image.id,
            &image.name,
            image.status.as_str(),
            image.visibility.as_str(),
            &image.owner,
            image.protected,
            image.os_hidden,
            &image.disk_format,
            &image.container_format,
            image.min_disk,
            image.min_ram,
            image.created_at,
            image.updated_at,
            image.generation
        ],
    )?;
    details_insert(tx, image)
}

fn details_insert(tx: &Tx, image: &Image) -> Result<()> {
    for (name, value) in &image.properties {
        tx.execute("INSERT INTO image_property (image_id, name, value) VALUES (?1, ?2, ?3)", params![image.id, name, value])?;
    }
    for tag in &image.tags {
        tx.execute("INSERT INTO image_tag (image_id, value) VALUES (?1, ?2)", params![image.id, tag])?;
    }
    Ok(())
}

/// Writes what users may change; `Conflict` when someone else was faster.
pub fn image_update(tx: &Tx, image: &Image) -> Result<()> {
    let changed = tx.execute(
        "UPDATE image SET name = ?3, status = ?4, visibility = ?5, owner = ?6, protected = ?7, os_hidden = ?8, disk_format = ?9, \
         container_format = ?10, min_disk = ?11, min_ram = ?12, updated_at = ?13, generation = generation + 1 \
         WHERE id = ?1 AND generation = ?2",
        params![
            image.id,
            image.generation,
            &image.name,
            image.status.as_str(),
            image.visibility.as_str(),
            &image.owner,
            image.protected,
            image.os_hidden,
            &image.disk_format,
            &image.container_format,
            image.min_disk,
            image.min_ram,
            image.updated_at
        ],
    )?;
    if changed == 0 {
        return Err(Error::conflict(format!("Image {} was changed by another request at the same time; try again.", image.id)));
    }
    details_delete(tx, &image.id)?;
    details_insert(tx, image)
}

fn details_delete(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM image_property WHERE image_id = ?1", params![id])?;
    tx.execute("DELETE FROM image_tag WHERE image_id = ?1", params![id])?;
    Ok(())
}

/// False when it is not there (any more).
pub fn image_delete(tx: &Tx, id: &str) -> Result<bool> {
    details_delete(tx, id)?;
    tx.execute("DELETE FROM image_member WHERE image_id = ?1", params![id])?;
    Ok(tx.execute("DELETE FROM image WHERE id = ?1", params![id])? > 0)
}

/// What [`image_list`] selects by, in SQL terms.
pub struct Listing {
    pub select: Select,
    pub order: Vec<(&'static str, Dir)>,
    pub marker: Option<String>,
    pub limit: u64,
}

/// A list query without conditions.
pub fn image_select() -> Select {
    Select::new(COLUMNS)
}

/// One page; `None` when the marker is not there.
pub fn image_list(tx: &Tx, listing: Listing, project: &str) -> Result<Option<Vec<Image>>> {
    let Listing { mut select, order, marker, limit } = listing;
    select = select.order(&order);
    if let Some(marker) = marker {
        let columns = order.iter().map(|(column, _)| *column).collect::<Vec<_>>().join(", ");
        let values = tx.query_opt(&format!("SELECT {columns} FROM image WHERE id = ?1"), params![marker], |row| {
            (0..order.len()).map(|i| row.value(i)).collect::<Result<Vec<Value>>>()
        })?;
        let Some(values) = values else { return Ok(None) };
        select = select.after(values);
    }
    let mut images = select.limit(limit).fetch(tx, read)?;
    complete(tx, &mut images, project)?;
    Ok(Some(images))
}

/// Takes the image for an upload; false when it is not queued any more.
pub fn upload_begin(tx: &Tx, id: &str, upload: &str, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image SET status = 'saving', upload = ?2, upload_at = ?3, updated_at = ?3, generation = generation + 1 \
         WHERE id = ?1 AND status = 'queued'",
        params![id, upload, now],
    )?;
    Ok(changed > 0)
}

/// A sign of life; false when the upload has lost its image.
pub fn upload_alive(tx: &Tx, upload: &str, now: Timestamp) -> Result<bool> {
    Ok(tx.execute("UPDATE image SET upload_at = ?2 WHERE upload = ?1", params![upload, now])? > 0)
}

/// What an upload has brought.
pub struct Content {
    pub size: u64,
    pub virtual_size: Option<u64>,
    pub checksum: String,
    pub os_hash_value: String,
    pub sha256: String,
}

/// Makes the image active; false when the upload has lost its image.
pub fn upload_finish(tx: &Tx, upload: &str, content: &Content, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image SET status = 'active', upload = NULL, upload_at = NULL, size = ?2, virtual_size = ?3, checksum = ?4, \
         os_hash_algo = 'sha512', os_hash_value = ?5, sha256 = ?6, updated_at = ?7, generation = generation + 1 WHERE upload = ?1",
        params![upload, content.size, content.virtual_size, content.checksum, content.os_hash_value, content.sha256, now],
    )?;
    Ok(changed > 0)
}

/// Puts the image back to where it was before the upload.
pub fn upload_abandon(tx: &Tx, upload: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE image SET status = 'queued', upload = NULL, upload_at = NULL, updated_at = ?2, generation = generation + 1 WHERE upload = ?1",
        params![upload, now],
    )?;
    Ok(())
}

/// Uploads under way, with their last sign of life.
pub fn upload_list(tx: &Tx) -> Result<Vec<(String, Timestamp)>> {
    tx.query("SELECT upload, upload_at FROM image WHERE upload IS NOT NULL", &[], |row| {
        Ok((row.text(0)?, row.opt_time(1)?.unwrap_or_default()))
    })
}

/// Whether any image has this content.
pub fn content_used(tx: &Tx, sha256: &str) -> Result<bool> {
    tx.query_one("SELECT COUNT(*) FROM image WHERE sha256 = ?1", params![sha256], |row| Ok(row.count(0)? > 0))
}

/// All content that images have.
pub fn content_list(tx: &Tx) -> Result<BTreeSet<String>> {
    let names = tx.query("SELECT DISTINCT sha256 FROM image WHERE sha256 IS NOT NULL", &[], |row| row.text(0))?;
    Ok(names.into_iter().collect())
}
