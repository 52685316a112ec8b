//! `/servers/{id}/os-volume_attachments`.

use base::{Error, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};

use crate::Compute;
use crate::api::server_body::MULTIATTACH;
use crate::db::volumes::ServerVolume;
use crate::fields::{self, Fields};
use crate::volumes::{AttachWish, KeepWish, attached};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers/{id}/os-volume_attachments", index)
        .post("/servers/{id}/os-volume_attachments", create)
        .get("/servers/{id}/os-volume_attachments/{volume}", show)
        .put("/servers/{id}/os-volume_attachments/{volume}", update)
        .delete("/servers/{id}/os-volume_attachments/{volume}", delete)
}

/// From here on also servers on the shelf get and lose volumes.
const SHELVED: Version = Version::new(2, 20);

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

fn view(volume: &ServerVolume, version: Version, short: bool) -> Value {
    let mut view = json!({"serverId": volume.server_id, "volumeId": volume.volume_id, "device": volume.device});
    if version < v(89) {
        view["id"] = json!(volume.volume_id);
    }
    if version >= v(70) {
        view["tag"] = json!(volume.tag);
    }
    if version >= v(79) {
        view["delete_on_termination"] = json!(volume.delete_on_termination);
    }
    if version >= v(89) && !short {
        view["attachment_id"] = json!(volume.attachment_id);
        view["bdm_uuid"] = json!(volume.id);
    }
    view
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    let number = |name: &str| -> Result<Option<usize>> {
        match req.query.get(name) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Error::invalid(format!("Invalid input for query parameters {name}. Value: {text}.")))
            }
        }
    };
    let (limit, offset) = (number("limit")?, number("offset")?.unwrap_or(0));
    let all = compute.volumes_list(&req.ctx, req.param("id"), "os_compute_api:os-volumes-attachments:index").await?;
    let most = usize::try_from(compute.core.config.int("api.max_limit")).unwrap_or(usize::MAX);
    let shown: Vec<Value> = all.iter().skip(offset).take(limit.unwrap_or(most).min(most)).map(|a| view(a, req.version, false)).collect();
    json(200, &json!({ "volumeAttachments": shown }))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    let id = req.param("id");
    let all = compute.volumes_list(&req.ctx, id, "os_compute_api:os-volumes-attachments:show").await?;
    json(200, &json!({"volumeAttachment": view(&attached(all, id, req.param("volume"))?, req.version, false)}))
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let wish = root.need("volumeAttachment", |f| {
        let mut f = Fields::of(f)?;
        let device = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
        let wish = AttachWish {
            volume_id: f.need("volumeId", fields::uuid)?,
            device: f.take("device", fields::nullable(fields::text_of(1, 255, device, "letters, digits and ._/-")))?.flatten(),
            tag: f.take_if(req.version >= v(49), "tag", fields::tag)?,
            delete_on_termination: f.take_if(req.version >= v(79), "delete_on_termination", fields::boolean)?.unwrap_or(false),
            shelved: req.version >= SHELVED,
            multiattach: req.version >= MULTIATTACH,
        };
        f.finish()?;
        Ok(wish)
    })?;
    root.finish()?;
    let made = compute.volume_attach(&req.ctx, req.param("id"), wish).await?;
    json(200, &json!({"volumeAttachment": view(&made, req.version, true)}))
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let newer = req.version >= v(85);
    let mut root = Fields::root(&body, req.version);
    let (volume, wish) = root.need("volumeAttachment", |f| {
        let mut f = Fields::of(f)?;
        let volume = f.need("volumeId", fields::uuid)?;
        let wish = KeepWish {
            id: f.take_if(newer, "id", fields::uuid)?,
            server_id: f.take_if(newer, "serverId", fields::uuid)?,
            device: f.take_if(newer, "device", fields::nullable(fields::text(0, 255)))?,
            tag: f.take_if(newer, "tag", fields::nullable(fields::text(0, 255)))?,
            delete_on_termination: f.take_if(newer, "delete_on_termination", fields::boolean)?,
        };
        f.finish()?;
        Ok((volume, wish))
    })?;
    root.finish()?;
    let (id, old) = (req.param("id"), req.param("volume"));
    if newer && volume == old {
        compute.volume_keep(&req.ctx, id, old, wish).await?;
        return empty(202);
    }
    compute.server_for(&req.ctx, id, "os_compute_api:os-volumes-attachments:swap").await?;
    compute.volumes.volume_facts(&req.ctx, old).await?;
    // Upstream lets nobody but the block storage service do this, and that only while it moves a volume to another backend.
    // Here no volume is ever on its way to another one.
    Err(Error::conflict(format!("volume {old} is not migrating; this API should only be called by Cinder")))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.volume_detach(&req.ctx, req.param("id"), req.param("volume"), req.version >= SHELVED).await?;
    empty(202)
}
