//! Image rows, their properties and tags, and the state of uploads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Error, Result, Timestamp, error::Internal};
use store::{Dir, Row, Select, Tx, Value, params};

use super::converted::{converted_list, is_converted};
use crate::content::Facts;
use crate::model::{Image, Location, Status, Visibility};
use crate::stores::LOCAL;

const COLUMNS: &str = "SELECT id, name, status, visibility, owner, protected, os_hidden, disk_format, container_format, min_disk, min_ram, \
     size, virtual_size, checksum, os_hash_algo, os_hash_value, sha256, created_at, updated_at, generation, content_format FROM image";

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
        content_format: row.opt_text(20)?,
        properties: BTreeMap::new(),
        tags: BTreeSet::new(),
        locations: Vec::new(),
        member: None,
    })
}

/// A whole image; `project` is the caller's, to tell whether it is shared with it.
pub fn image_fetch(tx: &Tx, id: &str, project: &str) -> Result<Option<Image>> {
    let mut images = Select::new(COLUMNS).eq("id", id).limit(1).fetch(tx, read)?;
    complete(tx, &mut images, project)?;
    Ok(images.pop())
}

/// Adds properties, tags, locations and membership: one query each, however many images.
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
    let locations = Select::new("SELECT image_id, store, url, metadata FROM image_location").in_list("image_id", ids());
    let locations = locations.order(&[("image_id", Dir::Asc), ("position", Dir::Asc), ("store", Dir::Asc)]);
    let locations = locations.fetch(tx, |row| Ok((row.text(0)?, location_read(row)?)))?;
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
    for (id, location) in locations {
        images[index[&id]].locations.push(location);
    }
    for id in member_of {
        images[index[&id]].member = Some(project.to_string());
    }
    Ok(())
}

/// After the image's id.
fn location_read(row: &Row) -> Result<Location> {
    let metadata = serde_json::from_str(&row.text(3)?).internal("what is noted about a location")?;
    Ok(Location { store: row.text(1)?, url: row.text(2)?, metadata })
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

/// Writes what users may change, and where the content is; `Conflict` when someone else was faster.
pub fn image_update(tx: &Tx, image: &Image) -> Result<()> {
    let changed = tx.execute(
        "UPDATE image SET name = ?3, status = ?4, visibility = ?5, owner = ?6, protected = ?7, os_hidden = ?8, disk_format = ?9, \
         container_format = ?10, min_disk = ?11, min_ram = ?12, updated_at = ?13, size = ?14, checksum = ?15, os_hash_algo = ?16, \
         os_hash_value = ?17, generation = generation + 1 WHERE id = ?1 AND generation = ?2",
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
            image.updated_at,
            image.size,
            &image.checksum,
            &image.os_hash_algo,
            &image.os_hash_value
        ],
    )?;
    if changed == 0 {
        return Err(Error::conflict(format!("Image {} was changed by another request at the same time; try again.", image.id)));
    }
    details_delete(tx, &image.id)?;
    details_insert(tx, image)?;
    locations_set(tx, image)
}

fn locations_set(tx: &Tx, image: &Image) -> Result<()> {
    let there = Select::new("SELECT image_id, store, url, metadata FROM image_location").eq("image_id", image.id.as_str());
    let there = there.order(&[("position", Dir::Asc), ("store", Dir::Asc)]).fetch(tx, location_read)?;
    if there == image.locations {
        return Ok(());
    }
    tx.execute("DELETE FROM image_location WHERE image_id = ?1", params![image.id])?;
    image.locations.iter().try_for_each(|location| location_insert(tx, &image.id, location))
}

fn details_delete(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM image_property WHERE image_id = ?1", params![id])?;
    tx.execute("DELETE FROM image_tag WHERE image_id = ?1", params![id])?;
    Ok(())
}

/// False when it is not there (any more).
pub fn image_delete(tx: &Tx, id: &str) -> Result<bool> {
    details_delete(tx, id)?;
    for table in ["image_member", "image_location", "image_staged", "image_cache"] {
        tx.execute(&format!("DELETE FROM {table} WHERE image_id = ?1"), params![id])?;
    }
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
pub fn upload_begin(tx: &Tx, id: &str, upload: &str, status: Status, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image SET status = ?4, upload = ?2, upload_at = ?3, updated_at = ?3, generation = generation + 1 \
         WHERE id = ?1 AND status = 'queued'",
        params![id, upload, now, status.as_str()],
    )?;
    Ok(changed > 0)
}

/// A sign of life; false when the upload has lost its image.
pub fn upload_alive(tx: &Tx, upload: &str, now: Timestamp) -> Result<bool> {
    Ok(tx.execute("UPDATE image SET upload_at = ?2 WHERE upload = ?1", params![upload, now])? > 0)
}

/// What an upload or an import has brought.
pub struct Content {
    pub facts: Facts,
    pub virtual_size: Option<u64>,
    /// See [`Image::content_format`].
    pub format: Option<String>,
    /// Which of the hashes is shown as `os_hash_value`.
    pub hash_algo: &'static str,
}

/// Makes the image active with its content in these places; false when it is no longer in the status `from`.
pub fn content_set(tx: &Tx, id: &str, from: Status, content: &Content, places: &[Location], now: Timestamp) -> Result<bool> {
    let facts = &content.facts;
    let changed = tx.execute(
        "UPDATE image SET status = 'active', upload = NULL, upload_at = NULL, size = ?3, virtual_size = ?4, checksum = ?5, \
         os_hash_algo = ?9, os_hash_value = ?6, sha256 = ?7, updated_at = ?8, content_format = ?10, \
         generation = generation + 1 WHERE id = ?1 AND status = ?2",
        params![
            id,
            from.as_str(),
            facts.size,
            content.virtual_size,
            facts.md5,
            facts.hash(content.hash_algo),
            facts.sha256,
            now,
            content.hash_algo,
            &content.format
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    places.iter().try_for_each(|place| location_insert(tx, id, place))?;
    Ok(true)
}

/// What has been read of content that others keep is known from now on.
pub fn content_learned(tx: &Tx, id: &str, content: &Content) -> Result<()> {
    let facts = &content.facts;
    tx.execute(
        "UPDATE image SET size = ?2, virtual_size = ?3, checksum = ?4, os_hash_algo = ?5, os_hash_value = ?6, sha256 = ?7, \
         content_format = ?8, generation = generation + 1 WHERE id = ?1 AND sha256 IS NULL",
        params![
            id,
            facts.size,
            content.virtual_size,
            facts.md5,
            content.hash_algo,
            facts.hash(content.hash_algo),
            facts.sha256,
            &content.format
        ],
    )?;
    Ok(())
}

/// The formats of what has been brought.
pub fn formats_set(tx: &Tx, id: &str, disk_format: &str, container_format: &str) -> Result<()> {
    let sql = "UPDATE image SET disk_format = ?2, container_format = ?3, generation = generation + 1 WHERE id = ?1";
    tx.execute(sql, params![id, disk_format, container_format])?;
    Ok(())
}

/// The content was converted.
pub fn disk_format_set(tx: &Tx, id: &str, format: &str) -> Result<()> {
    tx.execute("UPDATE image SET disk_format = ?2 WHERE id = ?1", params![id, format])?;
    Ok(())
}

/// Whether the upload has its image still.
pub fn upload_holds(tx: &Tx, id: &str, upload: &str) -> Result<bool> {
    tx.query_one("SELECT COUNT(*) FROM image WHERE id = ?1 AND upload = ?2", params![id, upload], |row| Ok(row.count(0)? > 0))
}

/// Content that waits for its import; the image stays in its status.
pub fn staged_set(tx: &Tx, id: &str, upload: &str, size: u64, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image SET upload = NULL, upload_at = NULL, size = ?3, updated_at = ?4, generation = generation + 1 WHERE id = ?1 AND upload = ?2",
        params![id, upload, size, now],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    tx.execute("INSERT INTO image_staged (image_id, file, size) VALUES (?1, ?2, ?3)", params![id, upload, size])?;
    Ok(true)
}

/// The name of an image's staged content.
pub fn staged_fetch(tx: &Tx, id: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT file FROM image_staged WHERE image_id = ?1", params![id], |row| row.text(0))
}

pub fn staged_delete(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM image_staged WHERE image_id = ?1", params![id])?;
    Ok(())
}

/// Names of everything staged, and of what imports are bringing.
pub fn staged_list(tx: &Tx) -> Result<BTreeSet<String>> {
    let names =
        tx.query("SELECT file FROM image_staged UNION SELECT id FROM image_task WHERE status IN ('pending', 'processing')", &[], |row| {
            row.text(0)
        })?;
    Ok(names.into_iter().collect())
}

/// Puts the image back to where it was before the upload.
pub fn upload_abandon(tx: &Tx, upload: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE image SET status = 'queued', upload = NULL, upload_at = NULL, updated_at = ?2, generation = generation + 1 WHERE upload = ?1",
        params![upload, now],
    )?;
    Ok(())
}

/// Puts an image whose import has failed back to where it was before.
pub fn import_abandon(tx: &Tx, id: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE image SET status = 'queued', size = NULL, updated_at = ?2, generation = generation + 1 \
         WHERE id = ?1 AND status IN ('importing', 'uploading')",
        params![id, now],
    )?;
    staged_delete(tx, id)
}

/// False when the image is not in the status `from`.
pub fn status_set(tx: &Tx, id: &str, from: Status, to: Status, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image SET status = ?3, updated_at = ?4, generation = generation + 1 WHERE id = ?1 AND status = ?2",
        params![id, from.as_str(), to.as_str(), now],
    )?;
    Ok(changed > 0)
}

/// Uploads under way, with their last sign of life.
pub fn upload_list(tx: &Tx) -> Result<Vec<(String, Timestamp)>> {
    tx.query("SELECT upload, upload_at FROM image WHERE upload IS NOT NULL", &[], |row| {
        Ok((row.text(0)?, row.opt_time(1)?.unwrap_or_default()))
    })
}

/// The content is in one more place.
pub fn location_insert(tx: &Tx, id: &str, location: &Location) -> Result<()> {
    let metadata = serde_json::to_string(&location.metadata).internal("what is noted about a location")?;
    tx.execute(
        "INSERT INTO image_location (image_id, store, url, metadata, position) \
         SELECT CAST(?1 AS TEXT), CAST(?2 AS TEXT), CAST(?3 AS TEXT), CAST(?4 AS TEXT), COALESCE(MAX(position) + 1, 0) \
         FROM image_location WHERE image_id = ?1 ON CONFLICT (image_id, store, url) DO NOTHING",
        params![id, location.store, location.url, metadata],
    )?;
    Ok(())
}

/// False when the store does not have the image.
pub fn location_delete(tx: &Tx, id: &str, store: &str) -> Result<bool> {
    let gone = tx.execute("DELETE FROM image_location WHERE image_id = ?1 AND store = ?2", params![id, store])? > 0;
    // A change that began before would write the location again.
    touch(tx, id)?;
    Ok(gone)
}

/// Sets a property that is the service's own; an empty value is one too.
pub fn property_set(tx: &Tx, id: &str, name: &str, value: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO image_property (image_id, name, value) VALUES (?1, ?2, ?3) \
         ON CONFLICT (image_id, name) DO UPDATE SET value = excluded.value",
        params![id, name, value],
    )?;
    touch(tx, id)
}

pub fn property_fetch(tx: &Tx, id: &str, name: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT value FROM image_property WHERE image_id = ?1 AND name = ?2", params![id, name], |row| row.text(0))
}

pub fn property_delete(tx: &Tx, id: &str, name: &str) -> Result<()> {
    tx.execute("DELETE FROM image_property WHERE image_id = ?1 AND name = ?2", params![id, name])?;
    touch(tx, id)
}

/// Who has read the image before must read it again to change it.
fn touch(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE image SET generation = generation + 1 WHERE id = ?1", params![id])?;
    Ok(())
}

/// Whether an image has its content in a store that keeps it for this image alone, or is about to.
pub fn content_used_by_image(tx: &Tx, store: &str, id: &str) -> Result<bool> {
    let some = |sql: &str, values: &[Value]| tx.query_one(sql, values, |row| Ok(row.count(0)? > 0));
    Ok(some("SELECT COUNT(*) FROM image_location WHERE store = ?1 AND image_id = ?2", params![store, id])?
        || some("SELECT COUNT(*) FROM image WHERE id = ?1 AND upload IS NOT NULL", params![id])?
        || some(
            "SELECT COUNT(*) FROM image_task WHERE image_id = ?1 AND content IS NOT NULL AND status IN ('pending', 'processing')",
            params![id],
        )?)
}

/// Whether hosts can take the content from the controller, by the records.
pub fn content_here(tx: &Tx, sha256: &str) -> Result<bool> {
    Ok(of_images(tx, LOCAL, sha256)? || cached(tx, sha256)? || is_converted(tx, sha256)?)
}

/// An image that has some content.
pub struct Candidate {
    pub id: String,
    /// In bytes.
    pub size: u64,
    pub stores: Vec<String>,
}

/// All images that stores have this content for.
pub fn images_of_content(tx: &Tx, sha256: &str) -> Result<Vec<Candidate>> {
    let sql = "SELECT i.id, i.size, l.store FROM image i JOIN image_location l ON l.image_id = i.id WHERE i.sha256 = ?1 ORDER BY i.id";
    let places = tx.query(sql, params![sha256], |row| {
        Ok((row.text(0)?, row.opt_int(1)?.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(), row.text(2)?))
    })?;
    let mut found: Vec<Candidate> = Vec::new();
    for (id, size, store) in places {
        match found.last_mut() {
            Some(image) if image.id == id => image.stores.push(store),
            _ => found.push(Candidate { id, size, stores: vec![store] }),
        }
    }
    Ok(found)
}

fn of_images(tx: &Tx, store: &str, sha256: &str) -> Result<bool> {
    let sql = "SELECT COUNT(*) FROM image i JOIN image_location l ON l.image_id = i.id WHERE l.store = ?1 AND i.sha256 = ?2";
    tx.query_one(sql, params![store, sha256], |row| Ok(row.count(0)? > 0))
}

fn cached(tx: &Tx, sha256: &str) -> Result<bool> {
    let sql = "SELECT COUNT(*) FROM image i JOIN image_cache c ON c.image_id = i.id WHERE i.sha256 = ?1 AND c.cached = 1";
    tx.query_one(sql, params![sha256], |row| Ok(row.count(0)? > 0))
}

/// Whether the store has this content for any image, or for an import under way.
pub fn content_used(tx: &Tx, store: &str, sha256: &str) -> Result<bool> {
    if of_images(tx, store, sha256)? || (store == LOCAL && (cached(tx, sha256)? || is_converted(tx, sha256)?)) {
        return Ok(true);
    }
    let of_tasks = "SELECT COUNT(*) FROM image_task WHERE content = ?1 AND status IN ('pending', 'processing')";
    tx.query_one(of_tasks, params![sha256], |row| Ok(row.count(0)? > 0))
}

/// The images whose content a store has.
pub fn content_images(tx: &Tx, store: &str) -> Result<BTreeSet<String>> {
    let ids = tx.query("SELECT DISTINCT image_id FROM image_location WHERE store = ?1", params![store], |row| row.text(0))?;
    Ok(ids.into_iter().collect())
}

/// All content that a store has for images, as it is or converted.
pub fn content_list(tx: &Tx, store: &str) -> Result<BTreeSet<String>> {
    let names = tx.query(
        "SELECT DISTINCT i.sha256 FROM image i JOIN image_location l ON l.image_id = i.id WHERE l.store = ?1 AND i.sha256 IS NOT NULL",
        params![store],
        |row| row.text(0),
    )?;
    let converted = if store == LOCAL { converted_list(tx)? } else { Vec::new() };
    Ok(names.into_iter().chain(converted).collect())
}
