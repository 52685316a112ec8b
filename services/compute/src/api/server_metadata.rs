//! `/servers/{id}/metadata` (compute API reference, "Server metadata").

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::json;
use store::Tx;

use super::servers::no_query;
use crate::Compute;
use crate::db::actions;
use crate::db::servers::Server;
use crate::fields::{self, Fields};
use crate::servers::{metadata_fits_in, require_unlocked, wrong_state};
use crate::states::vm;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers/{id}/metadata", index)
        .post("/servers/{id}/metadata", create)
        .put("/servers/{id}/metadata", update_all)
        .get("/servers/{id}/metadata/{key}", show)
        .put("/servers/{id}/metadata/{key}", update)
        .delete("/servers/{id}/metadata/{key}", delete)
}

fn no_item() -> Error {
    Error::new(Kind::NotFound, "Metadata item was not found")
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:server-metadata:index").await?;
    json(200, &json!({"metadata": server.doc.metadata}))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:server-metadata:show").await?;
    let key = req.param("key");
    let value = server.doc.metadata.get(key).ok_or_else(no_item)?;
    json(200, &json!({"meta": {key: value}}))
}

fn items(req: &Request, name: &str) -> Result<BTreeMap<String, String>> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let items = root.need(name, fields::metadata)?;
    root.finish()?;
    Ok(items)
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    let items = items(&req, "metadata")?;
    let metadata = change(&compute, &req, "os_compute_api:server-metadata:create", move |now| now.extend(items)).await?;
    json(200, &json!({"metadata": metadata}))
}

async fn update_all(compute: Compute, req: Request) -> Result<Response> {
    let items = items(&req, "metadata")?;
    let metadata = change(&compute, &req, "os_compute_api:server-metadata:update_all", move |now| *now = items).await?;
    json(200, &json!({"metadata": metadata}))
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    let items = items(&req, "meta")?;
    if items.len() != 1 {
        return Err(Error::invalid("Invalid input for field/attribute meta. It must hold exactly one item."));
    }
    if !items.contains_key(req.param("key")) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    let shown = items.clone();
    change(&compute, &req, "os_compute_api:server-metadata:update", move |now| now.extend(items)).await?;
    json(200, &json!({"meta": shown}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    let rule = "os_compute_api:server-metadata:delete";
    let server = compute.server_for(&req.ctx, req.param("id"), rule).await?;
    let key = req.param("key").to_string();
    if !server.doc.metadata.contains_key(&key) {
        return Err(no_item());
    }
    change(&compute, &req, rule, move |now| drop(now.remove(&key))).await?;
    empty(204)
}

/// Changes a server's metadata and lets its guest know.
async fn change(
    compute: &Compute,
    req: &Request,
    rule: &str,
    edit: impl FnOnce(&mut BTreeMap<String, String>) + Send + 'static,
) -> Result<BTreeMap<String, String>> {
    let id = req.param("id");
    compute.server_for(&req.ctx, id, rule).await?;
    compute
        .server_change(&req.ctx, id, move |this: &Compute, tx: &Tx, ctx: &Context, server: &mut Server| {
            require_unlocked(server, ctx)?;
            if ![vm::ACTIVE, vm::PAUSED, "suspended", vm::STOPPED].contains(&server.vm_state.as_str()) {
                return Err(wrong_state("update metadata", server, "vm_state"));
            }
            edit(&mut server.doc.metadata);
            metadata_fits_in(tx, &server.project_id, &server.doc.metadata)?;
            this.server_changed_in(tx, server, true)?;
            actions::action_start_in(tx, &server.id, "update_metadata", ctx)?;
            crate::notify::server_event_in(tx, "update", server, ctx, None)?;
            Ok(server.doc.metadata.clone())
        })
        .await
}
