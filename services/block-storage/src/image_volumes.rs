//! Volumes that hold images, for stores of the image service.
//!
//! The bytes go to the chosen host as a parcel, as those of a volume from another host do, and are a raw layer there, frozen under an id that no row of a snapshot
//! has: of that copies are made, and from there it is read, as it is, whatever is done with the volume.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::error::Internal;
use base::{Context, Error, Kind, Result, Scope, Timestamp};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::try_unfold;
use image::volumes::{Held, Keeper, Kept, Pieces};
use rpc::message::{DiskPiece, Request};
use rpc::volume::{Export, Head, Part, Parts, VolumeSource, VolumeStatus, part_key};
use service::carry::{PIECE, answer};
use sha2::{Digest, Sha256};
use store::Tx;

use crate::db::images::{self as rows, VolumeImage};
use crate::db::{attachments, snapshots, volumes as db};
use crate::model::{Volume, VolumeDoc};
use crate::notify::volume_event_in;
use crate::visits::is_moving;
use crate::{Volumes, ZONE, quotas};

/// How long a host may take to make a volume of what came, and to offer it for reading: nothing is copied for either.
const MAKE: Duration = Duration::from_secs(120);

/// Finds a project (its id) by id or name.
pub type Projects = Box<dyn Fn(&Tx, &str) -> Result<Option<String>> + Send + Sync>;

/// The cloud, acting in a project.
fn acting(project: &str) -> Context {
    let scope = Scope::Project { id: project.into(), name: String::new(), domain_id: String::new(), domain_name: String::new() };
    Context { scope, ..Context::system(format!("req-{}", base::id::uuid())) }
}

/// A volume that is being filled: the host that it is on, and under which name the bytes go there.
struct Filling {
    volume: String,
    host: String,
    parcel: String,
}

#[async_trait]
impl Keeper for Volumes {
    async fn put(&self, held: &Held, file: &Path) -> Result<String> {
        // What an attempt before a crash has left.
        self.remove_upload(&held.store, &held.upload).await?;
        let there = self.core.store.read(|tx| rows::image_fetch_in(tx, &held.store, &held.image)).await?;
        if let Some(there) = there.as_ref().filter(|there| there.upload == held.upload && there.sha256 == held.sha256) {
            return Ok(there.volume_id.clone());
        }
        let filling = self.image_begin(held).await?;
        if let Err(error) = self.image_fill(&filling, held, file).await {
            if let Err(second) = self.image_drop(&filling).await {
                tracing::warn!(volume = filling.volume, "half an image stays in a volume for now: {}", second.chain());
            }
            return Err(error);
        }
        if let Some(there) = there {
            self.image_remove(&there.volume_id).await?;
        }
        Ok(filling.volume)
    }

    async fn read(&self, store: &str, image: &str, reader: &str) -> Result<Option<Pieces>> {
        let Some(row) = self.core.store.read(|tx| rows::image_fetch_in(tx, store, image)).await? else { return Ok(None) };
        // From here on whoever gives up lets go of it.
        let reading = Reading(Arc::new(Reader { volumes: self.clone(), volume: row.volume_id.clone(), id: reader.to_string() }));
        let host = self.reading_begin(&row.volume_id, reader).await?;
        let status = self.image_settled(&row.volume_id).await?;
        let number = status
            .parts
            .get(reader)
            .and_then(|found| found.parts.iter().position(|part| part.raw && part.snapshots.contains(&row.snapshot)));
        let number = number.and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(|| Error::internal(format!("volume {} does not have its image any more", row.volume_id)))?;
        let (volumes, key) = (self.clone(), part_key(reader, number));
        let pieces = try_unfold((reading, 0), move |(reading, offset)| {
            let (volumes, host, request) =
                (volumes.clone(), host.clone(), Request::ExportPiece { export_id: key.clone(), offset, length: PIECE });
            async move {
                let piece: DiskPiece = answer(volumes.core.hosts.ask(&host, request).await?)?;
                let bytes = piece.content()?;
                Ok(if bytes.is_empty() { None } else { Some((Bytes::from(bytes), (reading, offset + piece.bytes))) })
            }
        });
        Ok(Some(pieces.boxed()))
    }

    async fn has(&self, store: &str, image: &str) -> Result<bool> {
        Ok(self.core.store.read(|tx| rows::image_fetch_in(tx, store, image)).await?.is_some())
    }

    async fn remove(&self, store: &str, image: &str) -> Result<()> {
        for row in self.core.store.read(|tx| rows::images_whole_in(tx, store, image)).await? {
            self.image_remove(&row.volume_id).await?;
        }
        Ok(())
    }

    async fn remove_upload(&self, store: &str, upload: &str) -> Result<()> {
        for row in self.core.store.read(|tx| rows::images_begun_in(tx, store, upload)).await? {
            match row.whole {
                true => self.reading_end(&row.volume_id, upload).await?,
                false => self.image_remove(&row.volume_id).await?,
            }
        }
        Ok(())
    }

    async fn list(&self, store: &str) -> Result<Kept> {
        let mut kept = Kept::default();
        for row in self.core.store.read(|tx| rows::image_list_in(tx, store)).await? {
            match row.whole {
                true => kept.images.push(row.image_id),
                false => kept.uploads.push(row.upload),
            }
            kept.uploads.extend(row.reader);
        }
        Ok(kept)
    }
}

impl Volumes {
    /// Says where projects are found, once; without it the name of a project is its id.
    pub fn projects_set(&self, projects: Projects) {
        let _ = self.projects.set(projects);
    }

    fn project_in(&self, tx: &Tx, name: &str) -> Result<String> {
        let Some(projects) = self.projects.get() else { return Ok(name.to_string()) };
        projects(tx, name)?.ok_or_else(|| Error::conflict(format!("There is no project {name} for volumes of images.")))
    }

    /// Writes a volume and chooses its host. The quota is that of the project that it is in, as for its other volumes.
    async fn image_begin(&self, held: &Held) -> Result<Filling> {
        let (this, held) = (self.clone(), held.clone());
        self.core
            .store
            .write(move |tx| {
                let project = this.project_in(tx, &held.project)?;
                let ctx = acting(&project);
                let kind = this.type_for_in(tx, &ctx, held.kind.as_deref(), None)?;
                let kind_name = kind.as_ref().map(|kind| kind.name.clone());
                let size = i64::try_from(held.size.div_ceil(1 << 30).max(1)).internal("the size of an image")?;
                quotas::size_fits_in(tx, &project, size)?;
                quotas::reserve_in(tx, &project, kind_name.as_deref(), &[("volumes", 1), ("gigabytes", size)])?;
                let (parcel, snapshot, now) = (base::id::uuid(), base::id::uuid(), Timestamp::now());
                let part = Part { below: None, bytes: held.size, raw: true, snapshots: vec![snapshot.clone()] };
                let metadata = [("glance_image_id", &held.image), ("image_size", &held.size.to_string()), ("image_owner", &held.owner)];
                let doc = VolumeDoc {
                    metadata: metadata.into_iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
                    readonly: Some(true),
                    source: Some(VolumeSource::Parts { id: parcel.clone(), parts: Parts { parts: vec![part], head: Head::Over(0) } }),
                    frozen: Some(snapshot.clone()),
                    type_name: kind_name,
                    ..VolumeDoc::default()
                };
                let mut volume = Volume {
                    id: base::id::uuid(),
                    generation: 1,
                    project_id: project,
                    user_id: String::new(),
                    name: Some(format!("image-{}", held.image)),
                    description: None,
                    status: "creating".into(),
                    size,
                    type_id: kind.map(|kind| kind.id),
                    zone: ZONE.into(),
                    host_id: None,
                    host: None,
                    bootable: false,
                    multiattach: false,
                    snapshot_id: None,
                    source_volid: None,
                    migration_status: None,
                    group_id: None,
                    created_at: now,
                    updated_at: now,
                    spec_generation: 1,
                    storage: None,
                    doc,
                };
                this.place_in(tx, &mut volume)?;
                let host = volume.host_id.clone().ok_or_else(|| Error::unavailable("No host was found for the volume of an image."))?;
                db::volume_insert_in(tx, &volume)?;
                this.promise_in(tx, &volume)?;
                let row = VolumeImage {
                    volume_id: volume.id.clone(),
                    store: held.store,
                    image_id: held.image,
                    upload: held.upload,
                    whole: false,
                    size: held.size,
                    sha256: held.sha256,
                    snapshot,
                    reader: None,
                };
                rows::image_insert_in(tx, &row)?;
                volume_event_in(tx, "create.start", &volume, &ctx, None)?;
                Ok(Filling { volume: volume.id, host, parcel })
            })
            .await
    }

    /// Brings the bytes to the host, and has it make the volume of them.
    async fn image_fill(&self, filling: &Filling, held: &Held, file: &Path) -> Result<()> {
        self.image_carry(filling, held, file).await.map_err(|error| match error.kind() {
            // The host's own trouble: another one may be chosen the next time.
            Kind::Internal => Error::unavailable("The host does not take the volume of the image.").caused_by(error),
            _ => error,
        })?;
        self.image_settled(&filling.volume).await?;
        let id = filling.volume.clone();
        let made = move |tx: &Tx| {
            let mut volume = db::volume_get_in(tx, &id)?;
            if volume.status != "creating" {
                return Err(Error::conflict(format!("Volume {id} was to hold an image, and is {} now.", volume.status)));
            }
            volume.status = "available".into();
            volume.doc.launched_at = Some(Timestamp::now());
            db::volume_update_in(tx, &mut volume)?;
            rows::image_whole_in(tx, &id)?;
            volume_event_in(tx, "create.end", &volume, &acting(&volume.project_id), None)
        };
        self.core.store.write(made).await
    }

    async fn image_carry(&self, filling: &Filling, held: &Held, file: &Path) -> Result<()> {
        let file = file.to_path_buf();
        let file = tokio::task::spawn_blocking(move || File::open(file)).await.internal("opening image content")?;
        let file = Arc::new(file.internal("opening image content")?);
        let key = part_key(&filling.parcel, 0);
        let (mut offset, mut hash) = (0, Sha256::new());
        loop {
            let (source, state, length) = (file.clone(), hash, held.size.saturating_sub(offset).min(PIECE.into()));
            let read = move || -> Result<(DiskPiece, Sha256)> {
                let mut bytes = vec![0; usize::try_from(length).internal("the size of a piece")?];
                source.read_exact_at(&mut bytes, offset).internal("reading image content")?;
                Ok((DiskPiece::of(&bytes), state.chain_update(&bytes)))
            };
            let piece;
            (piece, hash) = tokio::task::spawn_blocking(read).await.internal("reading image content")??;
            let write = Request::ParcelWrite { parcel_id: key.clone(), volume_id: filling.volume.clone(), offset, piece };
            self.core.hosts.ask(&filling.host, write).await?;
            offset += length;
            if offset >= held.size {
                break;
            }
        }
        if !held.sha256.eq_ignore_ascii_case(&hex(&hash.finalize())) {
            return Err(Error::conflict("The content of the image has been damaged before it came into its volume."));
        }
        self.core.hosts.ask(&filling.host, Request::ParcelKeep { parcel_id: key, bytes: held.size }).await.map(drop)
    }

    /// Waits until a host has done what is wanted of a volume that holds an image. That it cannot is its own trouble, too.
    async fn image_settled(&self, id: &str) -> Result<VolumeStatus> {
        self.volume_settled(id, MAKE, || false).await.map_err(|error| match error.kind() {
            Kind::Conflict => Error::unavailable("The host cannot do it with the volume of the image.").caused_by(error),
            _ => error,
        })
    }

    /// What has come of a volume that is not filled goes, from its host too.
    async fn image_drop(&self, filling: &Filling) -> Result<()> {
        let (this, id, host) = (self.clone(), filling.volume.clone(), filling.host.clone());
        let dropped = move |tx: &Tx| match db::volume_fetch_in(tx, &id)? {
            Some(volume) => this.image_delete_in(tx, volume),
            None => {
                // Deleted by somebody meanwhile, perhaps before the first piece has come.
                db::tombstone_put_in(tx, &host, &id, 2)?;
                this.host_tell_after_commit(tx, &host, &id);
                Ok(())
            }
        };
        self.core.store.write(dropped).await
    }

    /// Deletes a volume that holds an image, unless it is used.
    async fn image_remove(&self, id: &str) -> Result<()> {
        let (this, id) = (self.clone(), id.to_string());
        let removed = move |tx: &Tx| {
            let Some(volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            match used_in(tx, &volume)? {
                Some(why) => {
                    tracing::info!(volume = id, "it holds an image that is not needed any more, and stays for now: it {why}");
                    Ok(())
                }
                None => this.image_delete_in(tx, volume),
            }
        };
        self.core.store.write(removed).await
    }

    fn image_delete_in(&self, tx: &Tx, mut volume: Volume) -> Result<()> {
        if volume.status == "deleting" {
            return Ok(());
        }
        self.volume_delete_in(tx, &acting(&volume.project_id), &mut volume, true, true)
    }

    /// Has the host of a volume offer what is frozen of it. Answers the host.
    async fn reading_begin(&self, id: &str, reader: &str) -> Result<String> {
        let (id, reader) = (id.to_string(), reader.to_string());
        let begun = move |tx: &Tx| {
            let mut volume = db::volume_get_in(tx, &id)?;
            if is_moving(&volume) {
                return Err(Error::unavailable(format!("Volume {id} is on its way to another host.")));
            }
            let host = volume.host_id.clone().ok_or_else(|| Error::unavailable(format!("Volume {id} has no host.")))?;
            // One reads at a time: who is noted yet has died.
            let before = rows::image_reader_set_in(tx, &id, &reader)?;
            volume.doc.exports.retain(|export| Some(&export.id) != before.as_ref());
            volume.doc.exports.push(Export { id: reader, format: "below".into() });
            volume.spec_generation += 1;
            db::volume_update_in(tx, &mut volume)?;
            Ok(host)
        };
        self.core.store.write(begun).await
    }

    async fn reading_end(&self, id: &str, reader: &str) -> Result<()> {
        let (this, id, reader) = (self.clone(), id.to_string(), reader.to_string());
        let ended = move |tx: &Tx| {
            rows::image_reader_end_in(tx, &id, &reader)?;
            let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            let before = volume.doc.exports.len();
            volume.doc.exports.retain(|export| export.id != reader);
            if volume.doc.exports.len() == before {
                return Ok(());
            }
            volume.spec_generation += 1;
            db::volume_update_in(tx, &mut volume)?;
            if let Some(host_id) = &volume.host_id {
                this.host_tell_after_commit(tx, host_id, &id);
            }
            Ok(())
        };
        self.core.store.write(ended).await
    }
}

/// Somebody who reads an image from a volume.
struct Reader {
    volumes: Volumes,
    volume: String,
    id: String,
}

/// Ends with whoever holds it: also with one that gives up.
struct Reading(Arc<Reader>);

impl Drop for Reading {
    fn drop(&mut self) {
        let reader = self.0.clone();
        reader.volumes.runtime.clone().spawn(async move {
            // Should it fail, the image service finds it when it tidies up.
            if let Err(error) = reader.volumes.reading_end(&reader.volume, &reader.id).await {
                tracing::info!(volume = reader.volume, "what was read stays offered for now: {}", error.chain());
            }
        });
    }
}

/// What keeps a volume that holds an image from being deleted with it.
fn used_in(tx: &Tx, volume: &Volume) -> Result<Option<String>> {
    if is_moving(volume) {
        return Ok(Some("is on its way to another host".into()));
    }
    if !attachments::attachments_of_in(tx, &volume.id)?.is_empty() {
        return Ok(Some("is attached".into()));
    }
    if !snapshots::snapshots_of_in(tx, &volume.id)?.is_empty() {
        return Ok(Some("has snapshots".into()));
    }
    Ok(copied_in(tx, volume)?.map(|copy| format!("is being copied to volume {copy}")))
}

/// A volume that is being made of the image that a volume holds.
pub(crate) fn copied_in(tx: &Tx, volume: &Volume) -> Result<Option<String>> {
    let (Some(frozen), Some(host_id)) = (&volume.doc.frozen, &volume.host_id) else { return Ok(None) };
    let of_it = |v: &Volume| v.status == "creating" && matches!(&v.doc.source, Some(VolumeSource::Snapshot { id }) if id == frozen);
    Ok(db::volumes_on_host_in(tx, host_id)?.into_iter().find(of_it).map(|v| v.id))
}

/// What is frozen on this host of a volume that holds just this content: of it a volume is made without a byte being moved.
pub(crate) fn frozen_in(tx: &Tx, sha256: &str, host_id: &str) -> Result<Option<String>> {
    for row in rows::images_of_content_in(tx, sha256, host_id)? {
        if !is_moving(&db::volume_get_in(tx, &row.volume_id)?) {
            return Ok(Some(row.snapshot));
        }
    }
    Ok(None)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
