//! REST v1.
//!
//! | route | does |
//! |---|---|
//! | `GET /v1/operations` | lists, newest first: `kind`, `resource_kind`, `resource_id`, `project_id`, `state`, `open`, `limit`, `marker` |
//! | `GET /v1/operations/{id}` | shows one |
//! | `DELETE /v1/operations/{id}` | asks for cancelling: 202, or 409 when it is over |
//!
//! Times are ISO 8601 in UTC, `progress` counts from 0 to 100, `error` is null unless the operation failed.

use base::{Context, Error, Result, Timestamp};
use http_api::{Api, FaultStyle, Page, Request, Response, Routes, Table, json, page};
use serde_json::{Value, json};
use task::{Filter, OperationView, State};

use crate::Operations;

/// Pages are never longer than this.
const PAGE: u64 = 1000;
const FILTERS: &[&str] = &["kind", "resource_kind", "resource_id", "project_id", "state", "open", "limit", "marker"];

pub fn routes(operations: Operations) -> Result<Table> {
    Routes::new(operations, Api { service: "operation", style: FaultStyle::Compute, versions: None, head: false, slash: false })
        .public("GET", "/", root)
        .get("/v1/operations", index)
        .get("/v1/operations/{id}", show)
        .delete("/v1/operations/{id}", cancel)
        .build()
}

async fn root(_: Operations, req: Request) -> Result<Response> {
    let links = json!([{"rel": "self", "href": format!("{}/v1", req.base_url)}]);
    json(200, &json!({"versions": [{"id": "v1.0", "status": "CURRENT", "links": links}]}))
}

fn view(operation: &OperationView) -> Value {
    let time = |at: Timestamp| at.iso_micros_z();
    json!({
        "id": operation.id,
        "kind": operation.kind,
        "resource_kind": operation.resource_kind,
        "resource_id": operation.resource_id,
        "project_id": operation.project_id,
        "state": operation.state.as_str(),
        "step": operation.step,
        "progress": operation.progress,
        "cancel_requested": operation.cancel,
        "error": operation.error,
        "controller": operation.owner,
        "created_at": time(operation.created_at),
        "started_at": operation.started_at.map(time),
        "updated_at": time(operation.updated_at),
        "finished_at": operation.finished_at.map(time),
    })
}

async fn index(operations: Operations, req: Request) -> Result<Response> {
    operations.core.authorize("operation", "operation:list", &req.ctx, &())?;
    if let Some((name, _)) = req.query.0.iter().find(|(name, _)| !FILTERS.contains(&name.as_str())) {
        return Err(Error::invalid(format!("Unknown query parameter '{name}'; known are {}.", FILTERS.join(", "))));
    }
    let page = Page::from_query(&req.query, PAGE, &[])?;
    let get = |name: &str| req.query.get(name).map(str::to_string);
    let state = match req.query.get("state") {
        Some(text) => Some(
            State::parse(text)
                .ok_or_else(|| Error::invalid(format!("state: '{text}' is none of {}.", State::ALL.map(State::as_str).join(", "))))?,
        ),
        None => None,
    };
    let after = match &page.marker {
        // A marker that the caller may not see is no marker.
        Some(id) => {
            let marker = visible(&operations, &req.ctx, id).await.map_err(|_| Error::invalid(format!("marker: no operation {id}.")))?;
            Some((marker.created_at, marker.id))
        }
        None => None,
    };
    let project_id = if req.ctx.is_admin() { get("project_id") } else { Some(req.ctx.project_id().to_string()) };
    // Somebody else's project has nothing to show.
    let elsewhere = get("project_id").is_some_and(|wanted| project_id.as_ref() != Some(&wanted));
    let limit = page.fetch_limit(PAGE);
    let filter = Filter {
        kind: get("kind"),
        resource_kind: get("resource_kind"),
        resource_id: get("resource_id"),
        project_id,
        state,
        open: req.query.flag("open")?.unwrap_or(false),
        after,
        limit: Some(limit),
    };
    let found = if elsewhere || page.limit == Some(0) { Vec::new() } else { operations.core.tasks.list(&filter).await? };
    let mut body = json!({"operations": found.iter().map(view).collect::<Vec<_>>()});
    if let Some(last) = found.last().filter(|_| found.len() as u64 == limit) {
        body["operations_links"] = json!([{"rel": "next", "href": page::link_with_marker(&req, &last.id, None)}]);
    }
    json(200, &body)
}

/// The operation, if the caller may know of it.
async fn visible(operations: &Operations, ctx: &Context, id: &str) -> Result<OperationView> {
    let found = operations.core.tasks.show(id).await?;
    let target = [("project_id", found.project_id.as_str())];
    match operations.core.authorize("operation", "operation:show", ctx, &target) {
        Ok(()) => Ok(found),
        Err(_) => Err(Error::not_found("Operation", id)),
    }
}

async fn show(operations: Operations, req: Request) -> Result<Response> {
    let found = visible(&operations, &req.ctx, req.param("id")).await?;
    json(200, &json!({"operation": view(&found)}))
}

async fn cancel(operations: Operations, req: Request) -> Result<Response> {
    let found = visible(&operations, &req.ctx, req.param("id")).await?;
    operations.core.authorize("operation", "operation:cancel", &req.ctx, &[("project_id", found.project_id.as_str())])?;
    operations.core.tasks.cancel(&found.id).await?;
    json(202, &json!({"operation": view(&operations.core.tasks.show(&found.id).await?)}))
}
