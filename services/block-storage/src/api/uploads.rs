//! `os-volume_upload_image`.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Map, Value, json};

use super::body::{self, need, only, wrong};
use super::{at_least, time};
use crate::Volumes;
use crate::db::types::VolumeType;
use crate::uploads::UploadWish;

const DISK: &[&str] = &["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"];
const VISIBILITIES: &[&str] = &["community", "public", "private", "shared"];

fn wish(map: &Map<String, Value>, since_31: bool) -> Result<UploadWish> {
    let known = ["image_name", "force", "container_format", "disk_format"];
    only(map, if since_31 { &["image_name", "force", "container_format", "disk_format", "visibility", "protected"] } else { &known })?;
    let name = need("image_name", map.get("image_name"))?;
    let name =
        body::text(map, "image_name")?.filter(|n| !n.is_empty()).ok_or_else(|| wrong("image_name", format!("{name} is too short")))?;
    let word = |name: &str, known: &[&str]| match body::text(map, name)? {
        Some(text) if !known.contains(&text.as_str()) => Err(wrong(name, format!("'{text}' is not one of {known:?}"))),
        other => Ok(other),
    };
    Ok(UploadWish {
        name,
        disk_format: word("disk_format", DISK)?.unwrap_or_else(|| "raw".into()),
        container_format: body::text(map, "container_format")?.filter(|f| !f.is_empty()).unwrap_or_else(|| "bare".into()),
        visibility: word("visibility", VISIBILITIES)?,
        protected: body::flag(map, "protected")?.unwrap_or(false),
        force: body::flag(map, "force")?.unwrap_or(false),
    })
}

fn type_view(volumes: &Volumes, req: &Request, t: &VolumeType) -> Value {
    json!({
        "id": t.id,
        "name": t.name,
        "description": t.description,
        "is_public": t.is_public,
        "qos_specs_id": t.qos_specs_id,
        "extra_specs": super::types::visible_specs(volumes, req, t),
        "created_at": time(t.created_at),
        "updated_at": time(t.updated_at),
        "deleted": false,
        "deleted_at": null,
    })
}

pub async fn upload(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    let since_31 = at_least(&req, 1);
    let wish = wish(&map, since_31)?;
    let (volume, kind, image_id) = volumes.volume_upload(&req.ctx, req.param("id"), wish.clone()).await?;
    let mut shown = json!({
        "id": volume.id,
        "updated_at": time(volume.updated_at),
        "status": volume.status,
        "display_description": volume.description,
        "size": volume.size,
        "volume_type": kind.as_ref().map(|t| type_view(&volumes, &req, t)),
        "image_id": image_id,
        "container_format": wish.container_format,
        "disk_format": wish.disk_format,
        "image_name": wish.name,
    });
    if since_31 {
        shown["visibility"] = json!(wish.visibility.as_deref().unwrap_or("private"));
        shown["protected"] = json!(wish.protected);
    }
    json(202, &json!({ "os-volume_upload_image": shown }))
}
