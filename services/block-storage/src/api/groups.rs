//! `/groups`, since 3.13.

use base::{Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};
use store::{Select, escape_like};

use super::body::{self, inner, need, only, trimmed, wrong};
use super::list::{Wanted, next};
use super::{at_least, since, time};
use crate::Volumes;
use crate::db::groups as db;
use crate::groups::{GroupChange, GroupSource, GroupWish};
use crate::model::VolumeGroup;

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/groups", index)
        .post("/groups", create)
        .get("/groups/detail", detail)
        .post("/groups/action", create_from)
        .get("/groups/{id}", show)
        .put("/groups/{id}", update)
        .post("/groups/{id}/action", act)
}

const STATUSES: &[&str] = &["error", "available", "creating", "deleting", "deleted", "updating", "in-use", "error_deleting"];
pub const COLUMNS: &[(&str, &str)] = &[
    ("created_at", "g.created_at"),
    ("id", "g.id"),
    ("name", "g.name"),
    ("status", "g.status"),
    ("project_id", "g.project_id"),
    ("user_id", "g.user_id"),
];
const FILTERS: &[&str] = &["name", "status", "availability_zone", "group_type", "source_group_id", "group_snapshot_id", "list_volume"];

fn view(volumes: &Volumes, req: &Request, g: &VolumeGroup, members: Option<Vec<String>>) -> Value {
    let mut view = json!({
        "id": g.id,
        "status": g.status,
        "availability_zone": g.zone,
        "created_at": time(g.created_at),
        "name": g.name,
        "description": g.description,
        "group_type": g.group_type_id,
        "volume_types": g.volume_types,
    });
    if at_least(req, 14) {
        view["group_snapshot_id"] = json!(g.group_snapshot_id);
        view["source_group_id"] = json!(g.source_group_id);
    }
    if let (true, Some(members)) = (at_least(req, 25), members) {
        view["volumes"] = json!(members);
    }
    if at_least(req, 38) {
        view["replication_status"] = json!("disabled");
    }
    if at_least(req, 58) && volumes.may("group:group_project_attribute", &req.ctx, g) {
        view["project_id"] = json!(g.project_id);
    }
    view
}

fn short(g: &VolumeGroup) -> Value {
    json!({"id": g.id, "name": g.name})
}

/// The members, when the request asks for them.
fn members_in(tx: &store::Tx, req: &Request, id: &str) -> Result<Option<Vec<String>>> {
    if !req.query.flag("list_volume")?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(Some(db::volumes_of_group_in(tx, id)?.into_iter().map(|v| v.id).collect()))
}

async fn list(volumes: Volumes, req: Request, whole: bool) -> Result<Response> {
    since(&req, 13)?;
    volumes.authorize("group:get_all", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(&req, max)?;
    wanted.check(&req, FILTERS)?;
    let order = wanted.order(COLUMNS, "g.id")?;
    let found = volumes
        .core
        .store
        .read(|tx| {
            let mut rows = Select::new(format!("SELECT {} FROM volume_group g", db::GROUP))
                .opt_eq("g.project_id", wanted.project(&req).map(str::to_string))
                .order(&order);
            for (name, value) in &wanted.filters {
                rows = match name.as_str() {
                    "name" => rows.eq("g.name", value.as_str()),
                    "name~" => rows.like("g.name", format!("%{}%", escape_like(value))),
                    "status" => rows.eq("g.status", value.as_str()),
                    "availability_zone" => rows.eq("g.availability_zone", value.as_str()),
                    "group_type" => rows.eq("g.group_type_id", value.as_str()),
                    "source_group_id" => rows.eq("g.source_group_id", value.as_str()),
                    "group_snapshot_id" => rows.eq("g.group_snapshot_id", value.as_str()),
                    _ => rows,
                };
            }
            if let Some(marker) = &wanted.page.marker {
                volumes.group_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume_group g WHERE g.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                rows = rows.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let mut all = rows.limit(wanted.page.fetch_limit(max) + wanted.offset).fetch(tx, db::read_group)?;
            let skipped = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len());
            all.drain(..skipped);
            let with = |g: VolumeGroup| members_in(tx, &req, &g.id).map(|members| (g, members));
            all.into_iter().map(with).collect::<Result<Vec<_>>>()
        })
        .await?;
    let last = found.last().map(|(g, _)| g.id.clone());
    let count = found.len() as u64;
    let shown: Vec<Value> =
        found.into_iter().map(|(g, members)| if whole { view(&volumes, &req, &g, members) } else { short(&g) }).collect();
    let mut body = json!({ "groups": shown });
    if let (Some(last), Some(limit)) = (last, wanted.page.limit)
        && count == limit
    {
        body["group_links"] = next(&req, if whole { "groups/detail" } else { "groups" }, &last);
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
    since(&req, 13)?;
    let (group, members) = volumes
        .core
        .store
        .read(|tx| {
            let group = volumes.group_visible_in(tx, &req.ctx, req.param("id"))?;
            let members = members_in(tx, &req, &group.id)?;
            Ok((group, members))
        })
        .await?;
    volumes.authorize("group:get", &req.ctx, &group)?;
    json(200, &json!({"group": view(&volumes, &req, &group, members)}))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 13)?;
    let map = inner(&req, "group", &[])?;
    only(&map, &["description", "group_type", "name", "volume_types", "availability_zone"])?;
    let mut volume_types = Vec::new();
    match map.get("volume_types") {
        Some(Value::Array(all)) if !all.is_empty() => {
            for one in all {
                match one.as_str().filter(|name| !name.is_empty() && name.chars().count() <= 255) {
                    Some(name) if !volume_types.iter().any(|known| known == name) => volume_types.push(name.to_string()),
                    _ => return Err(wrong("volume_types", format!("{one} is no name, or there twice"))),
                }
            }
        }
        _ => return Err(wrong("volume_types", "It is not a list with an item at least")),
    }
    let wish = GroupWish {
        name: trimmed(&map, "name")?,
        description: trimmed(&map, "description")?,
        group_type: need("group_type", body::text(&map, "group_type")?.filter(|t| !t.is_empty()))?,
        volume_types,
        zone: body::text(&map, "availability_zone")?,
    };
    volumes.authorize("group:create", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let (this, ctx) = (volumes.clone(), req.ctx.clone());
    let group = volumes.core.store.write(move |tx| this.group_create_in(tx, &ctx, &wish)).await?;
    json(202, &json!({"group": short(&group)}))
}

/// `create-from-src`, since 3.14.
async fn create_from(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 14)?;
    let map = inner(&req, "create-from-src", &[])?;
    only(&map, &["description", "name", "source_group_id", "group_snapshot_id"])?;
    let source = match (body::uuid(&map, "source_group_id")?, body::uuid(&map, "group_snapshot_id")?) {
        (Some(id), None) => GroupSource::Group(id),
        (None, Some(id)) => GroupSource::Snapshot(id),
        _ => return Err(Error::invalid("Exactly one of 'source_group_id' and 'group_snapshot_id' is a required property")),
    };
    let (name, description) = (trimmed(&map, "name")?, trimmed(&map, "description")?);
    volumes.authorize("group:create", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let (this, ctx) = (volumes.clone(), req.ctx.clone());
    let group = volumes.core.store.write(move |tx| this.group_copy_in(tx, &ctx, name, description, &source)).await?;
    json(202, &json!({"group": short(&group)}))
}

/// Changes the group of the path in one transaction, after its rule has been asked.
async fn change(
    volumes: &Volumes,
    req: &Request,
    rule: &'static str,
    work: impl FnOnce(&Volumes, &store::Tx, &base::Context, &mut VolumeGroup) -> Result<()> + Send + 'static,
) -> Result<Response> {
    let (this, ctx, id) = (volumes.clone(), req.ctx.clone(), req.param("id").to_string());
    volumes
        .core
        .store
        .write(move |tx| {
            let mut group = this.group_visible_in(tx, &ctx, &id)?;
            this.authorize(rule, &ctx, &group)?;
            work(&this, tx, &ctx, &mut group)
        })
        .await?;
    empty(202)
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 13)?;
    let map = inner(&req, "group", &[])?;
    only(&map, &["description", "name", "add_volumes", "remove_volumes"])?;
    let ids = |name: &str| -> Result<Vec<String>> {
        let listed = match map.get(name) {
            None | Some(Value::Null) => "",
            Some(Value::String(text)) => text,
            Some(other) => return Err(wrong(name, format!("{other} is not of type 'string', 'null'"))),
        };
        Ok(listed.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_string).collect())
    };
    let change_wanted = GroupChange {
        name: trimmed(&map, "name")?,
        description: trimmed(&map, "description")?,
        add: ids("add_volumes")?,
        remove: ids("remove_volumes")?,
    };
    if map.is_empty() {
        return Err(Error::invalid("One of 'name', 'description', 'add_volumes' and 'remove_volumes' is a required property"));
    }
    change(&volumes, &req, "group:update", move |this, tx, _, group| this.group_change_in(tx, group, &change_wanted)).await
}

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 13)?;
    let body = req.object()?;
    let mut pairs = body.into_iter();
    let (Some((action, value)), None) = (pairs.next(), pairs.next()) else {
        return Err(Error::invalid("Malformed request body: there must be one action."));
    };
    let Value::Object(map) = value else { return Err(wrong(&action, "It is not of type 'object'")) };
    match action.as_str() {
        "delete" => {
            only(&map, &["delete-volumes"])?;
            let too = body::flag(&map, "delete-volumes")?.unwrap_or(false);
            change(&volumes, &req, "group:delete", move |this, tx, ctx, group| this.group_delete_in(tx, ctx, group, too)).await
        }
        "reset_status" if at_least(&req, 20) => {
            let status = status(&map, STATUSES)?;
            change(&volumes, &req, "group:reset_status", move |_, tx, _, group| {
                group.status = status;
                db::group_put_in(tx, group)
            })
            .await
        }
        other => Err(Error::invalid(format!("There is no such action: {other}"))),
    }
}

/// The status that a body sets.
pub fn status(map: &Map<String, Value>, known: &[&str]) -> Result<String> {
    only(map, &["status"])?;
    let status = need("status", body::text(map, "status")?)?.to_lowercase();
    if known.contains(&status.as_str()) { Ok(status) } else { Err(wrong("status", format!("'{status}' is not one of {known:?}"))) }
}
