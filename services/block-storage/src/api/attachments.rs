//! `/attachments`, from 3.27 on.

use base::{Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};
use store::Select;

use super::body::{self, inner, need, only, wrong};
use super::list::{Wanted, next};
use super::{at_least, since, time};
use crate::Volumes;
use crate::attachments::AttachmentWish;
use crate::db::{attachments as db, volumes as volume_db};
use crate::model::Attachment;

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/attachments", index)
        .post("/attachments", create)
        .get("/attachments/detail", detail)
        .get("/attachments/{id}", show)
        .put("/attachments/{id}", update)
        .delete("/attachments/{id}", delete)
        .post("/attachments/{id}/action", act)
}

const FILTERS: &[&str] = &["volume_id", "status", "instance_id", "attach_status"];
const COLUMNS: &[(&str, &str)] =
    &[("created_at", "a.created_at"), ("id", "a.id"), ("volume_id", "a.volume_id"), ("attach_status", "a.attach_status")];

fn view(a: &Attachment, whole: bool) -> Value {
    let mut view = json!({"id": a.id, "status": a.status, "instance": a.server_id, "volume_id": a.volume_id});
    if whole {
        view["attached_at"] = json!(a.attached_at.map(time).unwrap_or_default());
        view["detached_at"] = json!("");
        view["attach_mode"] = json!(a.mode);
        view["connection_info"] = json!(a.doc.connection_info);
    }
    view
}

impl Volumes {
    fn attachment_visible_in(&self, tx: &store::Tx, ctx: &base::Context, id: &str) -> Result<Attachment> {
        match db::attachment_fetch_in(tx, id)? {
            Some(a) if ctx.is_admin() || a.project_id == ctx.project_id() => Ok(a),
            _ => Err(db::not_found(id)),
        }
    }
}

async fn list(volumes: Volumes, req: Request, whole: bool) -> Result<Response> {
    since(&req, 27)?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(&req, max)?;
    wanted.check(&req, FILTERS)?;
    let order = wanted.order(COLUMNS, "a.id")?;
    let rows = volumes
        .core
        .store
        .read(|tx| {
            let mut select = Select::new(format!("SELECT {} FROM volume_attachment a", db::COLUMNS))
                .opt_eq("a.project_id", wanted.project(&req).map(str::to_string))
                .opt_eq("a.volume_id", wanted.filter("volume_id").map(str::to_string))
                .opt_eq("a.instance_uuid", wanted.filter("instance_id").map(str::to_string))
                .opt_eq("a.attach_status", wanted.filter("attach_status").or(wanted.filter("status")).map(str::to_string))
                .order(&order);
            if let Some(marker) = &wanted.page.marker {
                volumes.attachment_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume_attachment a WHERE a.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                select = select.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let limit = if wanted.page.limit == Some(0) { 0 } else { wanted.page.fetch_limit(max) };
            select.limit(limit).fetch(tx, db::read)
        })
        .await?;
    let mut body = json!({"attachments": rows.iter().map(|a| view(a, whole)).collect::<Vec<_>>()});
    if let (Some(last), Some(limit)) = (rows.last(), wanted.page.limit)
        && rows.len() as u64 == limit
    {
        body["attachments_links"] = next(&req, if whole { "attachments/detail" } else { "attachments" }, &last.id);
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
    since(&req, 27)?;
    let found = volumes.core.store.read(|tx| volumes.attachment_visible_in(tx, &req.ctx, req.param("id"))).await?;
    json(200, &json!({"attachment": view(&found, true)}))
}

fn connector(map: &serde_json::Map<String, Value>) -> Result<Option<Value>> {
    match map.get("connector") {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Object(c)) if !c.is_empty() => Ok(Some(value.clone())),
        Some(Value::Object(_)) => Ok(None),
        Some(other) => Err(wrong("connector", format!("{other} is not of type 'object'"))),
    }
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 27)?;
    let map = inner(&req, "attachment", &[])?;
    let known: &[&str] = &["instance_uuid", "connector", "volume_uuid", "mode"];
    only(&map, if at_least(&req, 54) { known } else { &known[..3] })?;
    let id = need("volume_uuid", body::uuid(&map, "volume_uuid")?)?;
    let mode = body::text(&map, "mode")?;
    if mode.as_deref().is_some_and(|m| !matches!(m, "rw" | "ro")) {
        return Err(wrong("mode", "It is not one of ['rw', 'ro']"));
    }
    let wish =
        AttachmentWish { server_id: body::uuid(&map, "instance_uuid")?, connector: connector(&map)?, mode, ..AttachmentWish::default() };
    let made = volumes
        .volume_change(&req.ctx, &id, "volume:attachment_create", move |this, tx, ctx, volume| {
            this.attachment_create_in(tx, ctx, volume, &wish)
        })
        .await?;
    json(200, &json!({"attachment": view(&made, true)}))
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 27)?;
    let map = inner(&req, "attachment", &[])?;
    only(&map, &["connector"])?;
    let connector = need("connector", connector(&map)?)?;
    let (this, ctx, id) = (volumes.clone(), req.ctx.clone(), req.param("id").to_string());
    let changed = volumes
        .core
        .store
        .write(move |tx| {
            let mut attachment = this.attachment_visible_in(tx, &ctx, &id)?;
            this.authorize("volume:attachment_update", &ctx, &attachment)?;
            let mut volume = volume_db::volume_get_in(tx, &attachment.volume_id)?;
            this.attachment_update_in(tx, &mut volume, &mut attachment, &connector)?;
            Ok(attachment)
        })
        .await?;
    json(200, &json!({"attachment": view(&changed, true)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 27)?;
    let (this, ctx, id) = (volumes.clone(), req.ctx.clone(), req.param("id").to_string());
    let left = volumes
        .core
        .store
        .write(move |tx| {
            let attachment = this.attachment_visible_in(tx, &ctx, &id)?;
            this.authorize("volume:attachment_delete", &ctx, &attachment)?;
            // What a server has stays with it, also on the shelf: who wants it detached asks compute.
            if matches!(attachment.status.as_str(), "attached" | "reserved") && this.server_has_in(tx, &attachment)? {
                return Err(Error::conflict(format!(
                    "ConflictNovaUsingAttachment: Detach volume from instance {} using the Compute API",
                    attachment.server_id.as_deref().unwrap_or_default()
                )));
            }
            this.attachment_delete_in(tx, &ctx, &attachment)
        })
        .await?;
    json(200, &json!({"attachments": left.iter().map(|a| view(a, false)).collect::<Vec<_>>()}))
}

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 44)?;
    let body = req.object()?;
    if !body.contains_key("os-complete") || body.len() != 1 {
        return Err(Error::invalid("There is no such action."));
    }
    let (this, ctx, id) = (volumes.clone(), req.ctx.clone(), req.param("id").to_string());
    volumes
        .core
        .store
        .write(move |tx| {
            let mut attachment = this.attachment_visible_in(tx, &ctx, &id)?;
            this.authorize("volume:attachment_complete", &ctx, &attachment)?;
            this.attachment_complete_in(tx, &ctx, &mut attachment)
        })
        .await?;
    empty(204)
}
