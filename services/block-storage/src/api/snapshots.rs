//! `/snapshots`.

use base::{Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};
use store::{Select, Value as Sql, escape_like};

use super::body::{self, inner, need, only, trimmed, wrong};
use super::list::{Wanted, dict, next};
use super::{at_least, time};
use crate::Volumes;
use crate::db::snapshots as db;
use crate::model::Snapshot;
use crate::snapshots::{SnapshotWish, invalid_snapshot};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/snapshots", index)
        .post("/snapshots", create)
        .get("/snapshots/detail", detail)
        .get("/snapshots/{id}", show)
        .put("/snapshots/{id}", update)
        .delete("/snapshots/{id}", delete)
        .post("/snapshots/{id}/action", act)
}

const FILTERS: &[&str] = &[
    "name",
    "display_name",
    "status",
    "volume_id",
    "group_snapshot_id",
    "metadata",
    "availability_zone",
    "created_at",
    "updated_at",
    "use_quota",
    "consumes_quota",
];

const COLUMNS: &[(&str, &str)] = &[
    ("created_at", "s.created_at"),
    ("updated_at", "s.updated_at"),
    ("id", "s.id"),
    ("name", "s.display_name"),
    ("display_name", "s.display_name"),
    ("status", "s.status"),
    ("volume_id", "s.volume_id"),
    ("volume_size", "s.size"),
    ("user_id", "s.user_id"),
    ("project_id", "s.project_id"),
];

fn view(volumes: &Volumes, req: &Request, s: &Snapshot, whole: bool) -> Value {
    let mut view = json!({
        "id": s.id,
        "name": s.name,
        "description": s.description,
        "volume_id": s.volume_id,
        "status": s.status,
        "size": s.size,
        "created_at": time(s.created_at),
        "updated_at": if s.generation > 1 { Some(time(s.updated_at)) } else { None },
        "metadata": s.doc.metadata,
    });
    if whole && volumes.may("volume_extension:extended_snapshot_attributes", &req.ctx, s) {
        view["os-extended-snapshot-attributes:project_id"] = json!(s.project_id);
        view["os-extended-snapshot-attributes:progress"] = json!(s.progress);
    }
    if whole && at_least(req, 14) {
        view["group_snapshot_id"] = json!(s.group_snapshot_id);
    }
    if at_least(req, 41) {
        view["user_id"] = json!(s.user_id);
    }
    if at_least(req, 65) {
        view["consumes_quota"] = json!(true);
    }
    view
}

fn select(req: &Request, wanted: &Wanted, base: String) -> Result<Select> {
    let mut select = Select::new(base).opt_eq("s.project_id", wanted.project(req).map(str::to_string));
    for (name, value) in &wanted.filters {
        select = match name.as_str() {
            "name" | "display_name" => select.eq("s.display_name", value.as_str()),
            "name~" | "display_name~" => select.like("s.display_name", format!("%{}%", escape_like(value))),
            "status" => select.eq("s.status", value.as_str()),
            "volume_id" => select.eq("s.volume_id", value.as_str()),
            "group_snapshot_id" => select.eq("s.group_snapshot_id", value.as_str()),
            "id" => select.eq("s.id", value.as_str()),
            "availability_zone" if value != crate::ZONE => select.cond("1 = 0", []),
            "metadata" => {
                for (key, wanted) in dict(value)? {
                    // Written as JSON writes it, so that nothing else of the document fits.
                    let pair = format!("{}:{}", Value::from(key), Value::from(wanted));
                    select = select.like("s.doc", format!("%{}%", escape_like(&pair)));
                }
                select
            }
            "use_quota" | "consumes_quota" if http_api::query::parse_bool(value) == Some(false) => select.cond("1 = 0", Vec::<Sql>::new()),
            _ => select,
        };
    }
    let select = wanted.times(select, "created_at", "s.created_at")?;
    wanted.times(select, "updated_at", "s.updated_at")
}

async fn list(volumes: Volumes, req: Request, whole: bool) -> Result<Response> {
    volumes.authorize("volume:get_all_snapshots", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(&req, max)?;
    wanted.check(&req, FILTERS)?;
    let order = wanted.order(COLUMNS, "s.id")?;
    let (rows, count) = volumes
        .core
        .store
        .read(|tx| {
            let base = |columns: &str| format!("SELECT {columns} FROM volume_snapshot s");
            let mut rows = select(&req, &wanted, base(db::COLUMNS))?.order(&order);
            if let Some(marker) = &wanted.page.marker {
                volumes.snapshot_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume_snapshot s WHERE s.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                rows = rows.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let limit = if wanted.page.limit == Some(0) { 0 } else { wanted.page.fetch_limit(max) };
            let mut all = rows.limit(limit + if limit > 0 { wanted.offset } else { 0 }).fetch(tx, db::read)?;
            let skipped = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len());
            all.drain(..skipped);
            let count = if wanted.with_count { Some(select(&req, &wanted, base("s.id"))?.count(tx)?) } else { None };
            Ok((all, count))
        })
        .await?;
    let mut body = json!({"snapshots": rows.iter().map(|s| view(&volumes, &req, s, whole)).collect::<Vec<_>>()});
    if let (Some(last), Some(limit)) = (rows.last(), wanted.page.limit)
        && rows.len() as u64 == limit
    {
        body["snapshots_links"] = next(&req, if whole { "snapshots/detail" } else { "snapshots" }, &last.id);
    }
    if let Some(count) = count {
        body["count"] = json!(count);
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
    let snapshot = volumes.snapshot_for(&req.ctx, req.param("id"), "volume:get_snapshot").await?;
    json(200, &json!({"snapshot": view(&volumes, &req, &snapshot, true)}))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "snapshot", &[])?;
    only(&map, &["volume_id", "name", "display_name", "description", "display_description", "force", "metadata"])?;
    let force = body::flag(&map, "force")?;
    if at_least(&req, 66) && force == Some(false) {
        return Err(Error::invalid(
            "Since microversion 3.66 the 'force' parameter is invalid for this request. For backward compatibility, however, when the \
             'force' flag is passed with a value evaluating to True, it is silently ignored.",
        ));
    }
    let wish = SnapshotWish {
        volume_id: need("volume_id", body::uuid(&map, "volume_id")?)?,
        name: trimmed(&map, "name")?.or(trimmed(&map, "display_name")?),
        description: trimmed(&map, "description")?.or(trimmed(&map, "display_description")?),
        metadata: body::metadata("metadata", map.get("metadata"))?.unwrap_or_default(),
        force: at_least(&req, 66) || force == Some(true),
        group_snapshot_id: None,
    };
    let snapshot = volumes.snapshot_create(&req.ctx, wish).await?;
    json(202, &json!({"snapshot": view(&volumes, &req, &snapshot, false)}))
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "snapshot", &[])?;
    only(&map, &["name", "description", "display_name", "display_description"])?;
    let name = trimmed(&map, "name")?.or(trimmed(&map, "display_name")?);
    let description = trimmed(&map, "description")?.or(trimmed(&map, "display_description")?);
    let (named, described) = (
        map.contains_key("name") || map.contains_key("display_name"),
        map.contains_key("description") || map.contains_key("display_description"),
    );
    let snapshot = volumes
        .snapshot_change(&req.ctx, req.param("id"), "volume:update_snapshot", move |_, tx, ctx, snapshot| {
            if named {
                snapshot.name = name;
            }
            if described {
                snapshot.description = description;
            }
            db::snapshot_update_in(tx, snapshot)?;
            crate::notify::snapshot_event_in(tx, "update.end", snapshot, ctx, None)?;
            Ok(snapshot.clone())
        })
        .await?;
    json(200, &json!({"snapshot": view(&volumes, &req, &snapshot, false)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.snapshot_delete(&req.ctx, req.param("id"), false).await?;
    empty(202)
}

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut pairs = body.into_iter();
    let (Some((action, value)), None) = (pairs.next(), pairs.next()) else {
        return Err(Error::invalid("Malformed request body: there must be one action."));
    };
    let map = match value {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    match action.as_str() {
        "os-reset_status" => reset(volumes, req, map).await,
        "os-update_snapshot_status" => told(volumes, req, map).await,
        "os-force_delete" => {
            volumes.snapshot_delete(&req.ctx, req.param("id"), true).await?;
            empty(202)
        }
        other => Err(Error::invalid(format!("There is no such action: {other}"))),
    }
}

async fn reset(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    const KNOWN: &[&str] =
        &["available", "creating", "deleting", "error", "error_deleting", "deleted", "backing-up", "restoring", "unmanaging"];
    only(&map, &["status"])?;
    let status = need("status", body::text(&map, "status")?)?.to_lowercase();
    if !KNOWN.contains(&status.as_str()) || status == "deleted" {
        return Err(wrong("status", format!("'{status}' is not one of {KNOWN:?}")));
    }
    let rule = "volume_extension:snapshot_admin_actions:reset_status";
    volumes
        .snapshot_change(&req.ctx, req.param("id"), rule, move |this, tx, _, snapshot| {
            snapshot.status = status;
            this.snapshot_restated_in(tx, snapshot)
        })
        .await?;
    empty(202)
}

/// What a program that makes snapshots by itself reports.
async fn told(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    let status = need("status", body::text(&map, "status")?)?;
    let progress = body::text(&map, "progress")?;
    if let Some(text) = &progress {
        let percent = text.strip_suffix('%').and_then(|n| n.parse::<i64>().ok());
        if percent.is_none_or(|n| n > 100) {
            return Err(wrong("progress", format!("'{text}' is no percentage")));
        }
    }
    let rule = "snapshot_extension:snapshot_actions:update_snapshot_status";
    volumes
        .snapshot_change(&req.ctx, req.param("id"), rule, move |this, tx, _, snapshot| {
            let next: &[&str] = match snapshot.status.as_str() {
                "creating" => &["creating", "available", "error"],
                "deleting" => &["deleting", "error_deleting"],
                status => return Err(invalid_snapshot(format!("Snapshot status {status} not allowed for update_snapshot_status"))),
            };
            if !next.contains(&status.as_str()) {
                return Err(invalid_snapshot(format!(
                    "Provided snapshot status {status} not allowed for snapshot with status {}.",
                    snapshot.status
                )));
            }
            snapshot.status = status;
            if let Some(progress) = progress {
                snapshot.progress = progress;
            }
            this.snapshot_restated_in(tx, snapshot)
        })
        .await?;
    empty(202)
}
