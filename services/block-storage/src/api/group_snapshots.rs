//! `/group_snapshots`, since 3.14.

use base::{Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};
use store::{Select, escape_like};

use super::body::{self, inner, need, only, trimmed};
use super::groups::{COLUMNS, status};
use super::list::{Wanted, next};
use super::{at_least, since, time};
use crate::Volumes;
use crate::db::groups as db;
use crate::model::GroupSnapshot;

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/group_snapshots", index)
        .post("/group_snapshots", create)
        .get("/group_snapshots/detail", detail)
        .get("/group_snapshots/{id}", show)
        .delete("/group_snapshots/{id}", delete)
        .post("/group_snapshots/{id}/action", act)
}

const STATUSES: &[&str] = &["error", "available", "creating", "deleting", "deleted", "updating", "error_deleting"];
const FILTERS: &[&str] = &["name", "status", "group_id"];

fn view(volumes: &Volumes, req: &Request, g: &GroupSnapshot) -> Value {
    let mut view = json!({
        "id": g.id,
        "group_id": g.group_id,
        "group_type_id": g.group_type_id,
        "status": g.status,
        "created_at": time(g.created_at),
        "name": g.name,
        "description": g.description,
    });
    if at_least(req, 58) && volumes.may("group:group_snapshot_project_attribute", &req.ctx, g) {
        view["project_id"] = json!(g.project_id);
    }
    view
}

async fn list(volumes: Volumes, req: Request, whole: bool) -> Result<Response> {
    since(&req, 14)?;
    volumes.authorize("group:get_all_group_snapshots", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(&req, max)?;
    wanted.check(&req, FILTERS)?;
    // Before 3.29 the list was whole and in no order of the caller's.
    if !at_least(&req, 29) {
        wanted.page.sort.clear();
        (wanted.page.marker, wanted.page.limit, wanted.offset) = (None, None, 0);
        wanted.filters.clear();
    }
    let order = wanted.order(COLUMNS, "g.id")?;
    let found = volumes
        .core
        .store
        .read(|tx| {
            let mut rows = Select::new(format!("SELECT {} FROM volume_group_snapshot g", db::SNAPSHOT))
                .opt_eq("g.project_id", wanted.project(&req).map(str::to_string))
                .order(&order);
            for (name, value) in &wanted.filters {
                rows = match name.as_str() {
                    "name" => rows.eq("g.name", value.as_str()),
                    "name~" => rows.like("g.name", format!("%{}%", escape_like(value))),
                    "status" => rows.eq("g.status", value.as_str()),
                    "group_id" => rows.eq("g.group_id", value.as_str()),
                    _ => rows,
                };
            }
            if let Some(marker) = &wanted.page.marker {
                volumes.group_snapshot_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume_group_snapshot g WHERE g.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                rows = rows.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let mut all = rows.limit(wanted.page.fetch_limit(max) + wanted.offset).fetch(tx, db::read_snapshot)?;
            let skipped = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len());
            all.drain(..skipped);
            Ok(all)
        })
        .await?;
    let shown: Vec<Value> =
        found.iter().map(|g| if whole { view(&volumes, &req, g) } else { json!({"id": g.id, "name": g.name}) }).collect();
    let mut body = json!({ "group_snapshots": shown });
    if let (Some(last), Some(limit)) = (found.last(), wanted.page.limit)
        && found.len() as u64 == limit
    {
        body["group_snapshot_links"] = next(&req, if whole { "group_snapshots/detail" } else { "group_snapshots" }, &last.id);
    }
    json(200, &body)
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    list(volumes, req, false).await
}
async fn detail(volumes: Volumes, req: Request) -> Result<Response> {
    list(volumes, req, true).await
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 14)?;
    let found = volumes.core.store.read(|tx| volumes.group_snapshot_visible_in(tx, &req.ctx, req.param("id"))).await?;
    volumes.authorize("group:get_group_snapshot", &req.ctx, &found)?;
    json(200, &json!({"group_snapshot": view(&volumes, &req, &found)}))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 14)?;
    let map = inner(&req, "group_snapshot", &[])?;
    only(&map, &["group_id", "name", "description"])?;
    let group_id = need("group_id", body::uuid(&map, "group_id")?)?;
    let (name, description) = (trimmed(&map, "name")?, trimmed(&map, "description")?);
    let (this, ctx) = (volumes.clone(), req.ctx.clone());
    let made = volumes
        .core
        .store
        .write(move |tx| {
            let group = this.group_visible_in(tx, &ctx, &group_id)?;
            this.authorize("group:create_group_snapshot", &ctx, &group)?;
            this.group_snapshot_create_in(tx, &ctx, &group, name, description)
        })
        .await?;
    json(202, &json!({"group_snapshot": {"id": made.id, "name": made.name, "group_type_id": made.group_type_id}}))
}

/// Changes the group snapshot of the path in one transaction, after its rule has been asked.
async fn change(
    volumes: &Volumes,
    req: &Request,
    rule: &'static str,
    work: impl FnOnce(&Volumes, &store::Tx, &base::Context, &mut GroupSnapshot) -> Result<()> + Send + 'static,
) -> Result<Response> {
    let (this, ctx, id) = (volumes.clone(), req.ctx.clone(), req.param("id").to_string());
    volumes
        .core
        .store
        .write(move |tx| {
            let mut found = this.group_snapshot_visible_in(tx, &ctx, &id)?;
            this.authorize(rule, &ctx, &found)?;
            work(&this, tx, &ctx, &mut found)
        })
        .await?;
    empty(202)
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 14)?;
    change(&volumes, &req, "group:delete_group_snapshot", |this, tx, ctx, found| this.group_snapshot_delete_in(tx, ctx, found)).await
}

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 19)?;
    let map = inner(&req, "reset_status", &[]).map_err(|_| Error::invalid("There is no such action, or its body is wrong."))?;
    let status = status(&map, STATUSES)?;
    change(&volumes, &req, "group:reset_group_snapshot_status", move |_, tx, _, found| {
        found.status = status;
        db::group_snapshot_put_in(tx, found)
    })
    .await
}
