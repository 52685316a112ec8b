//! `/notifications/{id}/vmoves`.

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, json};
use serde_json::{Value, json};
use store::Tx;

use super::{filtered, listing, since, time};
use crate::InstanceHa;
use crate::db::{Listed, Move, Notification};
use crate::notifications::notification_get_in;

const SORT: &[(&str, &str)] = &[
    ("id", "id"),
    ("uuid", "uuid"),
    ("instance_uuid", "instance_uuid"),
    ("instance_name", "instance_name"),
    ("source_host", "source_host"),
    ("dest_host", "dest_host"),
    ("start_time", "start_time"),
    ("end_time", "end_time"),
    ("type", "type"),
    ("status", "status"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
];

pub fn routes(routes: Routes<InstanceHa>) -> Routes<InstanceHa> {
    routes.get("/notifications/{notification_id}/vmoves", index).get("/notifications/{notification_id}/vmoves/{id}", show)
}

fn view(vmove: &Move) -> Value {
    json!({
        "id": vmove.id,
        "uuid": vmove.uuid,
        "notification_uuid": vmove.notification_uuid,
        "instance_uuid": vmove.instance_uuid,
        "instance_name": vmove.instance_name,
        "source_host": vmove.source_host,
        "dest_host": vmove.dest_host,
        "start_time": time(vmove.start_time),
        "end_time": time(vmove.end_time),
        "type": vmove.kind,
        "status": vmove.status,
        "message": vmove.message,
        "created_at": vmove.created_at.iso_micros(),
        "updated_at": time(vmove.updated_at),
        "deleted": false,
        "deleted_at": null,
    })
}

/// Only notifications of hosts have moves.
fn of_host_in(tx: &Tx, uuid: &str) -> Result<Notification> {
    let notification = notification_get_in(tx, uuid)?;
    match notification.kind.as_str() {
        "COMPUTE_HOST" => Ok(notification),
        _ => Err(Error::invalid(format!("This notification {uuid} without vm moves."))),
    }
}

async fn index(ha: InstanceHa, req: Request) -> Result<Response> {
    since(&req, 3)?;
    ha.authorize("os_masakari_api:vmoves:index", &req.ctx)?;
    let notification = ha.core.store.read(|tx| of_host_in(tx, req.param("notification_id"))).await?;
    let select = filtered(&req, Move::select().eq("notification_uuid", &notification.uuid), &["status", "type"]);
    let found: Vec<Move> = ha.list(listing(&req, select, SORT)?).await?;
    json(200, &json!({"vmoves": found.iter().map(view).collect::<Vec<_>>()}))
}

async fn show(ha: InstanceHa, req: Request) -> Result<Response> {
    since(&req, 3)?;
    ha.authorize("os_masakari_api:vmoves:detail", &req.ctx)?;
    let id = req.param("id");
    let vmove = ha.core.store.read(|tx| {
        let notification = of_host_in(tx, req.param("notification_id"))?;
        let found = Move::fetch_in(tx, id)?.filter(|vmove| vmove.notification_uuid == notification.uuid);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("No vm move with id {id}.")))
    });
    json(200, &json!({"vmove": view(&vmove.await?)}))
}
