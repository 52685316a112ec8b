//! `/messages`, since 3.3.

use base::Result;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};
use store::Select;

use super::list::{Wanted, links, next};
use super::{at_least, since, time};
use crate::db::messages::{self as db, Message};
use crate::{Volumes, messages};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes.get("/messages", index).get("/messages/{id}", show).delete("/messages/{id}", delete)
}

const COLUMNS: &[(&str, &str)] = &[
    ("created_at", "m.created_at"),
    ("id", "m.id"),
    ("event_id", "m.event_id"),
    ("message_level", "m.message_level"),
    ("request_id", "m.request_id"),
    ("resource_type", "m.resource_type"),
    ("resource_uuid", "m.resource_uuid"),
];
const FILTERS: &[&str] = &["resource_uuid", "resource_type", "event_id", "request_id", "message_level"];

fn view(req: &Request, m: &Message) -> Value {
    json!({
        "id": m.id,
        "event_id": m.event_id,
        "user_message": messages::text(m),
        "message_level": m.level,
        "created_at": time(m.created_at),
        "guaranteed_until": time(m.expires_at),
        "request_id": m.request_id,
        "resource_type": m.resource_type,
        "resource_uuid": m.resource_uuid,
        "links": links(req, &format!("messages/{}", m.id)),
    })
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 3)?;
    volumes.authorize("message:get_all", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let max = volumes.core.config.int("api.max_limit");
    let mut wanted = Wanted::read(&req, max)?;
    wanted.check(&req, FILTERS)?;
    // Before 3.5 the list was whole and in no order of the caller's.
    if !at_least(&req, 5) {
        wanted.page.sort.clear();
        (wanted.page.marker, wanted.page.limit, wanted.offset) = (None, None, 0);
        wanted.filters.clear();
    }
    let order = wanted.order(COLUMNS, "m.id")?;
    let found = volumes
        .core
        .store
        .read(|tx| {
            let mut rows = Select::new(format!("SELECT {} FROM volume_message m", db::COLUMNS))
                .opt_eq("m.project_id", wanted.project(&req).map(str::to_string))
                .order(&order);
            for (name, value) in &wanted.filters {
                if let Some((_, column)) = COLUMNS.iter().find(|(known, _)| known == name && FILTERS.contains(known)) {
                    rows = rows.eq(column, value.as_str());
                }
            }
            if let Some(marker) = &wanted.page.marker {
                volumes.message_visible_in(tx, &req.ctx, marker)?;
                let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
                let sql = format!("SELECT {} FROM volume_message m WHERE m.id = ?1", columns.join(", "));
                let values = |r: &store::Row| (0..columns.len()).map(|i| r.value(i)).collect::<Result<Vec<_>>>();
                rows = rows.after(tx.query_one(&sql, &[marker.as_str().into()], values)?);
            }
            let mut all = rows.limit(wanted.page.fetch_limit(max) + wanted.offset).fetch(tx, db::read)?;
            let skipped = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len());
            all.drain(..skipped);
            Ok(all)
        })
        .await?;
    let mut body = json!({"messages": found.iter().map(|m| view(&req, m)).collect::<Vec<_>>()});
    if let (Some(last), Some(limit)) = (found.last(), wanted.page.limit)
        && found.len() as u64 == limit
    {
        body["messages_links"] = next(&req, "messages", &last.id);
    }
    json(200, &body)
}

/// The message of the path, if the caller may use `rule`.
async fn found(volumes: &Volumes, req: &Request, rule: &str) -> Result<Message> {
    since(req, 3)?;
    let message = volumes.core.store.read(|tx| volumes.message_visible_in(tx, &req.ctx, req.param("id"))).await?;
    volumes.authorize(rule, &req.ctx, &[("project_id", message.project_id.as_str())])?;
    Ok(message)
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    let message = found(&volumes, &req, "message:get").await?;
    json(200, &json!({"message": view(&req, &message)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    let message = found(&volumes, &req, "message:delete").await?;
    volumes.core.store.write(move |tx| db::message_delete_in(tx, &message.id).map(drop)).await?;
    empty(204)
}
