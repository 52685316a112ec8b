//! Images made of volumes.

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::Volumes;
use crate::db::types::{self, VolumeType};
use crate::db::volumes as db;
use crate::model::Volume;
use crate::notify::volume_event_in;
use crate::op::{self, upload};
use crate::volumes::{changeable_in, invalid};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct UploadWish {
    pub name: String,
    pub disk_format: String,
    pub container_format: String,
    /// None: as before 3.1, the image is private and not protected.
    pub visibility: Option<String>,
    pub protected: bool,
    /// Also of a volume that is in use.
    pub force: bool,
}

/// Formats an image may have: by which name users and hosts call each.
const FORMATS: &[(&str, &str)] = &[("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vhd"), ("vhdx", "vhdx")];

/// What a volume notes of its image that is not for other images made of the volume.
const CORE: &[&str] = &[
    "checksum",
    "container_format",
    "disk_format",
    "image_id",
    "image_name",
    "img_signature",
    "img_signature_certificate_uuid",
    "img_signature_hash_method",
    "img_signature_key_type",
    "min_disk",
    "min_ram",
    "name",
    "size",
];

impl Volumes {
    /// Begins an image of a volume; answers the volume, its type and the image's id.
    pub async fn volume_upload(&self, ctx: &Context, id: &str, wish: UploadWish) -> Result<(Volume, Option<VolumeType>, String)> {
        let volume = self.volume_for(ctx, id, "volume_extension:volume_actions:upload_image").await?;
        if wish.visibility.as_deref() == Some("public") {
            self.authorize("volume_extension:volume_actions:upload_public", ctx, &volume)?;
        }
        let format = FORMATS.iter().find(|(name, _)| *name == wish.disk_format).map(|(_, host)| host.to_string());
        let format = format.ok_or_else(|| {
            Error::invalid(format!("Invalid input received: no image of format {} is made of volumes here.", wish.disk_format))
        })?;
        let mut body: Map<String, Value> = volume
            .doc
            .image_metadata
            .iter()
            .filter(|(key, _)| !CORE.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        body.insert("name".into(), json!(wish.name));
        body.insert("disk_format".into(), json!(wish.disk_format));
        body.insert("container_format".into(), json!(wish.container_format));
        body.insert("visibility".into(), json!(wish.visibility.as_deref().unwrap_or("private")));
        body.insert("protected".into(), json!(wish.protected));
        let image = self.images.image_draft(ctx, body)?;
        let image_id = image.id.clone();
        self.volume_change(ctx, id, "volume_extension:volume_actions:upload_image", move |this, tx, ctx, volume| {
            changeable_in(tx, volume)?;
            let fits = volume.status == "available" || (wish.force && volume.status == "in-use");
            if !fits {
                let allowed = if wish.force { "available/in-use" } else { "available" };
                let (id, is) = (&volume.id, &volume.status);
                return Err(invalid(format!("Volume {id} status must be {allowed}, but current status is {is}.")));
            }
            this.images.image_insert_in(tx, ctx, &image)?;
            volume.doc.previous_status = Some(std::mem::replace(&mut volume.status, "uploading".into()));
            db::volume_update_in(tx, volume)?;
            volume_event_in(tx, "copy_to_image.start", volume, ctx, None)?;
            let params = upload::Params { image_id: image.id.clone(), export: base::id::uuid(), format };
            let params = serde_json::to_value(params).map_err(|e| Error::internal("writing an operation's parameters").caused_by(e))?;
            this.core.tasks.submit(tx, op::submit(op::UPLOAD, volume, ctx, params))?;
            let kind = volume.type_id.as_ref().map(|id| types::type_fetch_in(tx, id)).transpose()?.flatten();
            Ok((volume.clone(), kind))
        })
        .await
        .map(|(volume, kind)| (volume, kind, image_id))
    }
}
