//! `/servers/{id}/tags`, from version 2.26 (compute API reference, "Server tags").

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, Version, empty, json, response};
use serde_json::json;
use store::Tx;

use super::server_view::Links;
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::db::tags;
use crate::fields::{self, Field, Fields};
use crate::servers::wrong_state;
use crate::states::vm;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers/{id}/tags", index)
        .put("/servers/{id}/tags", update_all)
        .delete("/servers/{id}/tags", delete_all)
        .get("/servers/{id}/tags/{tag}", show)
        .put("/servers/{id}/tags/{tag}", update)
        .delete("/servers/{id}/tags/{tag}", delete)
}

const MOST: usize = 50;

fn offered(req: &Request) -> Result<()> {
    if req.version < Version::new(2, 26) {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    Ok(())
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-server-tags:index").await?;
    let tags = compute.core.store.read(|tx| tags::tag_list_in(tx, &server.id)).await?;
    json(200, &json!({ "tags": tags }))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-server-tags:show").await?;
    let tags = compute.core.store.read(|tx| tags::tag_list_in(tx, &server.id)).await?;
    let tag = req.param("tag");
    if tags.iter().any(|t| t == tag) { empty(204) } else { Err(no_tag(&server.id, tag)) }
}

fn no_tag(server_id: &str, tag: &str) -> Error {
    Error::new(Kind::NotFound, format!("Server {server_id} has no tag '{tag}'"))
}

async fn update_all(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let mut wanted = root.need("tags", fields::list(MOST, fields::tag))?;
    root.finish()?;
    wanted.sort();
    wanted.dedup();
    let tags = change(&compute, &req, "os_compute_api:os-server-tags:update_all", "update tags", move |tx, server| {
        tags::tags_clear_in(tx, &server.id)?;
        for tag in &wanted {
            tags::tag_add_in(tx, &server.id, tag)?;
        }
        Ok(wanted)
    })
    .await?;
    json(200, &json!({ "tags": tags }))
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    let tag = req.param("tag").to_string();
    let checked = tag.clone();
    let new = change(&compute, &req, "os_compute_api:os-server-tags:update", "update tag", move |tx, server| {
        fields::tag(Field { at: "tag", value: &json!(checked), relaxed: false }).map_err(|error| {
            Error::invalid(format!("Tag '{checked}' is invalid. It must be a non empty string without characters '/' and ','. {error}"))
        })?;
        if tags::tag_list_in(tx, &server.id)?.len() >= MOST {
            return Err(Error::invalid(format!("The number of tags exceeded the per-server limit {MOST}")));
        }
        tags::tag_add_in(tx, &server.id, &checked)
    })
    .await?;
    if !new {
        return empty(204);
    }
    let mut answer = empty(201)?;
    let path = format!("servers/{}/tags/{}", req.param("id"), http_api::query::encode(&tag));
    response::set_header(&mut answer, "location", &Links::new(&req).own(&path));
    Ok(answer)
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    let tag = req.param("tag").to_string();
    change(&compute, &req, "os_compute_api:os-server-tags:delete", "delete tag", move |tx, server| {
        if tags::tag_delete_in(tx, &server.id, &tag)? { Ok(()) } else { Err(no_tag(&server.id, &tag)) }
    })
    .await?;
    empty(204)
}

async fn delete_all(compute: Compute, req: Request) -> Result<Response> {
    offered(&req)?;
    change(&compute, &req, "os_compute_api:os-server-tags:delete_all", "delete tags", |tx, server| tags::tags_clear_in(tx, &server.id))
        .await?;
    empty(204)
}

/// Changes tags of a server that is in a state to have them changed.
async fn change<T: Send + 'static>(
    compute: &Compute,
    req: &Request,
    rule: &str,
    what: &'static str,
    edit: impl FnOnce(&Tx, &Server) -> Result<T> + Send + 'static,
) -> Result<T> {
    compute.server_for(&req.ctx, req.param("id"), rule).await?;
    compute
        .server_change(&req.ctx, req.param("id"), move |_, tx, ctx, server| {
            if ![vm::ACTIVE, vm::PAUSED, "suspended", vm::STOPPED].contains(&server.vm_state.as_str()) {
                return Err(wrong_state(what, server, "vm_state"));
            }
            let done = edit(tx, server)?;
            db::server_save_in(tx, server)?;
            crate::notify::server_event_in(tx, "update", server, ctx, None)?;
            Ok(done)
        })
        .await
}
