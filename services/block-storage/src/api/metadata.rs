//! `/volumes/{id}/metadata` and `/snapshots/{id}/metadata`.

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::body::{self, inner, need};
use crate::Volumes;
use crate::db::{snapshots as snapshot_db, volumes as db};
use crate::model::Metadata;

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/volumes/{id}/metadata", volume_show)
        .post("/volumes/{id}/metadata", volume_add)
        .put("/volumes/{id}/metadata", volume_replace)
        .get("/volumes/{id}/metadata/{key}", volume_item)
        .put("/volumes/{id}/metadata/{key}", volume_put)
        .delete("/volumes/{id}/metadata/{key}", volume_remove)
        .get("/snapshots/{id}/metadata", snapshot_show)
        .post("/snapshots/{id}/metadata", snapshot_add)
        .put("/snapshots/{id}/metadata", snapshot_replace)
        .get("/snapshots/{id}/metadata/{key}", snapshot_item)
        .put("/snapshots/{id}/metadata/{key}", snapshot_put)
        .delete("/snapshots/{id}/metadata/{key}", snapshot_remove)
}

fn missing(key: &str) -> Error {
    Error::new(Kind::NotFound, format!("Metadata item '{key}' was not found"))
}

/// What a request does to metadata.
enum Change {
    Add(Metadata),
    Replace(Metadata),
    Remove(String),
}

impl Change {
    fn apply(self, metadata: &mut Metadata) -> Result<()> {
        match self {
            Change::Add(more) => metadata.extend(more),
            Change::Replace(all) => *metadata = all,
            Change::Remove(key) => drop(metadata.remove(&key).ok_or_else(|| missing(&key))?),
        }
        if metadata.len() > 128 {
            return Err(Error::invalid("Metadata has too many items: 128 are allowed.").with_status(413));
        }
        Ok(())
    }
}

fn read(req: &Request) -> Result<Metadata> {
    let body = req.object()?;
    body::only(&body, &["metadata"])?;
    need("metadata", body::metadata("metadata", body.get("metadata"))?)
}

/// The one pair of a body `{"meta": {key: value}}`, which must be the path's.
fn item(req: &Request) -> Result<Metadata> {
    let pairs = need("meta", body::metadata("meta", Some(&Value::Object(inner(req, "meta", &[])?)))?)?;
    let key = req.param("key");
    if pairs.len() != 1 {
        return Err(Error::invalid("Request body contains too many items"));
    }
    if pairs.contains_key(key) { Ok(pairs) } else { Err(Error::invalid("Request body and URI mismatch")) }
}

async fn on_volume(volumes: &Volumes, req: &Request, rule: &'static str, change: Change) -> Result<Metadata> {
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |_, tx, _, volume| {
            change.apply(&mut volume.doc.metadata)?;
            db::volume_update_in(tx, volume)?;
            Ok(volume.doc.metadata.clone())
        })
        .await
}

async fn on_snapshot(volumes: &Volumes, req: &Request, rule: &'static str, change: Change) -> Result<Metadata> {
    volumes
        .snapshot_change(&req.ctx, req.param("id"), rule, move |_, tx, _, snapshot| {
            change.apply(&mut snapshot.doc.metadata)?;
            snapshot_db::snapshot_update_in(tx, snapshot)?;
            Ok(snapshot.doc.metadata.clone())
        })
        .await
}

fn one(metadata: &Metadata, key: &str) -> Result<Response> {
    let value = metadata.get(key).ok_or_else(|| missing(key))?;
    json(200, &json!({"meta": {key: value}}))
}

async fn volume_show(volumes: Volumes, req: Request) -> Result<Response> {
    let volume = volumes.volume_for(&req.ctx, req.param("id"), "volume:get_volume_metadata").await?;
    json(200, &json!({"metadata": volume.doc.metadata}))
}
async fn volume_add(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_volume(&volumes, &req, "volume:create_volume_metadata", Change::Add(read(&req)?)).await?;
    json(200, &json!({ "metadata": all }))
}
async fn volume_replace(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_volume(&volumes, &req, "volume:update_volume_metadata", Change::Replace(read(&req)?)).await?;
    json(200, &json!({ "metadata": all }))
}
async fn volume_item(volumes: Volumes, req: Request) -> Result<Response> {
    let volume = volumes.volume_for(&req.ctx, req.param("id"), "volume:get_volume_metadata").await?;
    one(&volume.doc.metadata, req.param("key"))
}
async fn volume_put(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_volume(&volumes, &req, "volume:update_volume_metadata", Change::Add(item(&req)?)).await?;
    one(&all, req.param("key"))
}
async fn volume_remove(volumes: Volumes, req: Request) -> Result<Response> {
    on_volume(&volumes, &req, "volume:delete_volume_metadata", Change::Remove(req.param("key").into())).await?;
    empty(200)
}

async fn snapshot_show(volumes: Volumes, req: Request) -> Result<Response> {
    let snapshot = volumes.snapshot_for(&req.ctx, req.param("id"), "volume:get_snapshot_metadata").await?;
    json(200, &json!({"metadata": snapshot.doc.metadata}))
}
async fn snapshot_add(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_snapshot(&volumes, &req, "volume:update_snapshot_metadata", Change::Add(read(&req)?)).await?;
    json(200, &json!({ "metadata": all }))
}
async fn snapshot_replace(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_snapshot(&volumes, &req, "volume:update_snapshot_metadata", Change::Replace(read(&req)?)).await?;
    json(200, &json!({ "metadata": all }))
}
async fn snapshot_item(volumes: Volumes, req: Request) -> Result<Response> {
    let snapshot = volumes.snapshot_for(&req.ctx, req.param("id"), "volume:get_snapshot_metadata").await?;
    one(&snapshot.doc.metadata, req.param("key"))
}
async fn snapshot_put(volumes: Volumes, req: Request) -> Result<Response> {
    let all = on_snapshot(&volumes, &req, "volume:update_snapshot_metadata", Change::Add(item(&req)?)).await?;
    one(&all, req.param("key"))
}
async fn snapshot_remove(volumes: Volumes, req: Request) -> Result<Response> {
    on_snapshot(&volumes, &req, "volume:delete_snapshot_metadata", Change::Remove(req.param("key").into())).await?;
    empty(200)
}
