//! `/os-volumes` and `/os-snapshots`: the block storage's, before 2.36.

use std::collections::BTreeMap;

use base::{Error, Kind, Result};
use block_storage::model::{Attachment, Snapshot, Volume};
use block_storage::{SnapshotWish, VolumeWish};
use http_api::{Request, Response, Routes, empty, json, response};
use serde_json::{Value, json};

use super::proxies::{self, allowed};
use crate::Compute;
use crate::fields::{self, Field, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-volumes", index)
        .post("/os-volumes", create)
        .get("/os-volumes/detail", detail)
        .get("/os-volumes/{id}", show)
        .delete("/os-volumes/{id}", delete)
        .get("/os-snapshots", snapshot_index)
        .post("/os-snapshots", snapshot_create)
        .get("/os-snapshots/detail", snapshot_detail)
        .get("/os-snapshots/{id}", snapshot_show)
        .delete("/os-snapshots/{id}", snapshot_delete)
}

/// A block storage's fault as compute tells it: what is too much is forbidden.
fn told(error: Error) -> Error {
    let kind = match error.kind() {
        Kind::QuotaExceeded => Kind::Forbidden,
        kind => kind,
    };
    if error.status().is_none() && kind == error.kind() { error } else { Error::new(kind, error.message().to_string()).caused_by(error) }
}

fn view(volume: &Volume, attached: &[Attachment]) -> Value {
    let attachment = attached.iter().find(|a| a.status == "attached").map(|a| {
        let mut view = json!({"id": volume.id, "volumeId": volume.id, "serverId": a.server_id});
        if let Some(device) = a.mountpoint.as_ref().filter(|m| !m.is_empty()) {
            view["device"] = json!(device);
        }
        view
    });
    json!({
        "id": volume.id,
        "status": volume.status,
        "size": volume.size,
        "availabilityZone": volume.zone,
        "createdAt": volume.created_at.iso_micros(),
        "attachments": [attachment.unwrap_or_else(|| json!({}))],
        "displayName": volume.name,
        "displayDescription": volume.description,
        "volumeType": volume.doc.type_name,
        "snapshotId": volume.snapshot_id,
        "metadata": volume.doc.metadata,
    })
}

async fn list(compute: &Compute, req: &Request, rule: &str) -> Result<Response> {
    allowed(compute, req, rule)?;
    let (offset, limit) = proxies::slice(compute, req)?;
    let volumes = compute.volumes.volumes_list(&req.ctx, offset, limit).await?;
    json(200, &json!({"volumes": volumes.iter().map(|(volume, attached)| view(volume, attached)).collect::<Vec<_>>()}))
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    list(&compute, &req, "os_compute_api:os-volumes:list").await
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    list(&compute, &req, "os_compute_api:os-volumes:detail").await
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:show")?;
    let (volume, attached) = compute.volumes.volume_with(&req.ctx, req.param("id")).await?;
    json(200, &json!({"volume": view(&volume, &attached)}))
}

fn metadata(field: Field) -> Result<BTreeMap<String, String>> {
    let map = field.value.as_object().ok_or_else(|| field.wrong(format!("{} is not of type 'object'", field.value)))?;
    let pair = |(key, value): (&String, &Value)| {
        let at = format!("{}.{key}", field.at);
        Ok((key.clone(), fields::text(0, 255)(Field { at: &at, value, ..field })?))
    };
    if map.keys().any(|key| key.is_empty() || key.chars().count() > 255) {
        return Err(field.wrong("a key has 1 to 255 characters"));
    }
    map.iter().map(pair).collect()
}

fn text(field: Field) -> Result<String> {
    fields::text(0, 255)(field)
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:create")?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let wish = root.need("volume", |field| {
        let mut f = Fields::of(field)?;
        let wish = VolumeWish {
            size: Some(f.need("size", fields::positive)?),
            name: f.take("display_name", text)?,
            description: f.take("display_description", text)?,
            volume_type: f.take("volume_type", text)?,
            zone: f.take("availability_zone", text)?,
            metadata: f.take("metadata", metadata)?.unwrap_or_default(),
            snapshot_id: f.take("snapshot_id", text)?,
            ..VolumeWish::default()
        };
        f.finish()?;
        Ok(wish)
    })?;
    root.finish()?;
    let volume = compute.volumes.volume_create(&req.ctx, wish).await.map_err(told)?;
    let mut answer = json(200, &json!({"volume": view(&volume, &[])}))?;
    response::set_header(&mut answer, "location", &format!("{}{}/{}", req.root_url, req.path, volume.id));
    Ok(answer)
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:delete")?;
    compute.volumes.volume_delete(&req.ctx, req.param("id"), false, false).await.map_err(told)?;
    empty(202)
}

fn snapshot_view(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id,
        "volumeId": snapshot.volume_id,
        "status": snapshot.status,
        "size": snapshot.size,
        "createdAt": snapshot.created_at.iso_micros(),
        "displayName": snapshot.name,
        "displayDescription": snapshot.description,
    })
}

async fn snapshot_list(compute: &Compute, req: &Request, rule: &str) -> Result<Response> {
    allowed(compute, req, rule)?;
    let (offset, limit) = proxies::slice(compute, req)?;
    let snapshots = compute.volumes.snapshots_list(&req.ctx, offset, limit).await?;
    json(200, &json!({"snapshots": snapshots.iter().map(snapshot_view).collect::<Vec<_>>()}))
}

async fn snapshot_index(compute: Compute, req: Request) -> Result<Response> {
    snapshot_list(&compute, &req, "os_compute_api:os-volumes:snapshots:list").await
}

async fn snapshot_detail(compute: Compute, req: Request) -> Result<Response> {
    snapshot_list(&compute, &req, "os_compute_api:os-volumes:snapshots:detail").await
}

async fn snapshot_show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:snapshots:show")?;
    let snapshot = compute.volumes.snapshot_for(&req.ctx, req.param("id"), "volume:get_snapshot").await?;
    json(200, &json!({"snapshot": snapshot_view(&snapshot)}))
}

async fn snapshot_create(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:snapshots:create")?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let wish = root.need("snapshot", |field| {
        let mut f = Fields::of(field)?;
        let wish = SnapshotWish {
            volume_id: f.need("volume_id", text)?,
            force: f.take("force", fields::boolean)?.unwrap_or(false),
            name: f.take("display_name", text)?,
            description: f.take("display_description", text)?,
            ..SnapshotWish::default()
        };
        f.finish()?;
        Ok(wish)
    })?;
    root.finish()?;
    let snapshot = compute.volumes.snapshot_create(&req.ctx, wish).await.map_err(told)?;
    json(200, &json!({"snapshot": snapshot_view(&snapshot)}))
}

async fn snapshot_delete(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-volumes:snapshots:delete")?;
    compute.volumes.snapshot_delete(&req.ctx, req.param("id"), false).await.map_err(told)?;
    empty(202)
}
