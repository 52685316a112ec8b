//! Creating volumes: everything that can be refused is refused before anything is written.

use base::{Context, Error, Kind, Result, Timestamp};
use image::bootable;
use rpc::volume::{ImageContent, VolumeSource};
use serde_json::Value;
use store::Tx;

use crate::bring::still;
use crate::db::types::VolumeType;
use crate::db::{snapshots, types, volumes as db};
use crate::groups::admit;
use crate::model::{Metadata, Volume, VolumeDoc};
use crate::notify::volume_event_in;
use crate::{DEFAULT_TYPE, Volumes, ZONE, capabilities, op, quotas};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct VolumeWish {
    pub name: Option<String>,
    pub description: Option<String>,
    /// GiB; none: as large as what it is made of.
    pub size: Option<i64>,
    /// Id or name.
    pub volume_type: Option<String>,
    pub zone: Option<String>,
    pub metadata: Metadata,
    pub snapshot_id: Option<String>,
    pub source_volid: Option<String>,
    /// Id or name.
    pub image: Option<String>,
    /// Only this host will do.
    pub host_id: Option<String>,
    /// The group it is in.
    pub group_id: Option<String>,
}

/// What of an image a volume needs.
#[derive(Clone, Debug)]
pub struct ImagePart {
    sha256: String,
    /// As hosts call it, or one that takes a conversion.
    format: String,
    /// GiB, rounded up.
    size: i64,
    metadata: Metadata,
}

impl ImagePart {
    /// GiB.
    pub fn size(&self) -> i64 {
        self.size
    }
    pub(crate) fn content(&self) -> ImageContent {
        ImageContent { sha256: self.sha256.clone(), format: self.format.clone() }
    }
    pub(crate) fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }
}

impl Volumes {
    /// The image of a wish, if it has one.
    pub async fn volume_image(&self, ctx: &Context, image: Option<&str>) -> Result<Option<ImagePart>> {
        let Some(reference) = image else { return Ok(None) };
        let id = reference.rsplit('/').next().unwrap_or_default();
        let bad = |why: String| Error::invalid(why);
        let found = self.images.boot_image(ctx, id).await.map_err(|error| match error.kind() {
            Kind::NotFound | Kind::Forbidden => bad("Invalid image identifier or unable to access requested image.".into()),
            _ => error,
        })?;
        if found.status != "active" {
            return Err(bad(format!("Invalid input received: Image {id} is not active.")));
        }
        found.content_known()?;
        if !bootable::is_bootable(&found.disk_format) {
            return Err(bad(format!("Invalid input received: Image {id} has format {}, which no volume is made of.", found.disk_format)));
        }
        if let Some(why) = found.content_unfit() {
            return Err(bad(why));
        }
        let natural = found.virtual_size.unwrap_or(found.size).div_ceil(1 << 30).max(found.min_disk_gib);
        let mut metadata: Metadata = found.properties.clone();
        for (name, value) in [
            ("image_id", found.id.clone()),
            ("image_name", found.name.clone()),
            ("container_format", found.container_format.clone()),
            ("disk_format", found.disk_format.clone()),
            ("min_disk", found.min_disk_gib.to_string()),
            ("min_ram", found.min_ram_mib.to_string()),
            ("size", found.size.to_string()),
            ("checksum", found.properties.get("checksum").cloned().unwrap_or_default()),
        ] {
            if !value.is_empty() {
                metadata.insert(name.into(), value);
            }
        }
        let size = i64::try_from(natural).unwrap_or(i64::MAX);
        Ok(Some(ImagePart { sha256: found.sha256, format: bootable::for_hosts(&found.disk_format).to_string(), size, metadata }))
    }

    /// An image that compute has made of a server with volumes has no content of its own: a volume of it is made from the
    /// snapshot that it boots from (since 3.46).
    pub(crate) async fn image_snapshot_take(&self, ctx: &Context, wish: &mut VolumeWish) -> Result<()> {
        let Some(reference) = &wish.image else { return Ok(()) };
        // Images that cannot be used are refused where their content is looked for.
        let Ok(image) = self.images.boot_image(ctx, reference.rsplit('/').next().unwrap_or_default()).await else { return Ok(()) };
        let devices = image.properties.get("block_device_mapping").and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
        let boots = |d: &&Value| d["source_type"] == "snapshot" && d["boot_index"] == 0;
        let Some(id) = devices.iter().flatten().find(boots).and_then(|d| d["snapshot_id"].as_str()) else { return Ok(()) };
        self.core.store.read(|tx| self.snapshot_visible_in(tx, ctx, id)).await.map_err(|error| match error.kind() {
            Kind::NotFound => {
                Error::new(Kind::NotFound, format!("Image {} is of a server, and its snapshot {id} could not be found.", image.id))
            }
            _ => error,
        })?;
        (wish.snapshot_id, wish.image) = (Some(id.to_string()), None);
        Ok(())
    }

    pub async fn volume_create(&self, ctx: &Context, wish: VolumeWish) -> Result<Volume> {
        self.authorize("volume:create", ctx, &[("project_id", ctx.project_id())])?;
        if wish.image.is_some() {
            self.authorize("volume:create_from_image", ctx, &[("project_id", ctx.project_id())])?;
        }
        let image = self.volume_image(ctx, wish.image.as_deref()).await?;
        let (this, ctx) = (self.clone(), ctx.clone());
        self.core.store.write(move |tx| this.volume_create_in(tx, &ctx, &wish, image.as_ref())).await
    }

    /// Writes a volume and the operation that makes it.
    pub fn volume_create_in(&self, tx: &Tx, ctx: &Context, wish: &VolumeWish, image: Option<&ImagePart>) -> Result<Volume> {
        let given = [wish.snapshot_id.is_some(), wish.source_volid.is_some(), wish.image.is_some()];
        if given.iter().filter(|g| **g).count() > 1 {
            return Err(Error::invalid("Invalid input received: May specify only one of snapshot, imageRef or source volume"));
        }
        let mut doc = VolumeDoc { metadata: wish.metadata.clone(), wanted_host: wish.host_id.clone(), ..VolumeDoc::default() };
        let (mut least, mut bootable, mut of_source) = (None, false, None);
        if let Some(id) = &wish.snapshot_id {
            let snapshot = self.snapshot_visible_in(tx, ctx, id)?;
            if snapshot.status != "available" {
                return Err(Error::invalid(format!(
                    "Invalid snapshot: Originating snapshot status must be one of 'available' values, not {}",
                    snapshot.status
                )));
            }
            still(&db::volume_get_in(tx, &snapshot.volume_id)?)?;
            doc.image_metadata.clone_from(&snapshot.doc.image_metadata);
            doc.source = Some(VolumeSource::Snapshot { id: id.clone() });
            (least, bootable, of_source) = (Some(snapshot.size), snapshot.doc.bootable, snapshot.doc.type_id);
        } else if let Some(id) = &wish.source_volid {
            let source = self.volume_visible_in(tx, ctx, id)?;
            if !source.status_is(&["available", "in-use"]) {
                return Err(Error::invalid(format!(
                    "Invalid volume: Source volume status must be available or in-use, not {}",
                    source.status
                )));
            }
            still(&source)?;
            doc.image_metadata.clone_from(&source.doc.image_metadata);
            doc.source = Some(VolumeSource::Volume { id: id.clone() });
            (least, bootable, of_source) = (Some(source.size), source.bootable, source.type_id);
        } else if let Some(image) = image {
            doc.image_metadata.clone_from(&image.metadata);
            doc.source = Some(VolumeSource::Image { sha256: image.sha256.clone(), format: image.format.clone() });
            (least, bootable) = (Some(image.size), true);
        }
        let size = match (wish.size, least) {
            (Some(size), Some(least)) if size < least => {
                let what = if image.is_some() { "the image's least size" } else { "the size of what it is made of" };
                return Err(Error::invalid(format!(
                    "Invalid input received: Volume size {size}GB cannot be smaller than {what}, {least}GB."
                )));
            }
            (Some(size), _) => size,
            (None, Some(least)) if image.is_none() => least,
            (None, _) => {
                return Err(Error::invalid(
                    "Invalid input received: Invalid volume size provided for create request: None (size argument must be an integer (or string representation of an integer) and greater than zero).",
                ));
            }
        };
        let kind = self.type_for_in(tx, ctx, wish.volume_type.as_deref(), of_source.as_deref())?;
        if wish.zone.as_deref().is_some_and(|zone| !zone.is_empty() && zone != ZONE) {
            return Err(Error::invalid(format!("Availability zone '{}' is invalid.", wish.zone.as_deref().unwrap_or_default())));
        }
        let project = ctx.project_id();
        let type_name = kind.as_ref().map(|t| t.name.clone());
        quotas::size_fits_in(tx, project, size)?;
        quotas::reserve_in(tx, project, type_name.as_deref(), &[("volumes", 1), ("gigabytes", size)])?;
        let multiattach = kind.as_ref().is_some_and(|t| capabilities::multiattach(&t.doc.extra_specs));
        if multiattach {
            self.authorize("volume:multiattach", ctx, &[("project_id", project)])?;
        }
        if let Some(id) = &wish.group_id {
            let group = self.group_visible_in(tx, ctx, id)?;
            admit(&group, kind.as_ref().map(|t| t.id.as_str()))?;
        }
        doc.type_name = type_name;
        doc.source.get_or_insert(VolumeSource::Blank);
        let now = Timestamp::now();
        let volume = Volume {
            id: base::id::uuid(),
            generation: 1,
            project_id: project.to_string(),
            user_id: ctx.user_id.clone(),
            name: wish.name.clone(),
            description: wish.description.clone(),
            status: "creating".into(),
            size,
            type_id: kind.map(|t| t.id),
            zone: ZONE.into(),
            host_id: None,
            host: None,
            bootable,
            multiattach,
            snapshot_id: wish.snapshot_id.clone(),
            source_volid: wish.source_volid.clone(),
            migration_status: None,
            group_id: wish.group_id.clone(),
            created_at: now,
            updated_at: now,
            spec_generation: 0,
            storage: None,
            doc,
        };
        db::volume_insert_in(tx, &volume)?;
        volume_event_in(tx, "create.start", &volume, ctx, None)?;
        self.core.tasks.submit(tx, op::submit(op::CREATE, &volume, ctx, serde_json::json!({})))?;
        Ok(volume)
    }

    /// The type of a new volume: the named one, that of what it is made of, or the default.
    pub(crate) fn type_for_in(&self, tx: &Tx, ctx: &Context, named: Option<&str>, of_source: Option<&str>) -> Result<Option<VolumeType>> {
        if let Some(name) = named.filter(|n| !n.is_empty()) {
            return self.type_visible_in(tx, ctx, name).map(Some);
        }
        if let Some(id) = of_source {
            return types::type_fetch_in(tx, id);
        }
        types::type_by_name_in(tx, DEFAULT_TYPE)
    }

    /// A type by id or name, if the caller may use it.
    pub fn type_visible_in(&self, tx: &Tx, ctx: &Context, name: &str) -> Result<VolumeType> {
        let found = match types::type_fetch_in(tx, name)? {
            Some(found) => Some(found),
            None => types::type_by_name_in(tx, name)?,
        };
        let found = found.ok_or_else(|| types::not_found(name))?;
        let visible = found.is_public || ctx.is_admin() || types::access_list_in(tx, &found.id)?.iter().any(|p| p == ctx.project_id());
        if visible { Ok(found) } else { Err(types::not_found(name)) }
    }

    pub fn volume_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<Volume> {
        match db::volume_fetch_in(tx, id)? {
            Some(volume) if ctx.is_admin() || volume.project_id == ctx.project_id() => Ok(volume),
            _ => Err(db::not_found(id)),
        }
    }

    pub fn snapshot_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<crate::model::Snapshot> {
        match snapshots::snapshot_fetch_in(tx, id)? {
            Some(snapshot) if ctx.is_admin() || snapshot.project_id == ctx.project_id() => Ok(snapshot),
            _ => Err(snapshots::not_found(id)),
        }
    }
}
