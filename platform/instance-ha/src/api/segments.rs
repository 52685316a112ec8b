//! `/segments`.

use base::Result;
use compute::fields::{self, Fields};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};

use super::{complete, filtered, flag, listing, time};
use crate::InstanceHa;
use crate::db::{Listed, Segment};
use crate::segments::{Change, METHODS, segment_get_in};

const WITH_ENABLED: Version = Version::new(1, 2);
const SORT: &[(&str, &str)] = &[
    ("id", "id"),
    ("uuid", "uuid"),
    ("name", "name"),
    ("description", "description"),
    ("recovery_method", "recovery_method"),
    ("service_type", "service_type"),
    ("enabled", "enabled"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
];

pub fn routes(routes: Routes<InstanceHa>) -> Routes<InstanceHa> {
    routes
        .get("/segments", index)
        .post("/segments", create)
        .get("/segments/{segment_id}", show)
        .put("/segments/{segment_id}", update)
        .delete("/segments/{segment_id}", delete)
}

pub fn view(segment: &Segment, version: Version) -> Value {
    let mut view = json!({
        "id": segment.id,
        "uuid": segment.uuid,
        "name": segment.name,
        "description": segment.description,
        "recovery_method": segment.recovery_method,
        "service_type": segment.service_type,
        "created_at": segment.created_at.iso_micros(),
        "updated_at": time(segment.updated_at),
        "deleted": false,
        "deleted_at": null,
    });
    if version >= WITH_ENABLED {
        view["enabled"] = json!(segment.enabled);
    }
    view
}

/// The body of a request. `new`: what a segment cannot be without must be there.
fn change(req: &Request, new: bool) -> Result<Change> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let change = root.need("segment", |f| {
        let mut of = Fields::of(f)?;
        let method = |f: fields::Field| fields::one_of(METHODS)(f).map(str::to_string);
        let change = Change {
            name: of.take("name", fields::name)?,
            description: of.take("description", fields::nullable(fields::text(0, 65_535)))?,
            recovery_method: of.take("recovery_method", method)?,
            service_type: of.take("service_type", fields::name)?,
            enabled: of.take_if(req.version >= WITH_ENABLED, "enabled", fields::boolean)?,
        };
        of.finish()?;
        let needed = [
            ("name", change.name.is_some()),
            ("recovery_method", change.recovery_method.is_some()),
            ("service_type", change.service_type.is_some()),
        ];
        let others = [("description", change.description.is_some()), ("enabled", change.enabled.is_some())];
        complete(&f, new, &needed, &others)?;
        Ok(change)
    })?;
    root.finish()?;
    Ok(change)
}

async fn index(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:segments:index", &req.ctx)?;
    let select = filtered(&req, Segment::select(), &["recovery_method", "service_type"]).opt_eq("enabled", flag(&req, "enabled")?);
    let found: Vec<Segment> = ha.list(listing(&req, select, SORT)?).await?;
    let views: Vec<Value> = found.iter().map(|segment| view(segment, req.version)).collect();
    json(200, &json!({ "segments": views }))
}

async fn show(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:segments:detail", &req.ctx)?;
    let segment = ha.core.store.read(|tx| segment_get_in(tx, req.param("segment_id"))).await?;
    json(200, &json!({"segment": view(&segment, req.version)}))
}

async fn create(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:segments:create", &req.ctx)?;
    let segment = ha.segment_create(change(&req, true)?).await?;
    json(201, &json!({"segment": view(&segment, req.version)}))
}

async fn update(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:segments:update", &req.ctx)?;
    let segment = ha.segment_update(req.param("segment_id"), change(&req, false)?).await?;
    json(200, &json!({"segment": view(&segment, req.version)}))
}

async fn delete(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:segments:delete", &req.ctx)?;
    ha.segment_delete(req.param("segment_id")).await?;
    empty(204)
}
