//! `/os-migrations` and `/servers/{id}/migrations`.

use base::{Error, Kind, Result, Timestamp};
use http_api::{Request, Response, Routes, Version, empty, json, query};
use serde_json::{Value, json};

use super::server_view::Links;
use crate::Compute;
use crate::db::migrations::{self as db, Filter, Migration};
use crate::db::servers::Server;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-migrations", index)
        .get("/servers/{id}/migrations", server_index)
        .get("/servers/{id}/migrations/{migration}", server_show)
        .post("/servers/{id}/migrations/{migration}/action", server_action)
        .delete("/servers/{id}/migrations/{migration}", server_delete)
}

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

fn view(migration: &Migration, version: Version, hosts: bool) -> Value {
    let place = |host: &Option<String>| if hosts { json!(host) } else { Value::Null };
    let mut view = json!({
        "id": migration.id,
        "instance_uuid": migration.server_id,
        "status": migration.status,
        "source_compute": place(&migration.source),
        "source_node": place(&migration.source),
        "dest_compute": place(&migration.dest),
        "dest_node": place(&migration.dest),
        "dest_host": null,
        "old_instance_type_id": null,
        "new_instance_type_id": null,
        "created_at": migration.created_at.iso_micros(),
        "updated_at": migration.updated_at.iso_micros(),
    });
    if version >= v(23) {
        view["migration_type"] = json!(migration.kind);
    }
    if version >= v(59) {
        view["uuid"] = json!(migration.uuid);
    }
    if version >= v(80) {
        view["user_id"] = json!(migration.user_id);
        view["project_id"] = json!(migration.project_id);
    }
    view
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    let (ctx, version) = (&req.ctx, req.version);
    let own = [("project_id", ctx.project_id())];
    compute.authorize("os_compute_api:os-migrations:index", ctx, &own)?;
    let paged = version >= v(59);
    let known = |name: &str| match name {
        "hidden" | "host" | "instance_uuid" | "source_compute" | "status" | "migration_type" => true,
        "limit" | "marker" | "changes-since" => paged,
        "changes-before" => version >= v(66),
        "user_id" | "project_id" => version >= v(80),
        _ => false,
    };
    if let Some((name, _)) = req.query.0.iter().find(|(name, _)| paged && !known(name)) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let text = |name: &str| req.query.get(name).filter(|_| known(name)).map(str::to_string);
    let project = text("project_id");
    if project.as_deref() != Some(ctx.project_id()) {
        compute.authorize("os_compute_api:os-migrations:index:all_projects", ctx, &own)?;
    }
    let time = |name: &str| {
        let bad = |text: &str| Error::invalid(format!("Invalid input for query parameters {name}. '{text}' is not a 'date-time'"));
        text(name).map(|text| Timestamp::parse(&text).ok_or_else(|| bad(&text))).transpose()
    };
    let (since, before) = (time("changes-since")?, time("changes-before")?);
    if since.zip(before).is_some_and(|(since, before)| before < since) {
        return Err(Error::invalid("The value of changes-since must be less than or equal to changes-before."));
    }
    // None of ours is hidden.
    let hidden = text("hidden").is_some_and(|text| matches!(text.to_lowercase().as_str(), "1" | "true" | "t" | "yes" | "y" | "on"));
    let max = compute.core.config.int("api.max_limit");
    let limit = match text("limit") {
        Some(text) => text.parse::<u64>().map_err(|_| Error::invalid("limit must be a non-negative integer"))?.min(max),
        None => max,
    };
    let filter = Filter {
        host: text("host"),
        source: text("source_compute"),
        server_id: text("instance_uuid"),
        kind: text("migration_type"),
        status: text("status"),
        user_id: text("user_id"),
        project_id: project,
        since,
        before,
        marker: text("marker"),
        limit,
    };
    let mut found = compute.core.store.read(|tx| db::migration_list_in(tx, &filter)).await?;
    found.retain(|_| !hidden);
    let hosts = compute.may("os_compute_api:os-migrations:index:host", ctx, &own);
    let shown = |migration: &Migration| {
        let mut view = view(migration, version, hosts);
        if version >= v(23) && migration.kind == LIVE && is_in_progress(migration) {
            view["links"] = Links::new(&req).of(&format!("servers/{}/migrations", migration.server_id), &migration.id.to_string());
        }
        view
    };
    let mut body = json!({"migrations": found.iter().map(shown).collect::<Vec<_>>()});
    if let Some(last) = found.last().filter(|_| paged && limit > 0 && found.len() as u64 == limit) {
        let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker").cloned().collect();
        pairs.push(("marker".into(), last.uuid.clone()));
        let path = format!("os-migrations?{}", query::Query(pairs).encode());
        body["migrations_links"] = json!([{"rel": "next", "href": Links::new(&req).own(&path)}]);
    }
    json(200, &body)
}

const LIVE: &str = "live-migration";

/// Whether a live migration is under way, as upstream counts it: one that has only been accepted is not yet.
fn is_in_progress(migration: &Migration) -> bool {
    matches!(migration.status.as_str(), "queued" | "preparing" | "running" | "post-migrating")
}

/// The server of a request that came with this microversion.
async fn server_of(compute: &Compute, req: &Request, first: u16, rule: &str) -> Result<Server> {
    if req.version < v(first) {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    compute.server_for(&req.ctx, req.param("id"), rule).await
}

/// The live migrations of a server that are under way.
async fn in_progress(compute: &Compute, server: &Server) -> Result<Vec<Migration>> {
    let filter = Filter { server_id: Some(server.id.clone()), kind: Some(LIVE.into()), limit: 1000, ..Filter::default() };
    let mut found = compute.core.store.read(|tx| db::migration_list_in(tx, &filter)).await?;
    found.retain(is_in_progress);
    Ok(found)
}

fn server_view(migration: &Migration, version: Version, hosts: bool) -> Value {
    let mut view = view(migration, version, hosts);
    if let Some(map) = view.as_object_mut() {
        for key in ["old_instance_type_id", "new_instance_type_id", "migration_type", "instance_uuid"] {
            map.remove(key);
        }
    }
    view["server_uuid"] = json!(migration.server_id);
    for (part, amount) in [("memory", migration.progress.memory), ("disk", migration.progress.disks)] {
        let bytes = amount.map(|a| (a.total, a.done, a.left));
        view[format!("{part}_total_bytes")] = json!(bytes.map(|b| b.0));
        view[format!("{part}_processed_bytes")] = json!(bytes.map(|b| b.1));
        view[format!("{part}_remaining_bytes")] = json!(bytes.map(|b| b.2));
    }
    view
}

async fn server_index(compute: Compute, req: Request) -> Result<Response> {
    let server = server_of(&compute, &req, 23, "os_compute_api:servers:migrations:index").await?;
    let found = in_progress(&compute, &server).await?;
    let hosts = compute.may("os_compute_api:servers:migrations:index:host", &req.ctx, &[("project_id", req.ctx.project_id())]);
    json(200, &json!({"migrations": found.iter().map(|m| server_view(m, req.version, hosts)).collect::<Vec<_>>()}))
}

async fn server_show(compute: Compute, req: Request) -> Result<Response> {
    let server = server_of(&compute, &req, 23, "os_compute_api:servers:migrations:show").await?;
    let wanted = req.param("migration");
    let missing = || Error::new(Kind::NotFound, format!("In-progress live migration {wanted} is not found for server {}.", server.id));
    let migration = in_progress(&compute, &server).await?.into_iter().find(|m| m.id.to_string() == wanted).ok_or_else(missing)?;
    json(200, &json!({"migration": server_view(&migration, req.version, true)}))
}

/// `{"force_complete": null}`.
async fn server_action(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut root = crate::fields::Fields::root(&body, req.version);
    root.need("force_complete", crate::fields::null)?;
    root.finish()?;
    let server = server_of(&compute, &req, 22, "os_compute_api:servers:migrations:force_complete").await?;
    compute.server_live_force(&req.ctx, &server.id, req.param("migration")).await?;
    empty(202)
}

async fn server_delete(compute: Compute, req: Request) -> Result<Response> {
    let server = server_of(&compute, &req, 24, "os_compute_api:servers:migrations:delete").await?;
    let allowed: &[&str] = if req.version >= v(65) { &["running", "queued", "preparing"] } else { &["running"] };
    compute.server_live_abort(&req.ctx, &server.id, req.param("migration"), allowed).await?;
    empty(202)
}
