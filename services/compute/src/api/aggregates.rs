//! `/os-aggregates` (compute API reference, "Host aggregates").

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};

use super::servers::no_query;
use crate::Compute;
use crate::aggregates::{AggregateUpdate, MetadataChange};
use crate::db::aggregates::Aggregate;
use crate::fields::{self, Field, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-aggregates", index)
        .post("/os-aggregates", create)
        .get("/os-aggregates/{id}", show)
        .put("/os-aggregates/{id}", update)
        .delete("/os-aggregates/{id}", delete)
        .post("/os-aggregates/{id}/action", action)
        .post("/os-aggregates/{id}/images", images)
}

const WITH_UUID: Version = Version::new(2, 41);
const WITH_IMAGES: Version = Version::new(2, 81);

fn view(aggregate: &Aggregate, version: Version) -> Value {
    let mut view = json!({
        "id": aggregate.number,
        "name": aggregate.name,
        "availability_zone": aggregate.zone(),
        "hosts": aggregate.hosts,
        "metadata": aggregate.metadata,
        "created_at": aggregate.created_at.iso_micros(),
        "updated_at": aggregate.updated_at.map(|at| at.iso_micros()),
        "deleted": false,
        "deleted_at": Value::Null,
    });
    if version >= WITH_UUID {
        view["uuid"] = json!(aggregate.id);
    }
    view
}

fn answer(aggregate: &Aggregate, req: &Request) -> Result<Response> {
    json(200, &json!({"aggregate": view(aggregate, req.version)}))
}

/// The number in the path.
fn number(req: &Request) -> Result<i64> {
    let id = req.param("id");
    let digits = id.strip_prefix('-').unwrap_or(id);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid("id must be an integer"));
    }
    // No aggregate has a number that is too large to be one.
    id.parse().map_err(|_| Error::new(Kind::NotFound, format!("Aggregate {id} could not be found.")))
}

fn zone(f: Field) -> Result<Option<String>> {
    fields::nullable(|f| {
        let zone = fields::name(f)?;
        if zone.contains(':') { Err(f.wrong("printable characters except :. Can not start or end with whitespace.")) } else { Ok(zone) }
    })(f)
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-aggregates:index", &req.ctx, &())?;
    no_query(&req)?;
    let views: Vec<Value> = compute.aggregate_list().await?.iter().map(|a| view(a, req.version)).collect();
    json(200, &json!({ "aggregates": views }))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-aggregates:show", &req.ctx, &())?;
    no_query(&req)?;
    answer(&compute.aggregate_show(number(&req)?).await?, &req)
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-aggregates:create", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let (name, zone) = root.need("aggregate", |f| {
        let mut of = Fields::of(f)?;
        let name = of.need("name", fields::name)?;
        let zone = of.take("availability_zone", zone)?.flatten();
        of.finish()?;
        Ok((name, zone))
    })?;
    root.finish()?;
    let aggregate = compute.aggregate_create(&req.ctx, name, zone).await?;
    let mut view = view(&aggregate, req.version);
    if let Some(view) = view.as_object_mut() {
        view.remove("hosts");
        view.remove("metadata");
    }
    json(200, &json!({ "aggregate": view }))
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-aggregates:update", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let update = root.need("aggregate", |f| {
        let mut of = Fields::of(f)?;
        let name = of.take("name", spacious_name)?;
        let zone = of.take("availability_zone", zone)?;
        of.finish()?;
        if name.is_none() && zone.is_none() {
            return Err(f.wrong("one of 'name', 'availability_zone' is a required property"));
        }
        Ok(AggregateUpdate { name, zone })
    })?;
    root.finish()?;
    answer(&compute.aggregate_update(&req.ctx, number(&req)?, update).await?, &req)
}

/// A name that may have spaces around it, which are dropped.
fn spacious_name(f: Field) -> Result<String> {
    let text = fields::text(1, 255)(f)?;
    let name = text.trim();
    if name.is_empty() || !name.chars().all(fields::printable) {
        return Err(f.wrong("printable characters with at least one non space character"));
    }
    Ok(name.to_string())
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-aggregates:delete", &req.ctx, &())?;
    compute.aggregate_delete(&req.ctx, number(&req)?).await?;
    empty(200)
}

async fn action(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let (name, rule) = match body.keys().next().map(String::as_str) {
        Some("add_host") if body.len() == 1 => ("add_host", "os_compute_api:os-aggregates:add_host"),
        Some("remove_host") if body.len() == 1 => ("remove_host", "os_compute_api:os-aggregates:remove_host"),
        Some("set_metadata") if body.len() == 1 => ("set_metadata", "os_compute_api:os-aggregates:set_metadata"),
        other => return Err(Error::invalid(format!("There is no such action: {}", other.unwrap_or_default()))),
    };
    compute.authorize(rule, &req.ctx, &())?;
    let mut root = Fields::root(&body, req.version);
    let ctx = &req.ctx;
    let aggregate = if name == "set_metadata" {
        let change = root.need(name, |f| {
            let mut of = Fields::of(f)?;
            let change = of.need("metadata", metadata_change)?;
            of.finish()?;
            Ok(change)
        })?;
        compute.aggregate_metadata_update(ctx, number(&req)?, change).await?
    } else {
        let host = root.need(name, |f| {
            let mut of = Fields::of(f)?;
            let host = of.need("host", fields::fqdn)?;
            of.finish()?;
            Ok(host)
        })?;
        match name {
            "add_host" => compute.aggregate_host_add(ctx, number(&req)?, host).await?,
            _ => compute.aggregate_host_remove(ctx, number(&req)?, host).await?,
        }
    };
    answer(&aggregate, &req)
}

/// Short texts, or null, under short names.
fn metadata_change(f: Field) -> Result<MetadataChange> {
    let map = f.value.as_object().ok_or_else(|| f.wrong(format!("{} is not of type 'object'", f.value)))?;
    let mut change = MetadataChange::new();
    for (key, value) in map {
        if !fields::is_metadata_key(key) {
            return Err(f.wrong(format!("Additional properties are not allowed ('{key}' was unexpected)")));
        }
        let at = format!("{}.{key}", f.at);
        change.insert(key.clone(), fields::nullable(fields::text(0, 255))(Field { at: &at, value, ..f })?);
    }
    Ok(change)
}

async fn images(compute: Compute, req: Request) -> Result<Response> {
    if req.version < WITH_IMAGES {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    compute.authorize("compute:aggregates:images", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let images = root.need("cache", |f| {
        let ids = fields::list(1000, |f| {
            let mut of = Fields::of(f)?;
            let id = of.need("id", fields::uuid)?;
            of.finish()?;
            Ok(id)
        })(f)?;
        if ids.is_empty() { Err(f.wrong("[] is too short")) } else { Ok(ids) }
    })?;
    root.finish()?;
    let number = number(&req)?;
    let mut seen = std::collections::HashSet::new();
    if !images.iter().all(|id| seen.insert(id)) {
        return Err(Error::invalid("Duplicate images in request"));
    }
    compute.aggregate_images_cache(&req.ctx, number, images).await?;
    empty(202)
}
