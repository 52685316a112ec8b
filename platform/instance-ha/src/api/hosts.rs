//! `/segments/{id}/hosts`.

use base::Result;
use compute::fields::{self, Fields};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};

use super::{complete, filtered, flag, listing, segments, time};
use crate::InstanceHa;
use crate::db::{Host, Listed, Segment};
use crate::hosts::{Change, host_get_in};
use crate::segments::segment_get_in;

const SORT: &[(&str, &str)] = &[
    ("id", "id"),
    ("uuid", "uuid"),
    ("name", "name"),
    ("type", "type"),
    ("control_attributes", "control_attributes"),
    ("reserved", "reserved"),
    ("on_maintenance", "on_maintenance"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
];

pub fn routes(routes: Routes<InstanceHa>) -> Routes<InstanceHa> {
    routes
        .get("/segments/{segment_id}/hosts", index)
        .post("/segments/{segment_id}/hosts", create)
        .get("/segments/{segment_id}/hosts/{id}", show)
        .put("/segments/{segment_id}/hosts/{id}", update)
        .delete("/segments/{segment_id}/hosts/{id}", delete)
}

fn view(host: &Host, segment: &Segment, version: Version) -> Value {
    json!({
        "id": host.id,
        "uuid": host.uuid,
        "name": host.name,
        "failover_segment_id": segment.uuid,
        "failover_segment": segments::view(segment, version),
        "type": host.kind,
        "reserved": host.reserved,
        "control_attributes": host.control_attributes,
        "on_maintenance": host.on_maintenance,
        "created_at": host.created_at.iso_micros(),
        "updated_at": time(host.updated_at),
        "deleted": false,
        "deleted_at": null,
    })
}

fn change(req: &Request, new: bool) -> Result<Change> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let change = root.need("host", |f| {
        let mut of = Fields::of(f)?;
        let kind = fields::nullable(fields::text_of(0, 255, |c| c.is_ascii_alphanumeric(), "letters and digits"));
        let change = Change {
            name: of.take("name", fields::name)?,
            kind: of.take("type", kind)?,
            control_attributes: of.take("control_attributes", fields::nullable(fields::text(0, 65_535)))?,
            reserved: of.take("reserved", fields::boolean)?,
            on_maintenance: of.take("on_maintenance", fields::boolean)?,
        };
        of.finish()?;
        let needed =
            [("name", change.name.is_some()), ("type", change.kind.is_some()), ("control_attributes", change.control_attributes.is_some())];
        let others = [("reserved", change.reserved.is_some()), ("on_maintenance", change.on_maintenance.is_some())];
        complete(&f, new, &needed, &others)?;
        Ok(change)
    })?;
    root.finish()?;
    Ok(change)
}

async fn index(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:os-hosts:index", &req.ctx)?;
    let segment = ha.core.store.read(|tx| segment_get_in(tx, req.param("segment_id"))).await?;
    let select = filtered(&req, Host::select().eq("segment_uuid", &segment.uuid), &["name", "type", "control_attributes"])
        .opt_eq("on_maintenance", flag(&req, "on_maintenance")?)
        .opt_eq("reserved", flag(&req, "reserved")?);
    let found: Vec<Host> = ha.list(listing(&req, select, SORT)?).await?;
    let views: Vec<Value> = found.iter().map(|host| view(host, &segment, req.version)).collect();
    json(200, &json!({ "hosts": views }))
}

async fn show(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:os-hosts:detail", &req.ctx)?;
    let (host, segment) = ha.core.store.read(|tx| host_get_in(tx, req.param("segment_id"), req.param("id"))).await?;
    json(200, &json!({"host": view(&host, &segment, req.version)}))
}

async fn create(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:os-hosts:create", &req.ctx)?;
    let (host, segment) = ha.host_create(req.param("segment_id"), change(&req, true)?).await?;
    json(201, &json!({"host": view(&host, &segment, req.version)}))
}

async fn update(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:os-hosts:update", &req.ctx)?;
    let (host, segment) = ha.host_update(req.param("segment_id"), req.param("id"), change(&req, false)?).await?;
    json(200, &json!({"host": view(&host, &segment, req.version)}))
}

async fn delete(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:os-hosts:delete", &req.ctx)?;
    ha.host_delete(req.param("segment_id"), req.param("id")).await?;
    empty(204)
}
