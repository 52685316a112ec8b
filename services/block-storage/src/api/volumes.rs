//! `/volumes`.

use std::collections::{BTreeMap, BTreeSet};

use base::{Context, Error, Result};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};
use store::{Select, Value as Sql, escape_like};

use super::body::{self, inner, only, trimmed};
use super::list::{Wanted, dict, links, next};
use super::{at_least, since, time};
use crate::db::{attachments, volumes as db};
use crate::model::{Attachment, Volume};
use crate::{VolumeWish, Volumes};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/volumes", index)
        .post("/volumes", create)
        .get("/volumes/detail", detail)
        .get("/volumes/summary", summary)
        .get("/volumes/{id}", show)
        .put("/volumes/{id}", update)
        .delete("/volumes/{id}", delete)
        .get("/volumes/{id}/encryption", encryption)
        .get("/volumes/{id}/encryption/{key}", encryption_key)
}

const FILTERS: &[&str] = &[
    "name",
    "display_name",
    "status",
    "metadata",
    "bootable",
    "migration_status",
    "availability_zone",
    "group_id",
    "glance_metadata",
    "created_at",
    "updated_at",
    "use_quota",
    "size",
    "volume_type_id",
    "consumes_quota",
];

const COLUMNS: &[(&str, &str)] = &[
    ("created_at", "v.created_at"),
    ("updated_at", "v.updated_at"),
    ("id", "v.id"),
    ("name", "v.display_name"),
    ("display_name", "v.display_name"),
    ("display_description", "v.display_description"),
    ("size", "v.size"),
    ("status", "v.status"),
    ("bootable", "v.bootable"),
    ("availability_zone", "v.availability_zone"),
    ("host", "v.host"),
    ("volume_type_id", "v.volume_type_id"),
    ("snapshot_id", "v.snapshot_id"),
    ("source_volid", "v.source_volid"),
    ("user_id", "v.user_id"),
    ("project_id", "v.project_id"),
    ("multiattach", "v.multiattach"),
    ("migration_status", "v.migration_status"),
];

/// What a volume looks like to everyone, in the version of the request.
fn view(req: &Request, v: &Volume, attached: &[Attachment]) -> Value {
    let ctx = &req.ctx;
    let shown: Vec<Value> = attached
        .iter()
        .filter(|a| a.status == "attached")
        .map(|a| {
            json!({
                "id": v.id,
                "attachment_id": a.id,
                "volume_id": v.id,
                "server_id": a.server_id,
                "host_name": if ctx.is_admin() { a.host.clone() } else { None },
                "device": a.mountpoint,
                "attached_at": a.attached_at.map(time),
            })
        })
        .collect();
    let mut metadata = v.doc.metadata.clone();
    if let Some(readonly) = v.doc.readonly {
        metadata.insert("readonly".into(), if readonly { "True" } else { "False" }.into());
    }
    if let Some(a) = attached.iter().find(|a| a.status == "attached") {
        metadata.insert("attached_mode".into(), a.mode.clone());
    }
    let mut view = json!({
        "id": v.id,
        "status": v.status,
        "size": v.size,
        "availability_zone": v.zone,
        "created_at": time(v.created_at),
        "updated_at": if v.generation > 1 { Some(time(v.updated_at)) } else { None },
        "name": v.name,
        "description": v.description,
        "volume_type": v.shown_type().1,
        "snapshot_id": v.snapshot_id,
        "source_volid": v.source_volid,
        "metadata": metadata,
        "links": links(req, &format!("volumes/{}", v.id)),
        "user_id": v.user_id,
        "bootable": v.bootable.to_string(),
        "encrypted": false,
        "replication_status": null,
        "consistencygroup_id": null,
        "multiattach": v.multiattach,
        "attachments": shown,
    });
    if ctx.is_admin() {
        view["migration_status"] = json!(v.migration_status);
    }
    if at_least(req, 13) {
        view["group_id"] = json!(v.group_id);
    }
    if at_least(req, 21) && ctx.is_admin() {
        view["provider_id"] = Value::Null;
    }
    if at_least(req, 48) {
        view["shared_targets"] = json!(false);
        view["service_uuid"] = Value::Null;
    }
    if at_least(req, 61) && ctx.is_admin() {
        view["cluster_name"] = Value::Null;
    }
    if at_least(req, 63) {
        view["volume_type_id"] = json!(v.shown_type().0);
    }
    if at_least(req, 65) {
        view["consumes_quota"] = json!(true);
    }
    view
}

/// What shows and detailed lists have on top: the answers to a create and an update do not, as upstream's extensions do not
/// extend them.
fn whole_view(volumes: &Volumes, req: &Request, v: &Volume, attached: &[Attachment]) -> Value {
    let (ctx, mut view) = (&req.ctx, view(req, v, attached));
    if volumes.may("volume_extension:volume_host_attribute", ctx, v) {
        view["os-vol-host-attr:host"] = json!(v.host.as_ref().map(|h| format!("{h}@{0}#{0}", v.pool())));
    }
    if volumes.may("volume_extension:volume_tenant_attribute", ctx, v) {
        view["os-vol-tenant-attr:tenant_id"] = json!(v.project_id);
    }
    if volumes.may("volume_extension:volume_mig_status_attribute", ctx, v) {
        view["os-vol-mig-status-attr:migstat"] = json!(v.migration_status);
        view["os-vol-mig-status-attr:name_id"] = Value::Null;
    }
    if !v.doc.image_metadata.is_empty() && volumes.may("volume_extension:volume_image_metadata:show", ctx, v) {
        view["volume_image_metadata"] = json!(v.doc.image_metadata);
    }
    view
}

fn select(req: &Request, wanted: &Wanted, base: String) -> Result<Select> {
    let mut select = Select::new(base).opt_eq("v.project_id", wanted.project(req).map(str::to_string));
    for (name, value) in &wanted.filters {
        select = match name.as_str() {
            "name" | "display_name" => select.eq("v.display_name", value.as_str()),
            "name~" | "display_name~" => select.like("v.display_name", format!("%{}%", escape_like(value))),
            "status" => select.eq("v.status", value.as_str()),
            "status~" => select.like("v.status", format!("%{}%", escape_like(value))),
            "id" => select.eq("v.id", value.as_str()),
            "availability_zone" => select.eq("v.availability_zone", value.as_str()),
            "volume_type_id" => select.eq("v.volume_type_id", value.as_str()),
            "user_id" => select.eq("v.user_id", value.as_str()),
            "snapshot_id" => select.eq("v.snapshot_id", value.as_str()),
            "host" => select.eq("v.host", value.split('@').next().unwrap_or_default()),
            "migration_status" => match value.as_str() {
                "none" | "None" => select.eq("v.migration_status", Sql::Null),
                other => select.eq("v.migration_status", other),
            },
            "size" => match value.parse::<i64>() {
                Ok(size) => select.eq("v.size", size),
                Err(_) => select.cond("1 = 0", []),
            },
            "bootable" => match parse_bool(value) {
                Some(flag) => select.eq("v.bootable", flag),
                None if at_least(req, 2) => return Err(Error::invalid(format!("Invalid input received: bootable={value}"))),
                None => select.eq("v.bootable", true),
            },
            "multiattach" => select.eq("v.multiattach", parse_bool(value).unwrap_or(false)),
            "group_id" => select.eq("v.group_id", value.as_str()),
            "consistencygroup_id" => select.cond("1 = 0", []),
            "consumes_quota" | "use_quota" => match parse_bool(value) {
                Some(false) => select.cond("1 = 0", []),
                _ => select,
            },
            "metadata" | "glance_metadata" => {
                let kind = if name == "metadata" { "user" } else { "image" };
                for (key, wanted) in dict(value)? {
                    let condition =
                        "EXISTS (SELECT 1 FROM volume_metadata m WHERE m.volume_id = v.id AND m.kind = ? AND m.name = ? AND m.value = ?)";
                    select = select.cond(condition, [Sql::from(kind), Sql::from(key), Sql::from(wanted)]);
                }
                select
            }
            "created_at" | "updated_at" | "project_id" => select,
            // Of things this cloud does not have: nothing is of them.
            _ => select,
        };
    }
    let select = wanted.times(select, "created_at", "v.created_at")?;
    wanted.times(select, "updated_at", "v.updated_at")
}

async fn page(volumes: &Volumes, req: &Request) -> Result<(Vec<(Volume, Vec<Attachment>)>, Wanted, Option<u64>)> {
    volumes.authorize("volume:get_all", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(req, max)?;
    wanted.check(req, FILTERS)?;
    if wanted.page.limit == Some(0) {
        return Ok((Vec::new(), wanted, None));
    }
    let order = wanted.order(COLUMNS, "v.id")?;
    let found = volumes
        .core
        .store
        .read(|tx| {
            let base = |columns: &str| format!("SELECT {columns} FROM volume v");
            let mut rows = select(req, &wanted, base(db::COLUMNS))?.order(&order);
            if let Some(marker) = &wanted.page.marker {
                volumes.volume_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume v WHERE v.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                rows = rows.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let limit = wanted.page.fetch_limit(max);
            let mut all = rows.limit(limit + wanted.offset).fetch(tx, db::read)?;
            let skipped = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len());
            all.drain(..skipped);
            let count = if wanted.with_count { Some(select(req, &wanted, base("v.id"))?.count(tx)?) } else { None };
            let mut attached = attachments::attachments_of_all_in(tx, &all)?;
            Ok((
                all.into_iter()
                    .map(|v| {
                        let a = attached.remove(&v.id).unwrap_or_default();
                        (v, a)
                    })
                    .collect::<Vec<_>>(),
                count,
            ))
        })
        .await?;
    Ok((found.0, wanted, found.1))
}

fn answer(req: &Request, shown: Vec<Value>, last: Option<&str>, wanted: &Wanted, count: Option<u64>, path: &str) -> Result<Response> {
    let mut body = json!({ "volumes": shown });
    if let (Some(last), Some(limit)) = (last, wanted.page.limit)
        && shown.len() as u64 == limit
    {
        body["volumes_links"] = next(req, path, last);
    }
    if let Some(count) = count {
        body["count"] = json!(count);
    }
    json(200, &body)
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    let (rows, wanted, count) = page(&volumes, &req).await?;
    let shown = rows.iter().map(|(v, _)| json!({"id": v.id, "name": v.name, "links": links(&req, &format!("volumes/{}", v.id))})).collect();
    answer(&req, shown, rows.last().map(|(v, _)| v.id.as_str()), &wanted, count, "volumes")
}

async fn detail(volumes: Volumes, req: Request) -> Result<Response> {
    let (rows, wanted, count) = page(&volumes, &req).await?;
    let shown = rows.iter().map(|(v, a)| whole_view(&volumes, &req, v, a)).collect();
    answer(&req, shown, rows.last().map(|(v, _)| v.id.as_str()), &wanted, count, "volumes/detail")
}

async fn summary(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 12)?;
    volumes.authorize("volume:get_all", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let wanted = Wanted::read(&req, 0)?;
    let all =
        volumes.core.store.read(|tx| select(&req, &wanted, format!("SELECT {} FROM volume v", db::COLUMNS))?.fetch(tx, db::read)).await?;
    let mut summary = json!({"total_count": all.len(), "total_size": all.iter().map(|v| v.size).sum::<i64>()});
    if at_least(&req, 36) {
        let mut metadata: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, value) in all.iter().flat_map(|v| &v.doc.metadata) {
            metadata.entry(key).or_default().insert(value);
        }
        summary["metadata"] = json!(metadata);
    }
    json(200, &json!({"volume-summary": summary}))
}

/// One volume and its attachments.
async fn fetched(volumes: &Volumes, req: &Request, id: &str) -> Result<(Volume, Vec<Attachment>)> {
    volumes
        .core
        .store
        .read(|tx| {
            let volume = volumes.volume_visible_in(tx, &req.ctx, id)?;
            let attached = attachments::attachments_of_in(tx, id)?;
            Ok((volume, attached))
        })
        .await
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.volume_for(&req.ctx, req.param("id"), "volume:get").await?;
    let (volume, attached) = fetched(&volumes, &req, req.param("id")).await?;
    json(200, &json!({"volume": whole_view(&volumes, &req, &volume, &attached)}))
}

fn wish(map: &Map<String, Value>, req: &Request) -> Result<VolumeWish> {
    let known = [
        "name",
        "description",
        "display_name",
        "display_description",
        "volume_type",
        "metadata",
        "snapshot_id",
        "source_volid",
        "consistencygroup_id",
        "size",
        "availability_zone",
        "multiattach",
        "image_id",
        "imageRef",
    ];
    if at_least(req, 53) {
        only(map, &[&known[..], &["group_id", "backup_id"]].concat())?;
    }
    if body::flag(map, "multiattach")? == Some(true) {
        return Err(Error::invalid(
            "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types. Contact your \
             administrator to create a multiattach enabled volume type and use it to create multiattach volumes.",
        ));
    }
    for (name, what) in [("consistencygroup_id", "Consistency group"), ("backup_id", "Backup")] {
        let since = if name == "backup_id" { 47 } else { 0 };
        if at_least(req, since)
            && let Some(id) = body::text(map, name)?.filter(|id| !id.is_empty())
        {
            return Err(Error::new(base::Kind::NotFound, format!("{what} {id} could not be found.")));
        }
    }
    let either = |a: &str, b: &str| -> Result<Option<String>> { Ok(trimmed(map, a)?.or(trimmed(map, b)?)) };
    Ok(VolumeWish {
        name: either("name", "display_name")?,
        description: either("description", "display_description")?,
        size: body::size(map, "size")?,
        volume_type: body::text(map, "volume_type")?,
        zone: body::text(map, "availability_zone")?,
        metadata: body::metadata("metadata", map.get("metadata"))?.unwrap_or_default(),
        snapshot_id: body::uuid(map, "snapshot_id")?,
        source_volid: body::uuid(map, "source_volid")?,
        image: body::text(map, "image_id")?.or(body::text(map, "imageRef")?).filter(|i| !i.is_empty()),
        host_id: None,
        group_id: if at_least(req, 13) { body::uuid(map, "group_id")? } else { None },
    })
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "volume", &["OS-SCH-HNT:scheduler_hints"])?;
    let mut wish = wish(&map, &req)?;
    if at_least(&req, 46) {
        volumes.image_snapshot_take(&req.ctx, &mut wish).await?;
    }
    let volume = volumes.volume_create(&req.ctx, wish).await?;
    json(202, &json!({"volume": view(&req, &volume, &[])}))
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "volume", &[])?;
    only(&map, &["name", "description", "display_name", "display_description", "metadata"])?;
    if at_least(&req, 53) && map.is_empty() {
        return Err(Error::invalid("Invalid input for field/attribute volume. Value: {}. At least one property is required."));
    }
    let name = trimmed(&map, "name")?.or(trimmed(&map, "display_name")?);
    let description = trimmed(&map, "description")?.or(trimmed(&map, "display_description")?);
    let named = map.contains_key("name") || map.contains_key("display_name");
    let described = map.contains_key("description") || map.contains_key("display_description");
    let metadata = body::metadata("metadata", map.get("metadata"))?;
    let id = req.param("id").to_string();
    volumes
        .volume_change(&req.ctx, &id, "volume:update", move |_, tx, ctx, volume| {
            if named {
                volume.name = name;
            }
            if described {
                volume.description = description;
            }
            if let Some(metadata) = metadata {
                volume.doc.metadata = metadata;
            }
            db::volume_update_in(tx, volume)?;
            crate::notify::volume_event_in(tx, "update.end", volume, ctx, None)
        })
        .await?;
    let (volume, attached) = fetched(&volumes, &req, &id).await?;
    json(200, &json!({"volume": view(&req, &volume, &attached)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    let flag = |name: &str| req.query.get(name).and_then(parse_bool).unwrap_or(false);
    volumes.volume_delete(&req.ctx, req.param("id"), flag("cascade"), at_least(&req, 23) && flag("force")).await?;
    empty(202)
}

async fn encryption(volumes: Volumes, req: Request) -> Result<Response> {
    encrypted(&volumes, &req.ctx, req.param("id")).await?;
    json(200, &json!({"encryption_key_id": null}))
}

/// No volume is encrypted; the keys of the answer say so.
async fn encryption_key(volumes: Volumes, req: Request) -> Result<Response> {
    encrypted(&volumes, &req.ctx, req.param("id")).await?;
    match req.param("key") {
        "encryption_key_id" => http_api::text(200, String::new()),
        _ => Err(Error::new(base::Kind::NotFound, "The resource could not be found.")),
    }
}

async fn encrypted(volumes: &Volumes, ctx: &Context, id: &str) -> Result<()> {
    volumes.volume_for(ctx, id, "volume_extension:volume_encryption_metadata").await.map(drop)
}
